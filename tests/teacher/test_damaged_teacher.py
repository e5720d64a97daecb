"""Test a damaged teacher of the store: set aside before a run, then copied or fitted again."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from orchestrator.config.loader import load
from orchestrator.core.errors import PreflightError
from orchestrator.data.prepare import prepare
from orchestrator.models.build import build
from orchestrator.models.weights import save_weights
from orchestrator.store.store import Store, read_json, write_json
from orchestrator.teacher import fit
from orchestrator.teacher.acquire import check_weights
from orchestrator.teacher.card import CARD
from orchestrator.teacher.frozen import WEIGHTS, FrozenTeacher, read_teacher
from tests.refusal import refused

CPU = torch.device("cpu")


def cut(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / name).write_bytes((folder / name).read_bytes()[:-40])

    return damage


def other_weights(folder: Path) -> None:
    state = load_file(folder / WEIGHTS)
    save_file({name: value + 1 for name, value in state.items()}, folder / WEIGHTS)


def another_value(folder: Path) -> None:
    write_json(folder / CARD, read_json(folder / CARD) | {"classes": "10"})


DAMAGES: dict[str, tuple[Callable[[Path], None], str]] = {
    "cut weights": (cut(WEIGHTS), f"{WEIGHTS} is damaged: "),
    "a cut card": (cut(CARD), f"{CARD} is damaged: it is not JSON"),
    "other weights": (
        other_weights,
        "the fingerprint of its tensors differs from the one in teacher.json",
    ),
    "a text for a number": (another_value, f"{CARD} is damaged: classes = '10' is not allowed"),
}


@pytest.mark.parametrize("what", DAMAGES)
@pytest.mark.parametrize("given", [False, True])
def test_a_damaged_teacher_is_set_aside_and_created_again(
    what: str, given: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    damage, message = DAMAGES[what]
    file = tmp_path / "given.safetensors"
    torch.manual_seed(3)
    save_weights(build("mlp", 10, (1, 8, 8), {"width": 8, "depth": 1}), file)
    pairs = [
        "teacher.network.width=8",
        "teacher.network.depth=1",
        *([f"teacher.network.weights={file}"] if given else []),
    ]
    configuration, store = load(None, pairs), Store.open(tmp_path / "store")
    data = prepare(configuration.data, store.root, 0)
    folder = fit.teacher_folder(store, configuration, data)
    assert configuration.teacher is not None
    fit.adopt_weights(
        folder,
        load(None, [*pairs, f"teacher.network.weights={file}"]).teacher or configuration.teacher,
        data,
    )
    check_weights(store, configuration, data)
    assert not caplog.text and fit.damage(folder) is None, "an intact teacher is kept"
    damage(folder)
    with refused(str(folder), allowed="a complete teacher", error=PreflightError):
        FrozenTeacher.open(folder, CPU)
    check_weights(store, configuration, data)
    assert message in caplog.text and f"{folder.name}.damaged" in caplog.text
    assert folder.with_name(f"{folder.name}.damaged").is_dir()
    if given:
        assert read_teacher(folder)[0]["classes"] == 10
    else:
        assert not fit.teacher_exists(folder), "the run fits the teacher"
    if given:
        file.write_bytes(file.read_bytes()[:100])
        with refused("teacher.network.weights", str(file), "a complete .safetensors file"):
            fit.adopt_weights(folder, configuration.teacher, data)
