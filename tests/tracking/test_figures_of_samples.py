"""Test figures of sample weights, harmful and helpful samples, and class accuracies."""

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
from orchestrator.reporting.figures import _classes as classes
from orchestrator.reporting.figures import _epochs as epochs
from orchestrator.reporting.figures import _samples as samples
from orchestrator.reporting.figures import trial as figures
from orchestrator.reporting.figures._figure import VERMILLION
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store, read_json
from orchestrator.tracking._values import tracking_uri
from orchestrator.tracking.tracker import Tracker
from orchestrator.training.metric_names import WEIGHT_RANGE
from tests.tracking.test_figures import lines, traced, write

Arrays = dict[str, NDArray[Any]]


def weighed() -> Arrays:
    """Return three epochs: without weights, with all weights 1, with a tenth above all bins."""
    histogram = np.full((3, 20), np.nan, np.float32)
    histogram[1:] = 0.0
    histogram[1, 5] = 1.0
    histogram[2, [2, 5, 19]] = 0.3, 0.6, 0.1
    noisy, clean = (
        np.array([np.nan, 1.0, 0.5], np.float32),
        np.array([np.nan, 1.0, 1.25], np.float32),
    )
    return {
        "epochs/weight_histogram": histogram,
        "epochs/weight_noisy": noisy,
        "epochs/weight_clean": clean,
    }


def picked(channels: int = 1, size: int = 8, harmful: int = 8, helpful: int = 8) -> Arrays:
    """Return samples in the trainer's format.

    The first harmful one has a wrong label, the first helpful one none.
    """
    generator, arrays = np.random.default_rng(0), Arrays()
    for side, many, sign in (("harmful", harmful, 1), ("helpful", helpful, -1)):
        truths = np.arange(many) % 10
        labels = truths.copy()
        labels[:1] = 9 if side == "harmful" else -1
        images = generator.integers(0, 256, (many, size, size, channels)).astype(np.uint8)
        scores = (sign * np.linspace(2.0, 1.0, many)).astype(np.float32)
        found: Arrays = {"images": images, "scores": scores, "labels": labels, "truths": truths}
        arrays |= {side: 100 + np.arange(many)} | {
            f"{side}_{name}": values for name, values in found.items()
        }
    return arrays


def neighbourhood(
    size: tuple[int, int, int] = (8, 8, 1), positives: int = 5, negatives: int = 4, queries: int = 2
) -> Arrays:
    """Return retrieved samples of some queries.

    The first query has a wrong label and only one positive, the second none.
    """
    generator, many = np.random.default_rng(0), queries * (1 + positives + negatives)
    places = generator.permutation(5000)[:many]
    parts = np.split(places, [queries, queries * (1 + positives)])
    arrays: Arrays = {
        "queries": parts[0],
        "positives": parts[1].reshape(queries, -1),
        "negatives": parts[2].reshape(queries, -1),
    }
    arrays["positives"][0, 1:] = -1
    for side in ("positive", "negative"):
        arrays[f"{side}_similarity"] = np.sort(
            generator.random(arrays[f"{side}s"].shape).astype(np.float32)
        )[:, ::-1]
    truths = generator.integers(0, 10, many)
    labels = truths.copy()
    labels[:2] = (truths[0] + 1) % 10, -1
    images = generator.integers(0, 256, (many, *size)).astype(np.uint8)
    arrays |= {
        "retrieved": places,
        "retrieved_images": images,
        "retrieved_labels": labels,
        "retrieved_truths": truths,
    }
    return arrays | {"retrieved_classes": truths}


def words(axis: Any) -> list[str]:
    return [text.get_text() for text in axis.texts]


def seen(figure: Any) -> list[Any]:
    return [axis for axis in figure.axes if axis.get_visible()]


def test_the_weights_of_an_epoch_stand_where_they_are_up_to_the_range() -> None:
    above, below = epochs.weights(*weighed().values()).axes[:2]  # type: ignore[union-attr]
    (image,) = above.get_images()
    cells = np.asarray(image.get_array())
    assert image.get_extent() == [0.5, 3.5, 0.0, WEIGHT_RANGE] and above.get_ylim() == (
        0.0,
        WEIGHT_RANGE,
    )
    assert not cells[:, 0].any(), "no weights yet"
    assert np.flatnonzero(cells[:, 1]).tolist() == [5] and np.allclose(
        cells[[2, 5, 19], 2], [30.0, 60.0, 10.0]
    )
    assert above.get_lines()[0].get_ydata() == [1.0, 1.0], "the mean of all"
    assert above.get_title().endswith("(top bin: 3.8 and more)")
    assert above.get_xlim() == below.get_xlim() and (below.get_xlabel(), below.get_ylabel()) == (
        "epoch",
        "mean weight",
    )


def test_the_means_by_label_are_lines_with_a_legend() -> None:
    figure: Any = epochs.weights(*weighed().values())
    below = figure.axes[1]
    assert [text.get_text() for text in below.get_legend().get_texts()] == [
        "wrong label",
        "right label",
    ]
    drawn = lines(below)
    assert drawn["wrong label"].get_xdata().tolist() == [1, 2, 3]
    assert np.array_equal(drawn["wrong label"].get_ydata(), [np.nan, 1.0, 0.5], equal_nan=True)
    assert np.array_equal(drawn["right label"].get_ydata(), [np.nan, 1.0, 1.25], equal_nan=True)
    assert drawn["wrong label"].get_color() != drawn["right label"].get_color()
    assert (
        below.get_title()
        == "Mean weight at the end: 0.50 with a wrong label, 1.25 with a right label"
    )


def test_weights_without_noise_are_one_panel_that_ends_above_the_highest() -> None:
    histogram = 70 * weighed()["epochs/weight_histogram"][1:2]  # counts are as good as shares
    for without in (None, np.array([np.nan], np.float32)):
        figure: Any = epochs.weights(histogram, without, without)
        (axis,) = figure.axes
        assert (
            axis.get_ylim() == (0.0, 2.0)
            and axis.get_xlabel() == "epoch"
            and "top bin" not in axis.get_title()
        )
        assert np.asarray(axis.get_images()[0].get_array()).sum() == pytest.approx(100.0)
        assert [tick for tick in axis.get_xticks() if 0.5 <= tick <= 1.5] == [1]


def test_no_weights_are_no_figure_and_means_of_other_epochs_an_error() -> None:
    for empty in (np.zeros((0, 20)), np.zeros((2, 20)), np.full((2, 20), np.nan), np.ones(20)):
        assert epochs.weights(empty) is None
    with pytest.raises(ValueError, match="weights of 3 epochs"):
        epochs.weights(weighed()["epochs/weight_histogram"], np.ones(2))


def test_the_most_harmful_are_above_the_most_helpful_with_label_score_and_place() -> None:
    shown = picked()
    figure: Any = samples.influence(shown)
    axes = seen(figure)
    assert len(axes) == 16 and (axes[0].get_ylabel(), axes[8].get_ylabel()) == (
        "most harmful",
        "most helpful",
    )
    for side, row in (("harmful", axes[:8]), ("helpful", axes[8:])):
        for place, axis in enumerate(row):
            (image,) = axis.get_images()
            assert np.array_equal(
                image.get_array(), shown[f"{side}_images"][place, :, :, 0]
            ) and image.get_clim() == (0, 255)
            assert axis.get_xlabel() == f"{shown[f'{side}_scores'][place]:+.3g}\n#{100 + place}"
    assert [axes[place].get_title().split() for place in (0, 1, 8)] == [
        ["9", "(is", "0)"],
        ["1"],
        ["unlabelled", "(is", "0)"],
    ]
    assert axes[0].title.get_color() != axes[1].title.get_color() == axes[8].title.get_color()


@pytest.mark.parametrize(("channels", "size"), [(1, 8), (3, 32), (3, 224)])
def test_grey_and_colour_images_keep_what_they_show(channels: int, size: int) -> None:
    figure: Any = samples.influence(picked(channels, size, harmful=3, helpful=1))
    content = figures.picture(figure)
    colours = {
        colour
        for _, colour in Image.open(io.BytesIO(content)).convert("RGB").getcolors(1 << 20) or []
    }
    assert (255, 255, 255) in colours
    assert (len(colours) > 128) == (channels == 3), (
        "a chart has enough of 128 colours, an image has not"
    )


def test_sides_may_differ_in_number_and_one_may_be_missing() -> None:
    figure: Any = samples.influence(picked(harmful=11, helpful=2))
    assert [len(axis.get_images()) for axis in seen(figure)] == [1] * 10, "at most eight of a side"
    lone = {name: values for name, values in picked().items() if not name.startswith("harmful")}
    figure = samples.influence(lone)
    assert len(figure.axes) == 8 and figure.axes[0].get_ylabel() == "most helpful"
    assert samples.influence({}) is None and samples.influence(picked(harmful=0, helpful=0)) is None
    del lone["helpful_truths"]
    assert samples.influence(lone) is None


def test_a_sample_without_a_score_is_left_out_and_torn_sides_are_an_error() -> None:
    shown = picked(harmful=3, helpful=1)
    shown["harmful_scores"][0] = np.nan
    figure: Any = samples.influence(shown)
    assert [axis.get_xlabel().split("#")[1] for axis in seen(figure)] == ["101", "102", "100"]
    shown["harmful_labels"] = shown["harmful_labels"][:2]
    with pytest.raises(ValueError, match="shorter"):
        samples.influence(shown)


def test_names_of_classes_are_shortened_and_a_long_title_has_two_lines() -> None:
    names = ["cat", *["no"] * 8, "a very long name of a class"]
    figure: Any = samples.influence(picked(), names)
    assert (
        figure.axes[0].get_title() == "a very …lass\n(is cat)"
        and figure.axes[1].get_title() == "no"
    )
    figure = samples.influence(picked(), ["cat", *["no"] * 8, "dog"])
    assert figure.axes[0].get_title() == "dog (is cat)"


@pytest.mark.parametrize("size", [(8, 8, 1), (12, 6, 3)])
def test_a_query_stands_left_of_what_was_retrieved_for_it(size: tuple[int, int, int]) -> None:
    shown = neighbourhood(size)
    figure: Any = samples.retrieved(shown)
    (axis,) = figure.axes
    drawn = axis.get_images()
    expected = [
        *shown["queries"],
        shown["positives"][0, 0],
        *shown["positives"][1],
        *shown["negatives"].flatten(),
    ]
    assert len(drawn) == len(expected) == 2 + 6 + 8, "missing samples are omitted"
    for image, place in zip(drawn, expected, strict=True):
        pixels = shown["retrieved_images"][shown["retrieved"] == place][0]
        assert np.array_equal(image.get_array(), pixels[..., 0] if size[2] == 1 else pixels)
        left, right, bottom, top = image.get_extent()
        assert (right - left) / (top - bottom) == pytest.approx(size[1] / size[0])
    corners = np.array([image.get_extent() for image in drawn])
    rows = [0, 1, 0, *[1] * 5, *[0] * 4, *[1] * 4]
    for row in (0, 1):
        lefts, tops = corners[np.array(rows) == row][:, [0, 3]].T
        assert (np.diff(lefts) > 0.99).all() and np.ptp(tops) == 0, (
            "from left to right, most similar first"
        )
    assert corners[0, 3] > corners[1, 3]
    assert corners[:, 1].max() <= axis.get_xlim()[1] and axis.get_ylim()[0] <= corners[:, 2].min()


def test_each_of_the_retrieved_has_labels_similarity_place_and_the_class_of_the_teacher() -> None:
    shown = neighbourhood()
    truths = shown["retrieved_truths"]
    figure: Any = samples.retrieved(shown)
    texts = words(figure.axes[0])
    assert texts[:4] == [
        "query",
        f"{(truths[0] + 1) % 10} (is {truths[0]})",
        f"#{shown['queries'][0]}",
        f"T: {truths[0]}",
    ]
    assert (
        texts[4] == f"unlabelled\n(is {truths[1]})"
        and texts[7] == "positives"
        and "negatives" in texts
    )
    place, likeness = shown["positives"][0, 0], shown["positive_similarity"][0, 0]
    assert texts[8:11] == [str(truths[2]), f"{likeness:.2f}  #{place}", f"T: {truths[2]}"]
    red = [text.get_text() for text in figure.axes[0].texts if text.get_color() == VERMILLION]
    assert red == [texts[1], texts[3]], "a wrong label, and the teacher gives another class"
    del shown["retrieved_classes"]
    figure = samples.retrieved(shown, ["a class"] * 10)
    texts = words(figure.axes[0])
    assert not any(text.startswith("T:") for text in texts) and "a class\n(is a class)" in texts


def test_nothing_retrieved_is_no_figure_and_a_side_without_width_no_group() -> None:
    assert (
        samples.retrieved({}) is None
        and samples.retrieved({"queries": np.zeros(0, np.int64)}) is None
    )
    shown = neighbourhood(negatives=0)
    figure: Any = samples.retrieved(shown)
    assert "positives" in words(figure.axes[0]) and "negatives" not in words(figure.axes[0])
    shown["retrieved"] = shown["retrieved"][1:]
    with pytest.raises(ValueError):
        samples.retrieved(shown)


def test_few_classes_are_sorted_bars_and_the_gap_is_the_title() -> None:
    accuracy = np.array([[0.1, 0.1, 0.2, np.nan], [0.9, 0.25, 0.5, np.nan]], np.float32)
    figure: Any = classes.class_accuracy(accuracy, ["ant", "bee", "cat", "dog"])
    bars, course = figure.axes
    assert [bar.get_width() for bar in bars.containers[0]] == pytest.approx([25.0, 50.0, 90.0])
    assert [tick.get_text() for tick in bars.get_yticklabels()] == ["bee", "cat", "ant"], (
        "nothing is known of a dog"
    )
    texts = (
        "Validation accuracy of the classes after epoch 2: worst bee (25.0 %), best ant "
        "(90.0 %), gap 65.0 points"
    )
    assert (
        figure.get_suptitle() == texts
        and bars.get_xlabel() == course.get_ylabel() == "accuracy (%)"
    )
    drawn = {name: line.get_ydata().tolist() for name, line in lines(course).items()}
    assert drawn["worst class"] == pytest.approx([10.0, 25.0]) and drawn[
        "best class"
    ] == pytest.approx([20.0, 90.0])
    assert (
        drawn["mean of the classes"] == pytest.approx([40 / 3, 55.0])
        and course.get_xlabel() == "epoch"
    )


def test_many_classes_are_a_sorted_curve_that_names_its_ends() -> None:
    accuracy = (np.random.default_rng(0).permutation(100)[None] / 100).astype(np.float32)
    figure: Any = classes.class_accuracy(
        accuracy, [f"class{round(100 * value)}" for value in accuracy[0]]
    )
    curve, course = figure.axes
    assert np.allclose(curve.get_lines()[0].get_ydata(), np.arange(100)) and not curve.containers
    assert curve.get_xlabel().split("\n") == [
        "the 100 classes, from the worst to the best",
        "worst: class0 0.0 %, class1 1.0 %, class2 2.0 %",
        "best: class99 99.0 %, class98 98.0 %, class97 97.0 %",
    ]
    assert [line.get_marker() for line in course.get_lines()] == ["o"] * 3, (
        "a single epoch would be no line"
    )


def test_an_epoch_that_was_not_evaluated_is_passed_over() -> None:
    accuracy = np.array([[0.5, 0.75], [np.nan, np.nan], [0.5, 1.0], [np.nan, np.nan]], np.float32)
    figure: Any = classes.class_accuracy(accuracy)
    assert "after epoch 3: worst 0 (50.0 %), best 1 (100.0 %)" in figure.get_suptitle()
    assert lines(figure.axes[1])["best class"].get_xdata().tolist() == [1, 3] and figure.axes[
        1
    ].get_xlim() == (0.5, 4.5)
    for empty in (np.zeros((0, 2)), np.full((3, 2), np.nan), np.ones(3)):
        assert classes.class_accuracy(empty) is None


def test_pictures_and_metrics_of_weighed_samples_are_in_the_run_of_the_trial(
    tmp_path: Path,
) -> None:
    from mlflow import MlflowClient

    store = Store.open(tmp_path)
    sweep = Sweep.create(
        store.sweep("mine"), load(None, ["project=tests", "tracking.figures=all"]), "sweep"
    )
    tracker = Tracker(store, sweep)
    accuracy = {"epochs/class_accuracy": np.array([[0.5, 1.0]], np.float32)}
    spent = {
        "influence/weight_noisy": 0.5,
        "influence/auc_noisy": 0.875,
        "influence/seconds": 2.0,
        "seconds/influence": 0.25,
    }
    for number, state in enumerate(("complete", "stopped_early")):
        trial = Trial(number, {}, state=state, value=0.5)  # type: ignore[arg-type]
        shown = picked(channels=3, size=32) | neighbourhood()
        write(sweep.trial_folder(number), traced(alpha=False) | weighed() | accuracy, shown)
        tracker.trial_started(trial)
        tracker.trial_reported(trial, 1, spent)
        tracker.trial_ended(trial)
    tracker.close("finished")
    client = MlflowClient(tracking_uri(store, sweep.configuration))
    for number, expected in enumerate(
        ({"terms", "weights", "influence", "retrieved", "class_accuracy"}, {"terms"})
    ):
        run = read_json(sweep.folder / "mlflow.json")[str(number)]
        assert {Path(file.path).stem for file in client.list_artifacts(run, "figures")} == expected
        assert client.get_run(run).data.metrics.items() >= spent.items()


def test_damaged_samples_cost_their_figure_alone(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shown = picked()
    shown["harmful_images"] = shown["harmful_images"][:, 0]
    folder = write(tmp_path, weighed(), shown)
    with caplog.at_level(logging.DEBUG, figures.__name__):
        assert [name for name, _ in figures.trial_figures(folder, complete=True)] == ["weights"]
    assert "no figure influence" in caplog.text
    other = folder / "checkpoint" / "b"
    other.mkdir()
    save_file({"epochs/weight_noisy": np.ones(1, np.float32)}, other / figures.TRACE)
    assert not list(figures.trial_figures(folder, complete=True, letter="b"))
