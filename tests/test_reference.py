"""Test that reference pages are complete and current, and that metrics and files are described."""

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import BaseModel
from typer.testing import CliRunner

import run
from orchestrator.config.key_fields import find_section
from orchestrator.config.objectives import BETTER
from orchestrator.config.schema import Configuration, PeerTraining
from orchestrator.reporting.figures.trial import pictures
from orchestrator.reporting.terminal.settings_table import describe_type, find_unit
from orchestrator.store.records import Sweep
from orchestrator.store.store import STORE_FILES, Store
from orchestrator.training.metric_names import FIGURES, METRICS, is_described
from scripts import reference


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """Return a store with a training of two students, its export and its report."""
    root = tmp_path_factory.mktemp("reference") / "store"
    pairs = [
        "training.epochs=1",
        "teacher.training.epochs=1",
        "data.limit.train=200",
        "data.label_noise=0.1",
        "method.name=dual_student",
    ]
    pairs += ["peers.b.network.name=mlp"]
    commands = [
        [
            "train",
            "--local",
            "--name",
            "mine",
            *(part for pair in pairs for part in ("--set", pair)),
        ]
    ]
    commands += [["export", "mine"], ["report", "mine"]]
    for words in commands:
        result = CliRunner().invoke(run.app, [*words, "--store", str(root)])
        assert result.exit_code == 0, result.output
    return Store.named(root)


def test_pages_are_current() -> None:
    assert reference.find_outdated() == [], "run `make reference`"


def test_a_changed_page_is_outdated(tmp_path: Path) -> None:
    shutil.copytree(reference.FOLDER, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "metrics.md"
    file.write_text(file.read_text().replace("nats", "bits", 1))
    (tmp_path / "files.md").unlink()
    assert reference.find_outdated(tmp_path) == ["metrics.md", "files.md"]


def sections(section: type[BaseModel]) -> list[type[BaseModel]]:
    below = [
        inner
        for field in section.model_fields.values()
        if (inner := find_section(field.annotation))
    ]
    return [section, *(each for inner in below for each in sections(inner))]


def test_every_setting_has_a_sentence() -> None:
    plain = {section for section in sections(Configuration) if section is not PeerTraining}
    bare = [
        f"{section.__name__}.{name}"
        for section in plain
        for name, field in section.model_fields.items()
        if not field.description and not find_section(field.annotation)
    ]
    assert not bare
    assert all(section.__doc__ for section in plain)


def test_types_are_words_with_bounds() -> None:
    fields = Configuration.model_fields["training"].annotation.model_fields  # type: ignore[union-attr]
    assert (
        describe_type(fields["epochs"].annotation, fields["epochs"].metadata)
        == "whole number, ≥ 1, ≤ 100000"
    )
    assert describe_type(fields["gradient_clip"].annotation) == "number, > 0, ≤ 1000000000 or null"
    assert find_unit(fields["epochs"]) == "epochs"


def test_every_metric_of_a_trial_is_described(store: Store) -> None:
    (trial,) = Sweep.open(store, "mine").trials.values()
    assert "b/validation/accuracy" in trial.metrics
    assert [name for name in trial.metrics if not is_described(name)] == []


def test_every_objective_is_described() -> None:
    assert set(BETTER) <= set(METRICS)


def test_every_figure_of_a_trial_is_described(store: Store) -> None:
    folder = next((store.root / "sweeps" / "mine" / "trials").iterdir())
    drawn = set(pictures(folder, complete=True))
    assert {"terms", "distributions"} <= drawn <= set(FIGURES)


PARTS = {
    "NAME": r"[^/]+",
    "FINGERPRINT": r"[0-9a-f]{8,64}",
    "PART_ARRAY": r"(train|validation|test)_[a-z_]+",
    "LETTER": r"[b-h]",
    "N": r"\d+",
    "**": r".+",
    "*": r"[^/]+",
}
_TOKEN = re.compile("|".join(map(re.escape, PARTS)))


def undescribed_files(root: Path) -> Iterator[str]:
    """Yield each file of a store, relative to its root, that `STORE_FILES` does not describe."""
    patterns = [re.compile(_expression(pattern)) for pattern in STORE_FILES]
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not any(pattern.fullmatch(name) for pattern in patterns):
            yield name


def _expression(pattern: str) -> str:
    tokens = _TOKEN.split(pattern)
    return "".join(
        re.escape(text) + (PARTS[token] if token else "")
        for text, token in zip(tokens, [*_TOKEN.findall(pattern), ""], strict=True)
    )


def test_every_file_of_a_store_is_described(store: Store) -> None:
    assert (store.root / "mlflow.db").is_file()
    assert list(undescribed_files(store.root)) == []
    (store.root / "sweeps" / "mine" / "notes.txt").touch()
    assert list(undescribed_files(store.root)) == ["sweeps/mine/notes.txt"]
    (store.root / "sweeps" / "mine" / "notes.txt").unlink()


def test_a_letter_stands_for_a_peer_only(tmp_path: Path) -> None:
    for name in ("b", "z"):
        file = (
            tmp_path / "sweeps" / "s" / "trials" / "00000" / "checkpoint" / name / "progress.json"
        )
        file.parent.mkdir(parents=True)
        file.touch()
    assert [Path(name).parent.name for name in undescribed_files(tmp_path)] == ["z"]
    assert all(STORE_FILES.values())
