"""Test a trial's figures: their content, and that damaged data cost only the figure."""

import io
import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from safetensors.numpy import save_file

from orchestrator.config.loader import load
from orchestrator.reporting.figures import _classes as class_figures
from orchestrator.reporting.figures import _epochs as epochs
from orchestrator.reporting.figures import trial as figures
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store, read_json
from orchestrator.tracking._values import tracking_uri
from orchestrator.tracking.tracker import Tracker

Arrays = dict[str, NDArray[Any]]
EPOCHS, POINTS = 4, 40
LABELS = ["0.01", "0.1", "1"]


def traced(alpha: bool = True) -> Arrays:
    """Return a trace of four epochs, as the trainer writes it."""
    epoch = np.linspace(0.1, EPOCHS, POINTS)
    arrays: Arrays = {
        "steps/epoch": epoch,
        "steps/loss": 3 * np.exp(-epoch),
        "steps/cross_entropy": 2 * np.exp(-epoch),
        "steps/distillation": 0.1 * np.exp(-epoch),
    }
    if alpha:
        histogram = np.zeros((EPOCHS, 20))
        histogram[:, 10] = histogram[:, 11] = 0.5
        arrays |= {
            "steps/alpha": np.linspace(0.9, 0.5, POINTS),
            "steps/cam": np.exp(-epoch),
            "epochs/alpha_histogram": histogram,
        }
    return {name: values.astype(np.float32) for name, values in arrays.items()}


def unsure() -> Arrays:
    """Return the trace of a method with teacher uncertainty.

    In the last epoch four fifths are certain, the rest is completely uncertain.
    """
    histogram = np.zeros((2, 20), np.float32)
    histogram[0, 5] = 1.0
    histogram[1, 0], histogram[1, 19] = 0.8, 0.2
    return {"epochs/uncertainty_histogram": histogram}


def class_arrays(classes: int, samples: int = 8, reweighted: bool = True) -> Arrays:
    """Return distributions of a few samples and the weights of the classes."""
    generator = np.random.default_rng(0)
    names = ("teacher", "student", "reweighted") if reweighted else ("teacher", "student")
    arrays: Arrays = {
        name: generator.dirichlet(np.full(classes, 0.3), samples).astype(np.float32)
        for name in names
    }
    weights = np.ones((classes, classes), dtype=np.float32)
    weights[0, 1] = 1.5
    return arrays | {"labels": np.arange(samples) % classes, "class_weights": weights}


def write(folder: Path, trace: Arrays | None, shown: Arrays | None) -> Path:
    """Write a trial's folder with the two files."""
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir(parents=True)
    for name, arrays in ((figures.TRACE, trace), (figures.SHOWN, shown)):
        if arrays is not None:
            save_file(arrays, checkpoint / name)
    return folder


def steps(trace: Arrays) -> Arrays:
    return {
        name.removeprefix("steps/"): values
        for name, values in trace.items()
        if name.startswith("steps/")
    }


def lines(axis: Any) -> dict[str, Any]:
    return {line.get_label(): line for line in axis.get_lines()}


def test_terms_stand_below_alpha_on_the_same_epochs() -> None:
    records = steps(traced())
    figure: Any = epochs.terms(records)
    above, below = figure.axes
    assert above.get_xlim() == below.get_xlim() == (0.0, EPOCHS)
    assert above.get_ylim()[0] <= 0.0 and above.get_ylim()[1] >= 1.0
    assert np.allclose(above.get_lines()[0].get_ydata(), records["alpha"])
    assert set(lines(below)) == {"cross entropy", "distillation", "cam"}  # the loss is their sum
    assert np.allclose(lines(below)["distillation"].get_ydata(), records["distillation"])
    assert (
        below.get_yscale() == "log"
        and below.get_xlabel() == "epoch"
        and below.get_ylabel() == "mean loss per sample"
    )
    colours = {line.get_color() for line in below.get_lines()}
    assert len(colours) == 3
    figure.draw_without_rendering()
    low, high = below.get_ylim()
    labels = [tick.get_text() for tick in below.get_yticklabels()]
    assert [label for label in labels if low <= float(label) <= high] == LABELS


def test_terms_without_alpha_have_one_panel_and_a_narrow_range_a_linear_axis() -> None:
    records = steps(traced(alpha=False))
    records["cross_entropy"] = records["distillation"] = np.full(POINTS, 0.5, np.float32)
    figure: Any = epochs.terms(records)
    assert [axis.get_yscale() for axis in figure.axes] == ["linear"]
    records["distillation"] = np.where(np.arange(POINTS) == 3, np.nan, 0.0).astype(np.float32)
    figure = epochs.terms(records)
    assert figure.axes[0].get_yscale() == "linear" and np.isnan(
        lines(figure.axes[0])["distillation"].get_ydata()[3]
    )


@pytest.mark.parametrize("missing", ["epoch", "cross_entropy", "distillation"])
def test_no_terms_without_what_they_need(missing: str) -> None:
    records = steps(traced())
    del records[missing]
    assert epochs.terms(records) is None


def test_alpha_per_sample_shows_shares_and_their_mean() -> None:
    histogram = 300 * traced()["epochs/alpha_histogram"]  # counts are as good as shares
    figure: Any = epochs.alpha_per_sample(histogram)
    axis = figure.axes[0]
    assert np.allclose(np.asarray(axis.get_images()[0].get_array()).sum(0), 100.0)
    mean = lines(axis)["mean"]
    assert mean.get_xdata().tolist() == [1, 2, 3, 4] and np.allclose(mean.get_ydata(), 0.55)
    assert axis.get_ylim() == (0, 1) and axis.get_xlim() == (0.5, EPOCHS + 0.5)
    assert epochs.alpha_per_sample(np.zeros((0, 20), np.float32)) is None


@pytest.mark.parametrize("classes", [2, 10, 100, 1000])
def test_class_weights_are_centred_at_one_whatever_their_number(classes: int) -> None:
    weights = class_arrays(classes)["class_weights"]
    weights[classes - 1, 0] = 0.8
    figure: Any = class_figures.class_weights(weights)
    axis = figure.axes[0]
    image = axis.get_images()[0]
    low, high = image.get_clim()
    assert (low + high) / 2 == pytest.approx(1.0) and high == pytest.approx(1.5)
    cells = np.asarray(image.get_array())
    assert (
        len(cells) <= 100
        and cells.max() == pytest.approx(1.5)
        and cells.min() == pytest.approx(0.8)
    )
    assert len(axis.texts) == (classes**2 if classes <= 12 else 0)
    assert len(axis.get_xticks()) <= 20
    if classes <= 12:
        assert axis.texts[1].get_text() == "1.50"  # row 0, column 1


def test_class_names_are_ticks() -> None:
    figure: Any = class_figures.class_weights(
        class_arrays(3)["class_weights"], ["cat", "dog", "a very long name of a class"]
    )
    names = [tick.get_text() for tick in figure.axes[0].get_yticklabels()]
    assert names[:2] == ["cat", "dog"] and len(names[2]) <= 12


def test_few_classes_are_bars_and_at_most_six_samples() -> None:
    shown = class_arrays(10)
    figure: Any = class_figures.distributions(shown)
    assert len(figure.axes) == 6
    for place, axis in enumerate(figure.axes):
        assert axis.get_title() == f"true: {shown['labels'][place]}"
        heights = [bars.get_data().values[::2] for bars in axis.patches]
        edges = [bars.get_data().edges for bars in axis.patches]
        assert len(np.unique(np.round(edges, 9))) == 4 * 10, "bars of a class touch each other"
        assert np.array_equal(np.floor(np.array(edges) + 0.5)[:, ::2], [range(10)] * 3)
        expected = [shown[name][place] for name in ("teacher", "reweighted", "student")]
        assert np.allclose(heights, expected)
    plain: Any = class_figures.distributions(class_arrays(10, samples=2, reweighted=False))
    assert [len(axis.patches) for axis in plain.axes] == [2, 2]


def test_many_classes_are_lines_over_the_ten_likeliest_with_the_true_one() -> None:
    shown = class_arrays(1000)
    shown["labels"] = shown["teacher"].argmin(1)  # the least probable class
    figure: Any = class_figures.distributions(shown)
    for place, axis in enumerate(figure.axes):
        assert len(axis.get_lines()) == 3
        ticks = [int(tick.get_text()) for tick in axis.get_xticklabels()]
        assert (
            len(ticks) == 10
            and shown["labels"][place] in ticks
            and shown["teacher"][place].argmax() in ticks
        )
        teacher = lines(axis)["teacher"].get_ydata()
        assert (
            np.allclose(teacher, shown["teacher"][place][ticks]) and (np.diff(teacher) <= 0).all()
        )


def test_a_trial_that_was_stopped_early_has_its_terms_alone(tmp_path: Path) -> None:
    folder = write(tmp_path, traced(), class_arrays(10))
    assert [name for name, _ in figures.trial_figures(folder, complete=False)] == ["terms"]
    assert [name for name, _ in figures.trial_figures(folder, complete=True)] == [
        "terms",
        "alpha_per_sample",
        "class_weights",
        "distributions",
    ]


@pytest.mark.parametrize("classes", [10, 1000])
def test_pictures_are_small(tmp_path: Path, classes: int) -> None:
    drawn = figures.pictures(write(tmp_path, traced(), class_arrays(classes)), complete=True)
    assert len(drawn) == 4
    for content in drawn.values():
        image = Image.open(io.BytesIO(content))
        assert (
            image.width > 400
            and len(content) < 60_000
            and image.convert("RGB").getpixel((0, 0)) == (255, 255, 255)
        )


def test_what_is_damaged_is_no_figure_and_the_others_are_drawn(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown = class_arrays(10)
    shown["teacher"] = shown["teacher"][:, :3]  # of another shape than the student
    folder = write(tmp_path, traced(), shown)
    with caplog.at_level(logging.DEBUG, figures.__name__):
        assert [name for name, _ in figures.trial_figures(folder, complete=True)] == [
            "terms",
            "alpha_per_sample",
            "class_weights",
        ]
    assert "no figure distributions" in caplog.text
    file = folder / "checkpoint" / figures.TRACE
    file.write_bytes(file.read_bytes()[:50])
    assert [name for name, _ in figures.trial_figures(folder, complete=True)] == ["class_weights"]
    assert not list(figures.trial_figures(tmp_path / "nothing", complete=True))


def test_a_home_that_cannot_be_written_costs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import os

    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    figures.set_font_cache(tmp_path / "fonts")
    assert "MPLCONFIGDIR" not in os.environ
    monkeypatch.setenv("XDG_CACHE_HOME", "/proc/nothing")
    monkeypatch.setattr(os, "access", lambda place, mode: False)
    figures.set_font_cache(tmp_path / "fonts")
    assert os.environ.pop("MPLCONFIGDIR") == str(tmp_path / "fonts")


def figures_of(sweep: Sweep, number: int) -> set[str]:
    """Return the names of the figures that MLflow has of a trial."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri(Store(sweep.folder.parent.parent), sweep.configuration))
    run = read_json(sweep.folder / "mlflow.json")[str(number)]
    return {Path(file.path).stem for file in client.list_artifacts(run, "figures")}


@pytest.mark.parametrize(
    ("kind", "which", "expected"),
    [
        ("sweep", "kept", {2, 3}),
        ("sweep", "all", {0, 1, 2, 3}),
        ("sweep", "none", set()),
        ("train", "kept", {1}),
        ("train", "none", set()),
    ],
)
def test_a_setting_selects_the_trials_with_figures(
    kind: str, which: str, expected: set[int], tmp_path: Path
) -> None:
    """The weights of the two best are kept.

    Trial 0 was among them at its end, before MLflow received anything.
    """
    store = Store.open(tmp_path)
    settings = ["project=tests", f"tracking.figures={which}", "search.keep_checkpoints=2"]
    sweep = Sweep.create(store.sweep("mine"), load(None, settings), kind)
    tracker = Tracker(store, sweep)
    ends = {0: ("complete", 0.5), 1: ("stopped_early", 0.9), 2: ("complete", 0.6)}
    ends |= {3: ("complete", 0.7)}
    for number in ends if kind == "sweep" else [1]:
        trial = Trial(number, {}, *ends[number])  # type: ignore[arg-type]
        write(sweep.trial_folder(number), traced(), None)
        sweep.save_trial(trial)
        tracker.trial_started(trial)
        tracker.trial_ended(trial)
    assert not tracker.close("finished")
    assert {number for number in sweep.trials if "terms" in figures_of(sweep, number)} == expected


def test_figures_are_artifacts_of_the_trial_and_damage_loses_no_other_write(tmp_path: Path) -> None:
    from mlflow import MlflowClient

    store = Store.open(tmp_path)
    configuration = load(None, ["project=tests", "tracking.figures=all"])
    sweep = Sweep.create(store.sweep("mine"), configuration, "sweep")
    tracker = Tracker(store, sweep)
    for number, state in enumerate(("complete", "stopped_early", "waiting", "complete")):
        trial = Trial(number, {}, state=state, value=0.5)  # type: ignore[arg-type]
        folder = sweep.trial_folder(number)
        write(folder, traced(), class_arrays(10))
        if number == 3:
            (folder / "checkpoint" / figures.TRACE).write_bytes(b"nothing")
        tracker.trial_started(trial)
        tracker.trial_ended(trial)
    tracker.close("finished")
    client = MlflowClient(tracking_uri(store, sweep.configuration))

    four = {"terms", "alpha_per_sample", "class_weights", "distributions"}
    assert [figures_of(sweep, number) for number in range(3)] == [four, {"terms"}, set()]
    assert figures_of(sweep, 3) == {"class_weights", "distributions"}
    assert client.get_run(read_json(sweep.folder / "mlflow.json")["3"]).info.status == "FINISHED"
    assert (
        client.get_run(read_json(sweep.folder / "mlflow.json")["parent"]).data.tags["state"]
        == "finished"
    )


def test_uncertainty_is_that_of_the_last_epoch_with_its_mean() -> None:
    histogram = unsure()["epochs/uncertainty_histogram"]
    figure: Any = epochs.uncertainty(50 * histogram)  # counts are as good as shares
    (axis,) = figure.axes
    heights = np.array([bar.get_height() for bar in axis.containers[0]])
    assert np.flatnonzero(heights).tolist() == [0, 19] and np.allclose(
        heights[[0, 19]], [80.0, 20.0]
    )
    assert (
        axis.get_title() == "The teacher's uncertainty in epoch 2: mean 0.215"
    )  # 0.8 * 0.025 + 0.2 * 0.975
    assert axis.get_xlim() == (0, 1)
    assert (
        epochs.uncertainty(np.zeros((2, 20))) is None
        and epochs.uncertainty(np.zeros((0, 20))) is None
    )


def test_the_agreement_is_drawn_once_over_the_epochs(tmp_path: Path) -> None:
    figure: Any = epochs.agreement(np.array([0.5, 0.75, 0.8], np.float32))
    (axis,) = figure.axes
    (line,) = axis.lines
    assert line.get_xdata().tolist() == [1, 2, 3] and np.allclose(line.get_ydata(), [50, 75, 80])
    assert axis.get_title().endswith("80.0% at the end") and epochs.agreement(np.zeros(0)) is None
    for place in ("checkpoint", "checkpoint/b"):
        (tmp_path / place).mkdir()
        save_file(
            {"epochs/pair/agreement": np.array([0.5], np.float32)}, tmp_path / place / figures.TRACE
        )
    drawn = {
        letter: [name for name, _ in figures.trial_figures(tmp_path, complete=True, letter=letter)]
        for letter in "ab"
    }
    assert drawn == {"a": [figures.AGREEMENT], "b": []}


@pytest.mark.parametrize(
    "names",
    [["validation/accuracy", "parameters"], ["validation/accuracy", "parameters", "train/loss"]],
)
def test_the_front_is_labelled_and_two_objectives_are_a_line(names: list[str]) -> None:
    points = {3: [0.9, 90.0, 0.0], 5: [0.5, 10.0, 0.0], 4: [0.7, 40.0, 0.0], 8: [0.4, 20.0, 0.0]}
    figure: Any = figures.pareto_front(
        {key: values[: len(names)] for key, values in points.items()}, [3, 5, 4], names
    )
    (axis,) = figure.axes
    line = lines(axis)["Pareto front"]
    assert list(line.get_xdata()) == [0.5, 0.7, 0.9] and list(line.get_ydata()) == [
        10.0,
        40.0,
        90.0,
    ]
    assert (line.get_linestyle() == "-") == (len(names) == 2)
    assert lines(axis)["other complete trials"].get_xdata().tolist() == [0.4]
    assert {text.get_text(): text.xy for text in axis.texts} == {
        "3": (0.9, 90.0),
        "5": (0.5, 10.0),
        "4": (0.7, 40.0),
    }
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("validation/accuracy", "parameters")
    assert Image.open(io.BytesIO(figures.picture(figure))).width > 400


def test_a_front_without_others_is_drawn() -> None:
    figure: Any = figures.pareto_front({0: [0.5, 1.0]}, [0], ["one", "other"])
    assert set(lines(figure.axes[0])) == {"Pareto front"}


def test_a_peers_figures_are_of_its_own_folder(tmp_path: Path) -> None:
    folder = write(tmp_path, traced(), None)
    (folder / "checkpoint" / "b").mkdir()
    save_file(traced(alpha=False) | unsure(), folder / "checkpoint" / "b" / figures.TRACE)
    assert [name for name, _ in figures.trial_figures(folder, complete=True)] == [
        "terms",
        "alpha_per_sample",
    ]
    assert [name for name, _ in figures.trial_figures(folder, complete=True, letter="b")] == [
        "terms",
        "uncertainty",
    ]
