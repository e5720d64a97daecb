"""Log the best student of a sweep as an MLflow model, and register it as a version, alias `best`.

Earlier models are found by their tags. So the same student is never registered twice, even if a
process died in between.
"""

import contextlib
import importlib
import importlib.metadata
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from orchestrator.core.errors import UserError
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.tracking._client import status_of
from orchestrator.tracking._description import DIGEST, LONGEST, NOTE

if TYPE_CHECKING:
    from orchestrator.export.settings import ExportSettings

KINDS = ("sweep",)  # kinds of runs that register a model; a single training (`train`) does not
ALIAS = "best"
CODE = Path(__file__).with_name("_pyfunc_model.py")
MODEL = "student"  # name of the logged model in its run
EXAMPLES = 2  # images of the input example
METRICS = ("accuracy", "nll", "ece")  # metrics of the student on the model's page
VERSIONS = "mlflow.modelVersions"  # tag from which a logged model's page reads its versions
PACKAGES = ("mlflow", "numpy", "torch")
Tags = dict[str, str]
# Exports a student, given by trial and letter, into a folder as a program; returns its settings
ExportProgram = Callable[[int, str, Path], "ExportSettings"]


def model_name(sweep: Sweep) -> str:
    """Return the name of the registered model: PROJECT-SWEEP.

    MLflow refuses `/` and `:`, so they become `-`.
    """
    return f"{sweep.configuration.project}-{sweep.name}".replace("/", "-").replace(":", "-")


def import_compiler() -> None:
    """Import what the export of a student needs, torch's compiler, which takes two seconds."""
    with contextlib.suppress(ImportError):  # the export imports what it needs in any case
        importlib.import_module("torch.export.pt2_archive._package")


def register(
    client: Any,
    store: Store,
    sweep: Sweep,
    export_program: ExportProgram,
    run: str,
    experiment: str,
    trial: int,
    letter: str,
    tags: Tags,
) -> dict[str, str]:
    """Log the student `letter` of a trial as a model and register it.

    A student without stored weights cannot be exported. This is reported in the tags, not raised.

    Args:
        client: The MLflow client.
        store: The store of the sweep.
        sweep: The sweep.
        export_program: Exports a student.
        run: The id of the run that gets the model.
        experiment: The id of the experiment.
        trial: The number of the trial.
        letter: The letter of the student.
        tags: The tags that identify the owner and the student.

    Returns:
        The tags for the run: model name and version, or why there is no model.
    """
    name = model_name(sweep)
    version = _registered(client, name, tags)
    if version is None:
        with tempfile.TemporaryDirectory() as folder:
            try:
                model = _logged(client, experiment, tags) or _log(
                    client,
                    store,
                    export_program,
                    run,
                    experiment,
                    trial,
                    letter,
                    tags,
                    Path(folder),
                )
            except UserError as error:
                return {"model.missing": str(error)}
        version = _version(client, name, sweep, run, model, tags)
    client.set_registered_model_alias(name, ALIAS, version)
    return {"model.name": name, "model.version": str(version)}


def _registered(client: Any, name: str, tags: Tags) -> str | None:
    """Return the version that is exactly this student, if there is one."""
    versions = client.search_model_versions(f"name = '{_quoted(name)}'")
    return next(
        (str(version.version) for version in versions if tags.items() <= version.tags.items()), None
    )


def _logged(client: Any, experiment: str, tags: Tags) -> Any:
    """Return a complete logged model that was not registered because its process died."""
    wanted = " and ".join(f"tags.`{name}` = '{_quoted(value)}'" for name, value in tags.items())
    models = client.search_logged_models([experiment], filter_string=wanted)
    return next((model for model in models if str(model.status).endswith("READY")), None)


def _log(
    client: Any,
    store: Store,
    export_program: ExportProgram,
    run: str,
    experiment: str,
    trial: int,
    letter: str,
    tags: Tags,
    folder: Path,
) -> Any:
    """Export the student and log it as a model of the run."""
    from mlflow.entities import LoggedModelOutput, Metric

    from orchestrator.export.formats import CARD

    exported = folder / "export"
    settings = export_program(trial, letter, exported)
    source = settings.source
    params = {name: str(value)[:500] for name, value in settings.searched.items()}
    params |= {
        "network": settings.network.name,
        "parameters": str(settings.parameters),
        "epoch": str(source.epoch),
    }
    card = (exported / CARD).read_text(encoding="utf-8").split("---\n\n", 1)[-1]
    note = {NOTE: card[: card.rindex("\n", 0, LONGEST)]}
    model = client.create_logged_model(
        experiment,
        name=MODEL,
        source_run_id=run,
        tags=tags | note,
        params=params,
        model_type="image-classifier",
    )
    _save(store, exported, settings, folder / "model", model, run)
    client.log_model_artifacts(model.model_id, str(folder / "model"))
    client.finalize_logged_model(model.model_id, "READY")
    client.log_outputs(run, [LoggedModelOutput(model.model_id, step=0)])
    timestamp = model.creation_timestamp
    shown = {
        name: value for name, value in source.metrics.items() if name.rpartition("/")[2] in METRICS
    }
    data = {
        "dataset_name": settings.data.name,
        "dataset_digest": settings.data.fingerprint[:DIGEST],
    }
    metrics = [
        Metric(f"student/{name}", value, timestamp, 0, model_id=model.model_id, **data)
        for name, value in shown.items()
    ]
    client.log_batch(run, metrics=metrics)
    return model


def _save(
    store: Store, exported: Path, settings: "ExportSettings", target: Path, model: Any, run: str
) -> None:
    """Write the folder that MLflow loads: code, program, settings, card, signature and example."""
    import numpy as np
    from mlflow import pyfunc
    from mlflow.models import Model, ModelSignature
    from mlflow.types import Schema, TensorSpec

    from orchestrator.export.formats import CARD, SETTINGS

    shape, float32 = settings.input.shape, np.dtype("float32")
    signature = ModelSignature(
        inputs=Schema([TensorSpec(float32, (-1, *shape))]),
        outputs=Schema([TensorSpec(float32, (-1, len(settings.classes)))]),
    )
    named = {
        "artifact_path": model.artifact_location,
        "model_uuid": model.model_id,
        "run_id": run,
        "model_id": model.model_id,
    }
    files = {"program": settings.file, "settings": SETTINGS, "card": CARD}
    described = settings.model_dump(mode="json", include={"name", "classes", "input", "network"})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pyfunc.save_model(
            path=str(target),
            python_model=str(CODE),
            artifacts={name: str(exported / file) for name, file in files.items()},
            signature=signature,
            input_example=_example(store, settings),
            pip_requirements=[
                f"{package}=={importlib.metadata.version(package)}" for package in PACKAGES
            ],
            metadata=described,
            mlflow_model=Model(**named),
        )


def _example(store: Store, settings: "ExportSettings") -> Any:
    """Return images (2, C, H, W) float32 in 0..1.

    They are from the validation part if the store has it, else zeros.
    """
    import numpy as np

    from orchestrator.data.dataset import Dataset
    from orchestrator.export.check import pictures

    folder = store.root / "data" / settings.data.fingerprint
    with contextlib.suppress(UserError):
        if (folder / "data.json").exists():
            return pictures(Dataset.open(folder), EXAMPLES).contiguous().numpy()
    return np.zeros((EXAMPLES, *settings.input.shape), np.float32)


def _version(client: Any, name: str, sweep: Sweep, run: str, model: Any, tags: Tags) -> str:
    """Create a version of the registered model. Create the registered model if there is none."""
    try:
        client.create_registered_model(
            name,
            description=f"The best students of the sweep `{sweep.name}`; the alias `{ALIAS}` is "
            f"the newest.",
        )
    except Exception as error:
        if status_of(error) != 400:  # it exists already, or its name is not allowed
            raise
        client.get_registered_model(name)
    description = (
        f"The student `{tags['student']}` of trial {tags['trial']} ({tags['method']}). It "
        f"takes images in 0..1 and returns logits."
    )
    version = client.create_model_version(
        name,
        model.artifact_location,
        run,
        tags=tags,
        description=description,
        await_creation_for=0,
        model_id=model.model_id,
    )
    client.set_logged_model_tags(
        model.model_id, {VERSIONS: json.dumps([{"name": name, "version": version.version}])}
    )
    return str(version.version)


def _quoted(text: str) -> str:
    return text.replace("'", "''")
