"""What is refused of a method that retrieves, in every form that may be trained; what the plan says; what the cache holds."""

from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import run
from orchestrator.config import plan
from orchestrator.config.loader import load
from orchestrator.config.method_variants import all_forms, forms
from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.data.dataset import read_summary
from orchestrator.data.prepare import describe, prepare
from orchestrator.export.export import _listens
from orchestrator.store.store import Store, write_json
from orchestrator.sweep.preflight._retrieval import check_retrieval, clean_bytes, retrieval_line
from orchestrator.sweep.preflight.configuration import check_search, check_train, feature_width
from orchestrator.sweep.preflight.preflight import show_plan
from tests.retrieving import retrieving_method

PEER = "peers.b.network.name=cnn"
SUMMARY: dict[str, Any] = {"sizes": {"train": 50}, "class_sizes": [9, 20, 13], "classes": ["a", "b", "c"], "shape": [1, 8, 8]}


@pytest.fixture(autouse=True)
def retrieving(monkeypatch: pytest.MonkeyPatch) -> None:
    retrieving_method(monkeypatch)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def configured(*pairs: str) -> Configuration:
    return load(None, ["method.name=retrieving", *pairs])


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (
            ["method.paradigm=online"],
            r"^method retrieving with paradigm = online trains students that hear one another, and there are no peers: configure "
            r"peers\.b\.network, or take method\.paradigm=offline$",
        ),
        (
            ["method.paradigm=online", "teacher=null"],
            r"no peers: configure peers\.b\.network, or take method\.paradigm=teacher_free$",
        ),
        (
            ["teacher=null"],
            r"^method retrieving with paradigm = offline needs a teacher and `teacher` is null: configure one, or take "
            r"method\.paradigm=teacher_free$",
        ),
        (["teacher=null", PEER], r"or take method\.paradigm=online$"),
        (
            ["data.mixing=cutmix"],
            r"^data\.mixing = 'cutmix' blends two samples in a picture, and method retrieving retrieves samples",
        ),
        (
            ["data.mixing=mixup", "method.paradigm=teacher_free"],
            r"retrieves samples that are similar to one: set data\.mixing=none",
        ),
        (
            ["method.paradigm=teacher_free", "method.first=3", "training.epochs=3"],
            r"^method retrieving: first = 3 leaves no epoch of 3",
        ),
    ],
)
def test_what_cannot_be_trained_is_refused(pairs: list[str], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        check_train(configured(*pairs))


@pytest.mark.parametrize(
    "pairs",
    [
        [],
        [PEER],
        ["method.paradigm=online", PEER, "teacher=null"],
        ["method.paradigm=teacher_free", "teacher=null"],
        ["method.name=kd", "data.mixing=cutmix"],
    ],
)
def test_what_can_be_trained_passes(pairs: list[str]) -> None:
    check_train(configured(*pairs))


def test_methods_whose_needs_are_those_of_the_class_are_refused_by_their_field() -> None:
    with pytest.raises(ConfigurationError, match=r"^method\.name = 'kd' needs a teacher .*: configure one, or take cross_entropy$"):
        check_train(load(None, ["method.name=kd", "teacher=null"]))
    with pytest.raises(ConfigurationError, match=r"^search\.methods = 'dml' trains students .*, or take kd$"):
        check_search(load(None, ["search.methods=[kd, dml]"]))


def test_a_search_is_refused_for_what_it_would_choose_and_not_for_what_is_held() -> None:
    with pytest.raises(ConfigurationError, match=r"with paradigm = online .* no peers.*or take method\.paradigm=offline$"):
        check_search(configured())
    check_search(configured("method.paradigm=offline"))
    check_search(configured(PEER))
    with pytest.raises(ConfigurationError, match=r"with paradigm = offline needs a teacher"):
        check_search(configured(PEER, "teacher=null"))
    check_search(configured("method.paradigm=teacher_free", "teacher=null", "search.freeze=[seed]"))


def test_the_forms_of_a_method_are_as_configured_or_all_choices_of_its_search() -> None:
    assert [method.retrieves for method in forms(configured("method.positives=5"), "retrieving", False)] == [(5, 32)]
    searched = [(method.needs.bank, method.retrieves[0]) for method in forms(configured(), "retrieving", True)]
    assert sorted(searched) == [(False, 4), (False, 4), (False, 8), (False, 8), (True, 4), (True, 8)]
    both = load(None, ["search.methods=[kd, retrieving]"])
    assert sum(method.needs.bank for method in all_forms(both, True)) == 2
    assert not any(method.needs.bank for method in all_forms(both, False))


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (
            ["method.positives=20", "method.negatives=1"],
            r"^method retrieving: positives = 20 is more than the training part has, where the largest class has 19 others with a "
            r"label: give method\.positives of at most 19, or more data$",
        ),
        (
            ["method.negatives=23"],
            r"negatives = 23 .* the largest class leaves 22 of other classes with a label: give "
            r"method\.negatives of at most 22, or more data$",
        ),
        (["method.paradigm=teacher_free", "method.positives=20", "method.negatives=1"], r"positives = 20 is more"),
        (
            ["method.positives=20", "method.negatives=23"],
            r"^method retrieving: positives = 20 and negatives = 23 are more than the training part has, where the largest class "
            r"has 19 others and leaves 22 of other classes with a label: give method\.positives of at most 19 and "
            r"method\.negatives of at most 22, or more data$",
        ),
    ],
)
def test_more_than_there_are_cannot_be_retrieved(pairs: list[str], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=sentence):
        check_retrieval(configured(*pairs), False, SUMMARY, gpu=False)


def test_as_many_as_there_are_can_be_retrieved() -> None:
    check_retrieval(configured("method.positives=19", "method.negatives=22"), False, SUMMARY, gpu=False)
    check_retrieval(load(None, ["method.name=kd"]), False, {}, gpu=False)
    with pytest.raises(ConfigurationError, match="negatives = 32"):
        check_retrieval(configured("method.paradigm=offline"), True, SUMMARY, gpu=False)


FEW: dict[str, Any] = SUMMARY | {"class_sizes": [7, 6, 5]}


@pytest.mark.parametrize(
    ("pairs", "said", "advice"),
    [
        (
            [],
            "positives = 8 and negatives = 32 are",
            "hold method.positives of at most 6 and method.negatives of at most 11, or give",
        ),
        (["method.positives=3"], "negatives = 32 is", "hold method.negatives of at most 11, or give"),
        (["method.negatives=9"], "positives = 8 is", "hold method.positives of at most 6, or give"),
        (
            ["method.positives=9", "method.negatives=12"],
            "positives = 9 and negatives = 12 are",
            "give method.positives of at most 6 and method.negatives of at most 11, or",
        ),
    ],
)
@pytest.mark.parametrize("methods", ["[retrieving]", "[kd, retrieving]", ""])
def test_a_search_is_told_what_to_hold_and_under_which_name(pairs: list[str], said: str, advice: str, methods: str) -> None:
    given = [PEER, *pairs, *([f"search.methods={methods}"] if methods else [])]
    ending = advice.replace(", or", (" with method.name=retrieving" if methods else "") + ", or")
    with pytest.raises(ConfigurationError) as told:
        check_retrieval(configured(*given), True, FEW, gpu=False)
    assert str(told.value).startswith(f"method retrieving: {said} more than") and str(told.value).endswith(f": {ending} more data")


def test_what_a_sentence_advises_is_accepted_next() -> None:
    """A search over several methods whose `method.name` is another one."""
    several = ["search.methods=[kd, retrieving]", PEER]
    with pytest.raises(ConfigurationError, match=r"of at most 11 with method\.name=retrieving, or give more data$"):
        check_retrieval(load(None, ["method.name=kd", *several]), True, FEW, gpu=False)
    taken = configured(*several, "method.positives=6", "method.negatives=11")
    check_search(taken)
    check_retrieval(taken, True, FEW, gpu=False)

    alone = ["search.methods=[cross_entropy, retrieving]", "teacher=null"]
    with pytest.raises(ConfigurationError, match=r"or take method\.paradigm=teacher_free with method\.name=retrieving$"):
        check_search(load(None, ["method.name=cross_entropy", *alone]))
    check_search(configured(*alone, "method.paradigm=teacher_free"))
    with pytest.raises(ConfigurationError, match=r"or take cross_entropy$"):
        check_search(load(None, ["search.methods=[cross_entropy, kd]", "teacher=null"]))


QUEUED = ["method.paradigm=teacher_free", "method.positives=8", "method.negatives=32"]


@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (
            ["method.queue=31"],
            "method retrieving: queue = 31 is fewer samples than negatives = 32: give method.queue of at least 32, or 0 for all",
        ),
        (
            ["method.queue=8", "method.negatives=0"],
            "method retrieving: queue = 8 is fewer samples than positives = 8 and the sample itself: give method.queue of at least "
            "9, or 0 for all",
        ),
        (
            ["method.queue=1"],
            "method retrieving: queue = 1 is fewer samples than positives = 8 and the sample itself, and than negatives = 32: give "
            "method.queue of at least 32, or 0 for all",
        ),
        (["method.queue=32"], ""),
        (["method.queue=9", "method.negatives=0"], ""),
        (["method.queue=1", "method.positives=0", "method.negatives=0"], ""),
        (["method.queue=2", "method.positives=0", "method.negatives=2"], ""),
        (["method.queue=0"], ""),
        (["method.queue=1", "method.paradigm=offline"], ""),
    ],
)
def test_a_queue_holds_what_is_retrieved_from_it(pairs: list[str], sentence: str) -> None:
    if not sentence:
        check_train(configured(*QUEUED, *pairs))
        return
    with pytest.raises(ConfigurationError) as told:
        check_train(configured(*QUEUED, *pairs))
    assert str(told.value) == sentence


def test_a_queue_holds_the_most_that_a_search_retrieves() -> None:
    given = ["search.methods=[cross_entropy, retrieving]", "method.paradigm=teacher_free", "method.negatives=3"]
    with pytest.raises(
        ConfigurationError, match=r"queue = 4 .* positives = 8 .*at least 9, or 0 for all with method\.name=retrieving$"
    ):
        check_search(configured(*given, "method.queue=4"))
    check_search(configured(*given, "method.queue=9"))


@pytest.mark.parametrize("wanted", [0, 9])
def test_an_index_is_for_negatives_alone(monkeypatch: pytest.MonkeyPatch, wanted: int) -> None:
    monkeypatch.setattr("orchestrator.teacher.faiss_index.importlib.util.find_spec", lambda _: None)
    configuration = configured("resources.retrieval=approximate", f"method.negatives={wanted}")
    said = retrieval_line(configuration, False, SUMMARY, False, True)
    assert said.startswith("approximate, by faiss" if wanted else "exact, among 42 samples: 8 + 0 of")
    if wanted:
        with pytest.raises(ConfigurationError, match="for which faiss is missing"):
            check_retrieval(configuration, False, SUMMARY, False)
    else:
        check_retrieval(configuration, False, SUMMARY, False)


@pytest.mark.parametrize(
    ("chosen", "samples", "gpu", "paradigm", "refused"),
    [
        ("approximate", 42, False, "offline", r"^resources\.retrieval = 'approximate' searches approximately, for which faiss is "),
        (
            "auto",
            200_001,
            False,
            "offline",
            r"^resources\.retrieval = 'auto' .*, as 200001 samples are more than 200000 on a CPU, ",
        ),
        ("auto", 200_000, False, "offline", None),
        ("auto", 200_001, True, "offline", None),
        ("approximate", 42, True, "offline", "faiss"),
        ("exact", 200_001, False, "offline", None),
        ("approximate", 200_001, False, "teacher_free", None),
    ],
)
def test_an_approximate_search_needs_its_library(
    monkeypatch: pytest.MonkeyPatch, chosen: str, samples: int, gpu: bool, paradigm: str, refused: str | None
) -> None:
    configuration = configured(f"resources.retrieval={chosen}", f"method.paradigm={paradigm}", "method.negatives=9")
    summary = SUMMARY | {"class_sizes": [samples - 20, 10, 10]}
    check_retrieval(configuration, False, summary, gpu)
    monkeypatch.setattr("orchestrator.teacher.faiss_index.importlib.util.find_spec", lambda _: None)
    if refused is None:
        check_retrieval(configuration, False, summary, gpu)
        return
    with pytest.raises(ConfigurationError, match=refused) as told:
        check_retrieval(configuration, False, summary, gpu)
    assert "install faiss-cpu" in str(told.value) and str(told.value).endswith("or set resources.retrieval=exact")


def test_the_cache_holds_features_and_each_pair_once() -> None:
    width = feature_width(configured().teacher.network, 3, [1, 8, 8])  # type: ignore[union-attr]
    assert width == 256
    assert clean_bytes(configured(), False, 50, width) == 50 * 256 * 2 + 50 * (8 + 32) * 8
    assert clean_bytes(configured("teacher.dtype=float32"), True, 50, width) == 50 * 256 * 4 + 50 * (4 + 32) * 8 + 50 * (8 + 32) * 8
    assert clean_bytes(configured("method.paradigm=teacher_free"), False, 50, width) == 0
    assert clean_bytes(load(None, ["method.name=kd"]), False, 50, width) == 0


def test_the_plan_says_how_samples_are_retrieved() -> None:
    def said(*pairs: str, searching: bool = False, gpu: bool = False, cached: bool = True) -> str:
        return retrieval_line(configured(*pairs), searching, SUMMARY, gpu, cached)

    assert said() == "exact, among 42 samples: 8 + 32 of the same and of other classes; 15.6 KiB in the cache, once for all trials"
    assert said(cached=False).endswith("; by every trial anew")
    assert said("resources.retrieval=approximate").startswith("approximate, by faiss, among 42 samples")
    assert said("method.paradigm=teacher_free") == "exact, among at most 42 samples, in each bank that students fill"
    assert "among at most 40 samples" in said("method.paradigm=teacher_free", "method.queue=40")
    assert "among at most 42 samples" in said("method.paradigm=teacher_free", "method.queue=43")
    every = said(PEER, searching=True)
    assert "4 + 32, 8 + 32 of" in every and every.endswith("students fill")
    assert retrieval_line(load(None, ["method.name=kd"]), True, SUMMARY, False, True) == ""


def test_class_sizes_are_of_the_labels_that_are_known(tmp_path: Path) -> None:
    """Before the data are prepared, afterwards, and of data that were prepared when nobody counted."""
    data = load(None, ["data.limit.train=101", "data.labelled=50", "data.label_noise=0.1"]).data
    before = describe(data, tmp_path, 0)
    folder = prepare(data, tmp_path, 0)
    assert sum(before["class_sizes"]) == 50 and len(before["class_sizes"]) == 10
    assert describe(data, tmp_path, 0)["class_sizes"] == before["class_sizes"] == read_summary(folder)["class_sizes"]
    write_json(folder / "data.json", {name: value for name, value in read_summary(folder).items() if name != "class_sizes"})
    assert describe(data, tmp_path, 0)["class_sizes"] == before["class_sizes"]


def test_an_exported_student_names_a_teacher_that_it_heard() -> None:
    assert _listens(configured()) and not _listens(configured("method.paradigm=teacher_free"))


def test_the_dry_run_shows_the_line_and_the_bytes(digits_store: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(kind: str, *pairs: str) -> str:
        console = Console(file=StringIO(), width=300)
        show_plan(Store(digits_store), configured("data.augmentation=none", *pairs), kind, True, console)
        return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]

    samples = 1222
    size = plan.size(samples * (10 * 2 + 256 * 2 + 40 * 8))
    text = shown("train")
    line = next(line for line in text.splitlines() if line.startswith("retrieval "))
    assert f" exact, among {samples} samples: 8 + 32 of the same" in line and f", {size}\n" in text
    assert "resources.retrieval = exact (approximate beyond 200000 samples on a CPU)" in text
    assert "resources.retrieval = " not in shown("train", "resources.retrieval=exact")
    assert "retrieval" not in shown("train", "method.name=kd")
    assert "by every trial anew" in shown("train", "teacher.mode=online")


@pytest.mark.parametrize("command", [["sweep"], ["sweep", "--dry-run"], ["train"], ["train", "--dry-run"]])
@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["method.positives=500"], "positives = 500 is more than the training part has"),
        (["method.paradigm=online"], "configure peers.b.network, or take method.paradigm=offline"),
        (["data.mixing=mixup"], "data.mixing = 'mixup' blends two samples"),
    ],
)
def test_a_person_gets_one_sentence_and_nothing_starts(tmp_path: Path, command: list[str], pairs: list[str], sentence: str) -> None:
    given = ["method.name=retrieving", "search.methods=[retrieving]", "method.paradigm=offline", *pairs]
    arguments = [*command, "--store", str(tmp_path / "store"), *(part for pair in given for part in ("--set", pair))]
    result = CliRunner().invoke(run.app, arguments)
    assert (result.exit_code, result.output.count("\n")) == (2, 1), result.output
    assert sentence in result.output and not (tmp_path / "store" / "sweeps").exists()


def test_the_cache_is_filled_with_features_where_a_search_may_need_them(tmp_path: Path) -> None:
    small = ["data.limit.train=100", "data.augmentation=none", "teacher.training.epochs=1", "teacher.network.width=8"]
    for name, wanted in (("kd", 0), ("retrieving", 1)):
        given = [*small, f"search.methods=[cross_entropy, {name}]"]
        arguments = [
            "teacher",
            "--precompute",
            "--local",
            "--store",
            str(tmp_path),
            *(part for pair in given for part in ("--set", pair)),
        ]
        result = CliRunner().invoke(run.app, arguments)
        assert result.exit_code == 0, result.output
        assert len(list(tmp_path.glob("knowledge/*/clean-features.npy"))) == wanted
