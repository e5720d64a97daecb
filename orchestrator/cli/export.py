"""Export one student of a run."""

from pathlib import Path

from orchestrator.cli._names import require_sweep
from orchestrator.cli._run import console
from orchestrator.core import errors
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store


def export(
    name: str,
    student: str | None,
    trial: int | None,
    weights: str,
    to: Path | None,
    store: Path | str,
    form: str = "safetensors",
) -> int:
    """Export one student of a run to a self-contained folder; return the exit code.

    The folder needs neither the run nor its data.

    Args:
        name: Name of the run.
        student: Letter of the student; None for `a`.
        trial: Number of the trial; None for the best one.
        weights: "best" (on the validation part) or "last".
        to: Target folder; None for the default folder.
        store: Folder or URI of the store.
        form: "safetensors", "torchexport" or "onnx".
    """
    from orchestrator.export.export import export as write
    from orchestrator.reporting.terminal.progress import show_damage

    opened = Store.existing(store)
    require_sweep(opened, name, "export")
    exported = write(opened, name, student or "a", trial, weights, to, form)
    show_damage(Sweep.open(opened, name), opened.option)
    network, source = exported.settings.network.name, exported.settings.source
    print_line(
        console,
        f"student {source.student} ({network}) of trial {source.trial}, {weights} weights, "
        f"after epoch {source.epoch}: {exported.folder}",
    )
    for key, value in source.metrics.items():
        if key.endswith("/accuracy"):
            console.print(f"  {key} {value:.4f}", highlight=False)
    if exported.peers and student is None:
        letters = " or ".join(f"--student {letter}" for letter in exported.peers)
        console.print(f"to export another student of this trial: {letters}", highlight=False)
    return errors.OK
