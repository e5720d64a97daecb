"""Test the page of a sweep in every state: well-formed, complete, self-contained, escaped."""

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import yaml
from markupsafe import escape
from safetensors.torch import load_file
from torch import from_numpy

from orchestrator.config.loader import load
from orchestrator.config.trial import apply
from orchestrator.data.dataset import Dataset
from orchestrator.models.build import build
from orchestrator.reporting.html._chart import Chart, Style
from orchestrator.reporting.html._predictions import Predictions, predict_held_out
from orchestrator.reporting.html._sweep_view import SweepView
from orchestrator.reporting.html.page import POLICY
from orchestrator.reporting.html.report import pairs, report, resolved
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from tests.report.page_read import SECTIONS, Page, change, page_of
from tests.report.report_made import EPOCHS, give_data, give_weights, made

HOSTILE = "<script>alert(1)</script>\"'&"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Sweep:
    """Return a finished sweep with data, and a checkpoint of its best trial."""
    root = tmp_path_factory.mktemp("report") / "store"
    sweep = made(root, 24)
    give_data(root, sweep)
    best = sweep.best()
    assert best is not None
    give_weights(sweep, best.number)
    return sweep


@pytest.fixture(scope="module")
def read(whole: Sweep) -> Page:
    return page_of(whole)


def test_the_page_has_all_sections_in_order_and_links_to_them(read: Page) -> None:
    assert [str(given["id"]) for tag, given in read.tags if tag == "section"] == SECTIONS
    assert [str(given["href"]) for tag, given in read.tags if tag == "a"] == [
        f"#{name}" for name in SECTIONS
    ]
    charts = {name.removeprefix("chart-") for name in read.all("aria-labelledby")}
    assert {
        "learning",
        "stopped",
        "importance-0",
        "parallel-0",
        "slice-0-0",
        "slice-0-1",
        "contour-0",
    } <= charts
    assert {"cost-seconds", "confusion-a", "reliability-a", "classes-a"} <= charts


def test_nothing_is_loaded_and_nothing_runs(read: Page) -> None:
    assert not {"script", "iframe", "object", "embed", "style-src"} & {tag for tag, _ in read.tags}
    links = [
        given
        for name in ("src", "href", "xlink:href", "action", "srcset")
        for given in read.all(name)
    ]
    assert links and all(given.startswith(("#", "data:")) for given in links)
    assert (
        POLICY in read.all("content")
        and "default-src 'none'" in POLICY
        and "script-src" not in POLICY
    )
    assert "url(" not in "".join(read.words) and "@import" not in "".join(read.words)
    assert not [name for _, given in read.tags for name in given if name.startswith("on")]


def test_ids_are_unique_and_every_chart_and_picture_has_a_title(read: Page) -> None:
    names = read.all("id")
    assert len(names) == len(set(names))
    assert set(read.all("aria-labelledby")) <= set(names)
    drawings = [given for tag, given in read.tags if tag == "svg"]
    assert drawings and all(
        "aria-labelledby" in given or given.get("aria-hidden") == "true" for given in drawings
    )
    pictures = [given for tag, given in read.tags if tag == "img"]
    assert len(pictures) == 2 and all(
        len(given["alt"] or "") > 20 for given in pictures
    )  # terms and class accuracy
    figures = sum(tag == "figure" for tag, _ in read.tags)
    assert figures == sum(tag == "figcaption" for tag, _ in read.tags)


def test_numbers_of_charts_are_numbers(read: Page) -> None:
    for name in ("x", "y", "x1", "y1", "cx", "cy", "r", "width", "height"):
        assert all(
            np.isfinite(float(given))
            for tag, attributes in read.tags
            if tag != "meta" and (given := attributes.get(name))
        )
    assert not re.search(r"nan|inf\b", " ".join(read.all("d")))


def test_summary_has_best_trial_lead_and_next_steps(whole: Sweep, read: Page) -> None:
    best = whole.best()
    assert best is not None and best.value is not None
    text = read.text
    assert (
        f"Trial {best.number} ({best.params['method.name']}) with validation/accuracy "
        f"{best.value:.4g} after 9 epochs" in text
    )
    second = next(
        trial
        for trial in whole.ranked()
        if trial.params["method.name"] != best.params["method.name"]
    )
    assert (
        f"{best.value - (second.value or 0):.4f} better than the best "
        f"{second.params['method.name']} (trial {second.number})" in text
    )
    error = np.sqrt(best.value * (1 - best.value) / 216)
    assert f"on 216 validation samples is {error:.4f}" in text
    epochs = sum(trial.epochs for trial in whole.trials.values())
    assert (
        f"{epochs} epochs trained, {1 - epochs / (24 * EPOCHS):.0%} less than 24 complete trials"
        in text
    )
    assert "python run.py export mine --store" in text and "Unfinished" not in text
    assert (
        "python run.py compare --config mine.yaml --methods akd,cross_entropy,kd --seeds 10 --store"
        in text
    )


def test_charts_of_the_student_match_its_weights(whole: Sweep) -> None:
    store, best = Store(whole.folder.parents[1]), whole.best()
    assert best is not None
    found = predict_held_out(store, whole, best, "a", SweepView.of(whole).data)
    assert isinstance(found, Predictions)
    dataset = Dataset.open(next((store.root / "data").glob("*/data.json")).parent)
    network = build("mlp", 10, (1, 8, 8), whole.configuration.student.settings).eval()
    network.load_state_dict(
        load_file(whole.trial_folder(best.number) / "checkpoint" / "best.safetensors")
    )
    images = from_numpy(dataset.test.inputs.copy()).permute(0, 3, 1, 2) / 255
    logits = network((images - dataset.mean[0]) / dataset.std[0]).logits.detach().numpy()
    expected = logits.argmax(1)
    # another order of the same arithmetic may change one sample
    assert (found.predicted == expected).mean() > 0.99
    assert found.part == "test" and len(found.labels) == found.whole == len(dataset.test)
    assert (
        found.confusion.sum() == found.whole
        and np.trace(found.confusion) / found.whole == found.accuracy
    )
    assert (found.confusion.sum(axis=1) == np.bincount(dataset.test.labels, minlength=10)).all()
    assert sum(each.samples for each in found.bins) == found.whole
    gap = (
        sum(each.samples * abs(each.confidence - each.accuracy) for each in found.bins)
        / found.whole
    )
    assert found.calibration_error == pytest.approx(gap)


@pytest.mark.parametrize("gone", ["weights", "data", "damaged"])
def test_missing_weights_or_data_are_reported(tmp_path: Path, gone: str) -> None:
    sweep = made(tmp_path / "store", 3)
    give_data(tmp_path / "store", sweep)
    best = sweep.best()
    assert best is not None
    if gone != "weights":
        give_weights(sweep, best.number)
    if gone == "damaged":
        (sweep.trial_folder(best.number) / "checkpoint" / "best.safetensors").write_bytes(
            b"no weights"
        )
    if gone == "data":
        next((tmp_path / "store" / "data").glob("*/data.json")).unlink()
    messages = {
        "weights": "its weights are not in the store",
        "data": "the prepared data were removed from the store",
        "damaged": "could not be",
    }
    assert messages[gone] in page_of(sweep).text


def test_hostile_names_and_messages_are_text(tmp_path: Path) -> None:
    sweep = made(tmp_path / "store", 12)
    change(sweep, 9, message=HOSTILE)
    change(
        sweep,
        0,
        notes=[HOSTILE],
        params=sweep.trials[0].params | {"method.name": "cross_entropy", HOSTILE: HOSTILE},
    )
    change(
        sweep, 3, params=sweep.trials[3].params | {HOSTILE: "</svg><img src=x onerror=alert(1)>"}
    )
    sweep.notes = [{"time": 0.0, "text": HOSTILE}]
    sweep.save()
    give_data(tmp_path / "store", sweep)
    data = yaml.safe_load((sweep.folder / "data.json").read_text())
    (sweep.folder / "data.json").write_text(
        yaml.safe_dump(data | {"name": HOSTILE}, default_flow_style=True, width=10**6)
    )
    (sweep.folder / "environment.json").write_text('{"<b>": "</table><script>"}')
    text = report(Store(tmp_path / "store"), Sweep.open(Store(tmp_path / "store"), "mine")).html
    found = Page(text)
    assert (
        not [tag for tag, _ in found.tags if tag in ("script", "b")]
        and "<script" not in text
        and "<img src=x" not in text
    )
    assert found.text.count("<script>alert(1)</script>") >= 4
    assert str(escape(HOSTILE)) in text


def test_secrets_are_not_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOME_TOKEN", "abcdef-secret")
    sweep = made(tmp_path / "store", 12, "finished", "sweep", "secret")
    change(sweep, 9, message="it said abcdef-secret and password=hunter22")
    charted = Chart("secret", "a title with abcdef-secret")
    charted.label("abcdef-secret\x1b[2J")
    charted.marks([(0, 0, "abcdef-secret")], Style(0))
    assert "abcdef-secret" not in charted.svg and "\x1b" not in charted.svg
    text = page_of(sweep).text
    assert "abcdef-secret" not in text and "hunter22" not in text and "***" in text


@pytest.mark.parametrize(
    ("state", "trials", "message"),
    [
        (
            "interrupted",
            12,
            "this sweep is interrupted. All numbers are preliminary. To train the rest, "
            "run: python run.py",
        ),
        ("running", 12, "this sweep is interrupted"),  # no driver runs it
        ("failed", 12, "this sweep is failed"),
        ("running", 0, "No trial has started"),
    ],
)
def test_an_unfinished_sweep_is_marked_at_the_top(
    tmp_path: Path, state: str, trials: int, message: str
) -> None:
    found = page_of(made(tmp_path / "store", trials, state, "sweep", "mine", "search.trials=50"))
    assert message in found.text and any(given.get("class") == "banner" for _, given in found.tags)
    assert "sweep --resume mine" in found.text
    assert found.text.index("Unfinished") < found.text.index("Search.")


def test_a_sweep_that_runs_is_marked(tmp_path: Path) -> None:
    sweep = made(tmp_path / "store", 12, "running")
    with sweep.hold():
        found = page_of(sweep)
    assert "this sweep is still running" in found.text and "--resume" not in found.text


def test_single_training_omits_sections_of_a_search(tmp_path: Path) -> None:
    found = page_of(made(tmp_path / "store", 1, kind="train"))
    charts = set(found.all("aria-labelledby"))
    assert charts == {"chart-learning"}
    for message in (
        "There is only one trial",
        "A single training searches no settings",
        "that differ in cost",
        "python run.py train --config mine.yaml",
    ):
        assert message in found.text


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    sweep = made(tmp_path / "store", 12)
    (sweep.trial_folder(4) / "trial.json").write_text("{")
    assert "trials/00004/trial.json is damaged: it is not JSON" in page_of(sweep).text


def test_a_large_sweep_makes_a_page_of_a_few_megabytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = made(tmp_path / "store", 200)
    (sweep.folder / "study.log").unlink()  # importance takes long and does not affect the size
    store = Store(tmp_path / "store")
    text = report(store, Sweep.open(store, "mine")).html
    found = Page(text)
    assert len(text) < 1_000_000 and "trials are omitted, evenly spaced" in found.text
    assert "Number of the 200 trials that trained at least this many epochs" in found.text


def test_the_configuration_and_the_best_trial_come_again(
    whole: Sweep, read: Page, tmp_path: Path
) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(resolved(whole))
    assert load(file, []) == whole.configuration
    assert resolved(whole) in read.words
    for trial in whole.ranked()[:3]:
        given = list(_options(pairs(whole, trial)))
        assert load(file, given).method == apply(whole.configuration, trial.settings).method
        assert load(file, given).training == apply(whole.configuration, trial.settings).training


def test_fixed_configurations_with_seeds_are_not_described_as_a_search(tmp_path: Path) -> None:
    listed = [
        "search.configurations=[{training.learning_rate: 0.1}]",
        "search.seeds=[1, 2]",
        "search.trials=2",
        "search.scheduler=none",
    ]
    sweep = made(tmp_path / "store", 2, "finished", "sweep", "listed", *listed)
    for number in (0, 1):
        change(
            sweep, number, params={"method.name": "kd", "kd.temperature": 4.0, "seed": number + 1}
        )
    trial = Sweep.open(Store.open(tmp_path / "store"), "listed").trials[1]
    assert "--set seed=2" in pairs(sweep, trial) and "method.seed" not in pairs(sweep, trial)
    words = " ".join(page_of(sweep).words)
    assert (
        "None: 1 fixed configurations of" in words
        and "Objective: " not in words
        and "run.py compare" not in words
    )
    assert "one seed" not in words


def _options(line: str) -> Iterator[str]:
    import shlex

    words = shlex.split(line)
    yield from (
        value for option, value in zip(words[::2], words[1::2], strict=True) if option == "--set"
    )


def test_recorded_environment_is_shown(tmp_path: Path) -> None:
    sweep = made(tmp_path / "store", 3)
    assert "The run did not record its environment" in page_of(sweep).text
    (sweep.folder / "environment.json").write_text('{"version.torch": "9.9.9"}')
    assert "9.9.9" in page_of(sweep).text and "The run did not record" not in page_of(sweep).text
