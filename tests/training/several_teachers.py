"""Build trials with several untrained teachers of different scales."""

from pathlib import Path

from trials_run import add_teacher, specification

from orchestrator.config.trial import TrialSpec

SMALL = (
    "training.epochs=3",
    "training.batch_size=32",
    "data.limit.train=256",
    "data.limit.validation=61",
    "data.limit.test=60",
    "data.augmentation=crop",
    "data.views=2",
    "student.name=mlp",
    "student.width=8",
    "method.name=kd",
)
SCALES = (1.0, 4.0)  # of the heads


def single(root: Path, name: str, teacher: int = 0, *pairs: str) -> TrialSpec:
    """Return a trial with one of the teachers, which is written first."""
    spec = specification(root, name, *SMALL, "teacher.network.width=24", *pairs)
    spec = spec.model_copy(update={"teacher": root / f"teacher-{teacher}"})
    add_teacher(spec, SCALES[teacher])
    return spec


def several(root: Path, name: str, *pairs: str, modes: str = "auto") -> TrialSpec:
    """Return a trial with both teachers, which `single` has written."""
    section = "network: {{name: mlp, width: 24}}, dtype: float32, seed: {}, mode: {}"
    teachers = ", ".join(f"{{{section.format(number, modes)}}}" for number in range(2))
    spec = specification(root, name, *SMALL, "teacher=null", f"teachers=[{teachers}]", *pairs)
    folders = tuple(root / f"teacher-{number}" for number in range(2))
    return spec.model_copy(update={"teacher": None, "teachers": folders})
