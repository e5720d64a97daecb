"""Show the method's own figures of the best trials, drawn from stored arrays as for MLflow."""

import io
from typing import TYPE_CHECKING

from orchestrator.config.trial import apply
from orchestrator.reporting.html._sweep_view import SweepView
from orchestrator.reporting.html.page import Picture
from orchestrator.store.checkpoint_storage import LIGHT, checkpoint_storage
from orchestrator.store.records import Trial
from orchestrator.store.store import Store

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TRIALS = 4  # number of methods whose best trial is shown
BROAD = 8.0  # inches from which a picture has the whole width
LARGEST = 300_000  # bytes of an SVG; a larger one becomes PNG
CAPTIONS = {
    "terms": "the loss terms during training, and the weight alpha between them if the method has "
    "one",
    "agreement": "share of validation samples for which all students predict the same class",
    "alpha_per_sample": "distribution over the samples of alpha, the weight of the teacher against "
    "the labels, in each epoch",
    "uncertainty": "distribution of the teacher's uncertainty over the samples in the last epoch",
    "weights": "distribution of the weights of the training samples in each epoch",
    "influence": "the most harmful and the most helpful training samples",
    "retrieved": "retrieved neighbours of a few training samples",
    "class_accuracy": "validation accuracy of each class, after the last epoch and over the epochs",
    "class_weights": "mean weight of each class in the teacher's distribution, by true class",
    "distributions": "predicted class distributions for a few validation samples",
}


def pictures(store: Store, view: SweepView) -> list[tuple[str, list[Picture] | str]]:
    """Return the name of the best trial of each method with its figures, or why it has none."""
    shown = [
        (view.label(trial), _figures_of_trial(store, view, trial))
        for trial in view.best_of_methods()[:TRIALS]
    ]
    return [(label, figures) for label, figures in shown if figures]


def _figures_of_trial(store: Store, view: SweepView, trial: Trial) -> list[Picture] | str:
    from orchestrator.reporting.figures.trial import trial_figures

    folder, figures = view.sweep.trial_folder(trial.number), []
    try:
        checkpoint_storage(store, folder).download(LIGHT)
    except OSError as error:
        return (
            f"The figures of {view.label(trial)} could not be fetched "
            f"({' '.join(str(error).split())[:300]})."
        )
    students = apply(view.sweep.configuration, trial.settings).students
    for letter in students:
        prefix = f"student {letter}: " if len(students) > 1 else ""
        for name, drawn in trial_figures(folder, trial.state == "complete", view.classes, letter):
            kind, content = _file(drawn, f"{trial.number}-{letter}-{name}")
            title = f"{prefix}{name.replace('_', ' ')}"
            caption = f"{view.label(trial)}: {CAPTIONS.get(name, title)}."
            figures.append(Picture(kind, content, title, caption, drawn.get_figwidth() > BROAD))
    return figures


def _file(drawn: "Figure", salt: str) -> tuple[str, bytes]:
    """Return the figure as one image file: SVG with text as text, or PNG if the SVG is large."""
    import matplotlib

    from orchestrator.reporting.figures.trial import picture

    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": salt}):
        drawn.savefig(buffer, format="svg", metadata={"Date": None})
    small = len(buffer.getvalue()) <= LARGEST
    return ("image/svg+xml", buffer.getvalue()) if small else ("image/png", picture(drawn))
