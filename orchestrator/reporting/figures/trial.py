"""Draw the figures of a trial from the arrays in its checkpoint folder.

The driver's writer calls this; workers do not import it. With a warm font cache a trial costs 0.08
s (`terms` alone) to 1.1 s (eight figures) of one core. `retrieved` adds 0.2 s with small grey
images, and up to 0.8 s with large ones. The import costs 0.5 s once.
"""

import io
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from orchestrator.config.schema import LETTERS
from orchestrator.config.trial import CHECKPOINT, student_folder
from orchestrator.reporting.figures._classes import class_accuracy, class_weights, distributions
from orchestrator.reporting.figures._epochs import (
    agreement,
    alpha_per_sample,
    terms,
    uncertainty,
    weights,
)
from orchestrator.reporting.figures._figure import SKY, VERMILLION, Array, create_axis
from orchestrator.reporting.figures._samples import influence, retrieved
from orchestrator.store.checkpoint_storage import FIGURE_DATA

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Drawn = TypeVar("Drawn")
AGREEMENT = "agreement"  # of all students of a trial, stored with student a
TRACE, SHOWN = (f"{name}.safetensors" for name in FIGURE_DATA)
log = logging.getLogger(__name__)


def trial_figures(
    folder: Path, complete: bool, classes: Sequence[str] = (), letter: str = LETTERS[0]
) -> Iterator[tuple[str, "Figure"]]:
    """Yield name and figure of all that can be drawn for a student of a trial.

    A trial that is not complete gives `terms` only. Figures of all students together belong to
    student a. A file that is missing, damaged or unexpected gives no figure and a line in the debug
    log.

    Args:
        folder: The folder of the trial.
        complete: Whether the trial is complete.
        classes: The names of the classes.
        letter: The letter of the student.
    """
    trace = _read(folder, Path(student_folder(letter), TRACE))
    figure = _attempt(folder, "terms", lambda: terms(_below(trace, "steps/")))
    if figure:
        yield "terms", figure
    if not complete:
        return
    shown = _read(folder, Path(student_folder(letter), SHOWN))
    epochs = _below(trace, "epochs/")

    def deferred(
        arrays: Mapping[str, Array], name: str, draw: "Callable[[Array], Figure | None]"
    ) -> "Callable[[], Figure | None]":
        return lambda: draw(arrays[name]) if name in arrays else None

    noisy, clean = epochs.get("weight_noisy"), epochs.get("weight_clean")
    draws: dict[str, Callable[[], Figure | None]] = {
        AGREEMENT: deferred(epochs if letter == LETTERS[0] else {}, "pair/agreement", agreement),
        "alpha_per_sample": deferred(epochs, "alpha_histogram", alpha_per_sample),
        "uncertainty": deferred(epochs, "uncertainty_histogram", uncertainty),
        "weights": deferred(
            epochs, "weight_histogram", lambda histogram: weights(histogram, noisy, clean)
        ),
        "influence": lambda: influence(shown, classes),
        "retrieved": lambda: retrieved(shown, classes),
        "class_accuracy": deferred(
            epochs, "class_accuracy", lambda accuracy: class_accuracy(accuracy, classes)
        ),
        "class_weights": deferred(
            shown, "class_weights", lambda means: class_weights(means, classes)
        ),
        "distributions": lambda: distributions(shown, classes),
    }
    for name, draw in draws.items():
        figure = _attempt(folder, name, draw)
        if figure:
            yield name, figure


def pictures(
    folder: Path, complete: bool, classes: Sequence[str] = (), letter: str = LETTERS[0]
) -> dict[str, bytes]:
    """Return the figures of a trial as PNG files by name; see `trial_figures`."""
    files = {
        name: _attempt(folder, name, partial(picture, figure))
        for name, figure in trial_figures(folder, complete, classes, letter)
    }
    return {name: content for name, content in files.items() if content}


def _attempt(folder: Path, name: str, draw: Callable[[], Drawn | None]) -> Drawn | None:
    try:
        return draw()
    except Exception as error:  # a figure must not fail a run, whatever the file contains
        log.debug("%s: no figure %s: %r", folder, name, error)
        return None


def picture(figure: "Figure") -> bytes:
    """Return a figure as PNG with 128 colours, a quarter of the size of a full-colour PNG.

    A figure with colour images gets 256 colours.
    """
    from PIL import Image

    figure.canvas.draw()
    pixels = np.asarray(figure.canvas.buffer_rgba())  # type: ignore[attr-defined]
    colourful = any(
        np.asarray(image.get_array()).ndim == 3 for axis in figure.axes for image in axis.images
    )
    number, by = (256, Image.Quantize.MEDIANCUT) if colourful else (128, Image.Quantize.FASTOCTREE)
    image = Image.fromarray(pixels[..., :3]).quantize(number, by)
    colours, ground = image.getpalette() or [], int(pixels[0, 0, 0])
    corner = int(np.asarray(image)[0, 0])
    colours[3 * corner : 3 * corner + 3] = [ground] * 3  # quantizing turns white into light grey
    image.putpalette(colours)
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    return buffer.getvalue()


def set_font_cache(fallback: Path) -> None:
    """Set a folder for matplotlib's font cache if the home folder is not writable.

    Otherwise the list of fonts would be rebuilt every time.
    """
    home = Path(os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"))
    while not home.exists() and home != home.parent:
        home = home.parent
    if not os.access(home, os.W_OK):
        os.environ.setdefault("MPLCONFIGDIR", str(fallback))
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def pareto_front(
    points: Mapping[int, Sequence[float]], front: Sequence[int], names: Sequence[str]
) -> "Figure":
    """Draw trials at the first two of their values.

    Trials of the front are labelled. With two objectives a line connects them.

    Args:
        points: Values by number of the trial.
        front: The numbers of the trials on the front.
        names: The names of the objectives.
    """
    figure, axis = create_axis(6.4, 4.6, left=0.13, right=0.96, top=0.92, bottom=0.115)
    dominated = np.array([points[number][:2] for number in points if number not in front]).reshape(
        -1, 2
    )
    best = np.array(sorted(tuple(points[number][:2]) for number in front)).reshape(-1, 2)
    if len(dominated):
        axis.plot(*dominated.T, "o", color=SKY, markersize=5, label="other complete trials")
    axis.plot(
        *best.T,
        "o-" if len(names) == 2 else "o",
        color=VERMILLION,
        markersize=6,
        linewidth=1.4,
        label="Pareto front",
    )
    for number in front:
        axis.annotate(
            str(number),
            (points[number][0], points[number][1]),
            xytext=(5, 5),
            textcoords="offset points",
            fontsize=8,
        )
    axis.set(xlabel=names[0], ylabel=names[1])
    axis.legend(loc="best", fontsize=8)
    also = f" ({len(names)} objectives)" if len(names) > 2 else ""
    axis.set_title(f"Complete trials and Pareto front{also}", fontsize=11)
    return figure


def _below(arrays: Mapping[str, Array], prefix: str) -> dict[str, Array]:
    """Return the arrays whose names begin with the prefix, by the rest of their names."""
    return {
        name.removeprefix(prefix): values
        for name, values in arrays.items()
        if name.startswith(prefix)
    }


def _read(folder: Path, name: Path) -> dict[str, Array]:
    """Return the arrays of a checkpoint file; empty if none can be read.

    `.old` is a checkpoint that is being replaced.
    """
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    for home in (folder / CHECKPOINT, folder / f"{CHECKPOINT}.old"):
        try:
            return dict(load_file(home / name))
        except (OSError, ValueError, KeyError, TypeError, AttributeError, SafetensorError) as error:
            log.debug("%s cannot be drawn: %r", home / name, error)
    return {}
