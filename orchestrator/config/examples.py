"""Find the example configurations of the project by their names."""

import os
from pathlib import Path

from orchestrator.core.project import ROOT

FOLDER = ROOT / "configs"
CLUSTER = "cluster/"  # files for other programs
DEFAULT = FOLDER / "digits.yaml"


def list_examples() -> dict[str, Path]:
    """Return the files by their names, `digits` or `cluster/static`; experiments come first."""
    files = [*sorted(FOLDER.glob("*.yaml")), *sorted(FOLDER.glob("*/*.yaml"))]
    return {file.relative_to(FOLDER).with_suffix("").as_posix(): file for file in files}


def find_configuration(file: Path) -> Path:
    """Return a file if it exists, else the example experiment of that name.

    `digits`, `digits.yaml` and `configs/digits.yaml` name the same example. A name that is
    neither, and that of a cluster file, is returned as it is.
    """
    if os.path.exists(file) and not os.path.isdir(file):
        return file
    name = file.as_posix().removeprefix(f"{FOLDER.name}/").removesuffix(".yaml")
    return file if name.startswith(CLUSTER) else list_examples().get(name, file)


def summarize_example(file: Path) -> str:
    """Return the first sentence of the comment at the top of an example, after its command."""
    words = []
    for line in file.read_text(encoding="utf-8").splitlines()[1:]:
        if not line.startswith("#"):
            break
        words += line.removeprefix("#").split()
    sentence, _, _ = " ".join(words).partition(". ")
    return sentence.removesuffix(".")
