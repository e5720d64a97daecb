"""Test a retrieval method in every form of training: refusals, the plan, the cache."""

from contextlib import nullcontext
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

import run
from methods import Method
from methods.capabilities import bank_plan, uses_teacher_bank
from orchestrator.config import sizes
from orchestrator.config.loader import load
from orchestrator.config.method_variants import build_all_variants, build_variants
from orchestrator.config.schema import Configuration
from orchestrator.data.dataset import read_summary
from orchestrator.data.prepare import describe, prepare
from orchestrator.export._description import needs_teacher
from orchestrator.store.store import Store, write_json
from orchestrator.sweep.preflight.configuration import check_search, check_train, feature_width
from orchestrator.sweep.preflight.preflight import show_plan
from orchestrator.training.capabilities.memory_bank_checks import (
    check_retrieval,
    clean_bytes,
    retrieval_line,
)
from tests.data_summary import data_summary
from tests.refusal import refused
from tests.retrieving import retrieving_method

PEER = "peers.b.network.name=cnn"
SUMMARY = data_summary(classes=["a", "b", "c"], class_sizes=[9, 20, 13])


@pytest.fixture(autouse=True)
def retrieving(monkeypatch: pytest.MonkeyPatch) -> None:
    retrieving_method(monkeypatch)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


def configured(*pairs: str) -> Configuration:
    return load(None, ["method.name=retrieving", *pairs])


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (
            ["method.paradigm=online"],
            ("method.paradigm", "online", "with peers, or method.paradigm=offline"),
        ),
        (
            ["method.paradigm=online", "teacher=null"],
            ("method.paradigm", "online", "with peers, or method.paradigm=teacher_free"),
        ),
        (
            ["teacher=null"],
            ("method.paradigm", "offline", "with a teacher, or method.paradigm=teacher_free"),
        ),
        (
            ["teacher=null", PEER],
            ("method.paradigm", "offline", "with a teacher, or method.paradigm=online"),
        ),
        (["data.mixing=cutmix"], ("data.mixing", "cutmix", ("none",))),
        (
            ["data.mixing=mixup", "method.paradigm=teacher_free"],
            ("data.mixing", "mixup", ("none",)),
        ),
        (
            ["method.paradigm=teacher_free", "method.first=3", "training.epochs=3"],
            ("method.first",),
        ),
    ],
)
def test_invalid_retrieval_settings_are_refused(
    pairs: list[str], expected: tuple[Any, ...]
) -> None:
    with refused(*expected):
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
def test_valid_retrieval_settings_pass(pairs: list[str]) -> None:
    check_train(configured(*pairs))


def test_a_method_with_class_level_needs_is_refused_by_its_field() -> None:
    with refused("method.name", "kd", "with a teacher, or cross_entropy"):
        check_train(load(None, ["method.name=kd", "teacher=null"]))
    with refused("search.methods", "dml", "with peers, or kd"):
        check_search(load(None, ["search.methods=[kd, dml]"]))


def test_a_search_is_refused_for_searched_values_and_not_for_frozen_ones() -> None:
    with refused("method.paradigm", "online", "with peers, or method.paradigm=offline"):
        check_search(configured())
    check_search(configured("method.paradigm=offline"))
    check_search(configured(PEER))
    with refused("method.paradigm", "offline", "with a teacher, or method.paradigm=online"):
        check_search(configured(PEER, "teacher=null"))
    check_search(configured("method.paradigm=teacher_free", "teacher=null", "search.freeze=[seed]"))


def retrieved_by(method: Method) -> tuple[int, int]:
    plan = bank_plan(method, 10)
    assert plan is not None
    return plan.positives, plan.negatives


def test_variants_are_the_configured_method_or_all_searched_choices() -> None:
    assert [
        retrieved_by(method)
        for method in build_variants(configured("method.positives=5"), "retrieving", False)
    ] == [(5, 32)]
    searched = [
        (uses_teacher_bank(method, 10), retrieved_by(method)[0])
        for method in build_variants(configured(), "retrieving", True)
    ]
    assert sorted(searched) == [
        (False, 4),
        (False, 4),
        (False, 8),
        (False, 8),
        (True, 4),
        (True, 8),
    ]
    both = load(None, ["search.methods=[kd, retrieving]"])
    assert sum(uses_teacher_bank(method, 10) for method in build_all_variants(both, True)) == 2
    assert not any(uses_teacher_bank(method, 10) for method in build_all_variants(both, False))


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["method.positives=20", "method.negatives=1"], ("method.positives", 20, (0, 19))),
        (["method.negatives=23"], ("method.negatives", 23, (0, 22))),
        (
            ["method.paradigm=teacher_free", "method.positives=20", "method.negatives=1"],
            ("method.positives", 20, (0, 19)),
        ),
        (["method.positives=20", "method.negatives=23"], ("method.positives", 20, (0, 19))),
    ],
)
def test_retrieving_more_samples_than_exist_is_refused(
    pairs: list[str], expected: tuple[Any, ...]
) -> None:
    with refused(*expected):
        check_retrieval(configured(*pairs), False, SUMMARY, gpu=False)


def test_all_existing_samples_can_be_retrieved() -> None:
    check_retrieval(
        configured("method.positives=19", "method.negatives=22"), False, SUMMARY, gpu=False
    )
    check_retrieval(load(None, ["method.name=kd"]), False, data_summary(), gpu=False)
    with refused("method.negatives", 32, (0, 22)):
        check_retrieval(configured("method.paradigm=offline"), True, SUMMARY, gpu=False)


FEW = replace(SUMMARY, class_sizes=[7, 6, 5])


@pytest.mark.parametrize(
    ("pairs", "expected", "advice"),
    [
        (
            [],
            ("method.positives", 8, (0, 6)),
            "freeze method.positives of at most 6 and method.negatives of at most 11, or give",
        ),
        (
            ["method.positives=3"],
            ("method.negatives", 32, (0, 11)),
            "freeze method.negatives of at most 11, or give",
        ),
        (
            ["method.negatives=9"],
            ("method.positives", 8, (0, 6)),
            "freeze method.positives of at most 6, or give",
        ),
        (
            ["method.positives=9", "method.negatives=12"],
            ("method.positives", 9, (0, 6)),
            "give method.positives of at most 6 and method.negatives of at most 11, or",
        ),
    ],
)
@pytest.mark.parametrize("methods", ["[retrieving]", "[kd, retrieving]", ""])
def test_a_refused_search_names_the_key_to_freeze(
    pairs: list[str], expected: tuple[Any, ...], advice: str, methods: str
) -> None:
    given = [PEER, *pairs, *([f"search.methods={methods}"] if methods else [])]
    ending = advice.replace(", or", (" with method.name=retrieving" if methods else "") + ", or")
    with refused(*expected) as refusal:
        check_retrieval(configured(*given), True, FEW, gpu=False)
    assert ending in str(refusal.value)


def test_the_advice_of_a_refusal_is_accepted() -> None:
    """A search over several methods whose `method.name` is another one."""
    several = ["search.methods=[kd, retrieving]", PEER]
    with refused("method.positives", 8, (0, 6)):
        check_retrieval(load(None, ["method.name=kd", *several]), True, FEW, gpu=False)
    taken = configured(*several, "method.positives=6", "method.negatives=11")
    check_search(taken)
    check_retrieval(taken, True, FEW, gpu=False)

    alone = ["search.methods=[cross_entropy, retrieving]", "teacher=null"]
    with refused(
        "method.paradigm",
        "offline",
        "with a teacher, or method.paradigm=teacher_free with method.name=retrieving",
    ):
        check_search(load(None, ["method.name=cross_entropy", *alone]))
    check_search(configured(*alone, "method.paradigm=teacher_free"))
    with refused("search.methods", "kd", "with a teacher, or cross_entropy"):
        check_search(load(None, ["search.methods=[cross_entropy, kd]", "teacher=null"]))


QUEUED = ["method.paradigm=teacher_free", "method.positives=8", "method.negatives=32"]


@pytest.mark.parametrize(
    ("pairs", "expected"),
    [
        (["method.queue=31"], ("method.queue", 31, (32, None))),
        (["method.queue=8", "method.negatives=0"], ("method.queue", 8, (9, None))),
        (["method.queue=1"], ("method.queue", 1, (32, None))),
        (["method.queue=32"], None),
        (["method.queue=9", "method.negatives=0"], None),
        (["method.queue=1", "method.positives=0", "method.negatives=0"], None),
        (["method.queue=2", "method.positives=0", "method.negatives=2"], None),
        (["method.queue=0"], None),
        (["method.queue=1", "method.paradigm=offline"], None),
    ],
)
def test_a_queue_is_large_enough_for_retrieval(
    pairs: list[str], expected: tuple[Any, ...] | None
) -> None:
    with refused(*expected) if expected else nullcontext():
        check_train(configured(*QUEUED, *pairs))


def test_a_queue_is_large_enough_for_every_searched_retrieval() -> None:
    given = [
        "search.methods=[cross_entropy, retrieving]",
        "method.paradigm=teacher_free",
        "method.negatives=3",
    ]
    with refused("method.queue", 4, (9, None)):
        check_search(configured(*given, "method.queue=4"))
    check_search(configured(*given, "method.queue=9"))


@pytest.mark.parametrize("wanted", [0, 9])
def test_the_faiss_index_is_needed_for_negatives_only(
    monkeypatch: pytest.MonkeyPatch, wanted: int
) -> None:
    monkeypatch.setattr("orchestrator.teacher.faiss_index.importlib.util.find_spec", lambda _: None)
    configuration = configured("resources.retrieval=approximate", f"method.negatives={wanted}")
    line = retrieval_line(configuration, False, SUMMARY, False, True)
    assert line.startswith(
        "approximate, by faiss" if wanted else "exact, among 42 samples: 8 + 0 of"
    )
    if wanted:
        with refused("resources.retrieval", "approximate", ("exact",)):
            check_retrieval(configuration, False, SUMMARY, False)
    else:
        check_retrieval(configuration, False, SUMMARY, False)


@pytest.mark.parametrize(
    ("chosen", "samples", "gpu", "paradigm", "missing"),
    [
        ("approximate", 42, False, "offline", True),
        ("auto", 200_001, False, "offline", True),
        ("auto", 200_000, False, "offline", False),
        ("auto", 200_001, True, "offline", False),
        ("approximate", 42, True, "offline", True),
        ("exact", 200_001, False, "offline", False),
        ("approximate", 200_001, False, "teacher_free", False),
    ],
)
def test_an_approximate_search_needs_its_library(
    monkeypatch: pytest.MonkeyPatch,
    chosen: str,
    samples: int,
    gpu: bool,
    paradigm: str,
    missing: bool,
) -> None:
    configuration = configured(
        f"resources.retrieval={chosen}", f"method.paradigm={paradigm}", "method.negatives=9"
    )
    summary = replace(SUMMARY, class_sizes=[samples - 20, 10, 10])
    check_retrieval(configuration, False, summary, gpu)
    monkeypatch.setattr("orchestrator.teacher.faiss_index.importlib.util.find_spec", lambda _: None)
    if not missing:
        check_retrieval(configuration, False, summary, gpu)
        return
    with refused("resources.retrieval", chosen, ("exact",)) as refusal:
        check_retrieval(configuration, False, summary, gpu)
    assert "install faiss-cpu" in str(refusal.value)


def test_the_cache_holds_features_and_each_pair_once() -> None:
    width = feature_width(configured().teacher.network, 3, [1, 8, 8])  # type: ignore[union-attr]
    assert width == 256
    assert clean_bytes(configured(), False, 50, width) == 50 * 256 * 2 + 50 * (8 + 32) * 8
    assert (
        clean_bytes(configured("teacher.dtype=float32"), True, 50, width)
        == 50 * 256 * 4 + 50 * (4 + 32) * 8 + 50 * (8 + 32) * 8
    )
    assert clean_bytes(configured("method.paradigm=teacher_free"), False, 50, width) == 0
    assert clean_bytes(load(None, ["method.name=kd"]), False, 50, width) == 0


def test_the_plan_describes_retrieval() -> None:
    def describe_line(
        *pairs: str, searching: bool = False, gpu: bool = False, cached: bool = True
    ) -> str:
        return retrieval_line(configured(*pairs), searching, SUMMARY, gpu, cached)

    assert (
        describe_line()
        == "exact, among 42 samples: 8 + 32 of the same and of other classes; 15.6 KiB in the "
        "cache, once for all trials"
    )
    assert describe_line(cached=False).endswith("; computed by each trial")
    assert describe_line("resources.retrieval=approximate").startswith(
        "approximate, by faiss, among 42 samples"
    )
    assert (
        describe_line("method.paradigm=teacher_free")
        == "exact, among at most 42 samples, in each bank of student features"
    )
    assert "among at most 40 samples" in describe_line(
        "method.paradigm=teacher_free", "method.queue=40"
    )
    assert "among at most 42 samples" in describe_line(
        "method.paradigm=teacher_free", "method.queue=43"
    )
    every = describe_line(PEER, searching=True)
    assert "4 + 32, 8 + 32 of" in every and every.endswith("bank of student features")
    assert retrieval_line(load(None, ["method.name=kd"]), True, SUMMARY, False, True) == ""


def test_class_sizes_count_labelled_samples(tmp_path: Path) -> None:
    """Before preparation, afterwards, and for data that were prepared without class sizes."""
    data = load(None, ["data.limit.train=101", "data.labelled=50", "data.label_noise=0.1"]).data
    before = describe(data, tmp_path, 0)
    folder = prepare(data, tmp_path, 0)
    assert sum(before.class_sizes) == 50 and len(before.class_sizes) == 10
    assert (
        describe(data, tmp_path, 0).class_sizes
        == before.class_sizes
        == read_summary(folder).class_sizes
    )
    write_json(folder / "data.json", replace(read_summary(folder), class_sizes=[]).plain())
    assert describe(data, tmp_path, 0).class_sizes == before.class_sizes


def test_an_exported_student_names_the_teacher_it_used() -> None:
    assert needs_teacher(configured()) and not needs_teacher(
        configured("method.paradigm=teacher_free")
    )


def test_the_dry_run_shows_the_line_and_the_bytes(
    digits_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shown(kind: str, *pairs: str) -> str:
        console = Console(file=StringIO(), width=300)
        show_plan(
            Store(digits_store), configured("data.augmentation=none", *pairs), kind, True, console
        )
        return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]

    samples = 1222
    size = sizes.format_bytes(samples * (10 * 2 + 256 * 2 + 40 * 8))
    text = shown("train")
    line = next(line for line in text.splitlines() if line.startswith("retrieval "))
    assert f" exact, among {samples} samples: 8 + 32 of the same" in line and f", {size}\n" in text
    assert "resources.retrieval = exact (approximate beyond 200000 samples on a CPU)" in text
    assert "resources.retrieval = " not in shown("train", "resources.retrieval=exact")
    assert "retrieval" not in shown("train", "method.name=kd")
    assert "computed by each trial" in shown("train", "teacher.mode=online")


@pytest.mark.parametrize(
    "command", [["sweep"], ["sweep", "--dry-run"], ["train"], ["train", "--dry-run"]]
)
@pytest.mark.parametrize(
    ("pairs", "sentence"),
    [
        (["method.positives=500"], "positives = 500 is more than the training part has"),
        (
            ["method.paradigm=online"],
            "configure peers.b.network, or choose method.paradigm=offline",
        ),
        (["data.mixing=mixup"], "data.mixing = 'mixup' blends two samples"),
    ],
)
def test_a_refused_command_prints_one_sentence_and_starts_nothing(
    tmp_path: Path, command: list[str], pairs: list[str], sentence: str
) -> None:
    given = [
        "method.name=retrieving",
        "search.methods=[retrieving]",
        "method.paradigm=offline",
        *pairs,
    ]
    arguments = [
        *command,
        "--store",
        str(tmp_path / "store"),
        *(part for pair in given for part in ("--set", pair)),
    ]
    result = CliRunner().invoke(run.app, arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1), result.stderr
    assert sentence in result.stderr and not (tmp_path / "store" / "sweeps").exists()


def test_features_are_precomputed_if_a_search_may_need_them(tmp_path: Path) -> None:
    small = [
        "data.limit.train=100",
        "data.augmentation=none",
        "teacher.training.epochs=1",
        "teacher.network.width=8",
    ]
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
