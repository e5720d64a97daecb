"""Test folders of images that are refused before a start."""

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from data_made import folder
from PIL import Image

from orchestrator.config.data_schema import Data
from orchestrator.core.errors import PreflightError
from orchestrator.data import _image_check as image_check
from orchestrator.data._listing import LAYOUT
from orchestrator.data.pictures import decode
from orchestrator.data.prepare import describe, prepare
from tests.refusal import refused

Refusal = tuple[str, Any, Any]  # the field; the value; what is allowed


def _no_test(root: Path) -> None:
    for file in sorted((root / "test").rglob("*"), reverse=True):
        file.rmdir() if file.is_dir() else file.unlink()
    (root / "test").rmdir()


def _empty_class(root: Path) -> None:
    for file in (root / "test" / "dog").iterdir():
        file.unlink()


def _two_validation_parts(root: Path) -> None:
    for name in ("valid", "val"):
        (root / name).mkdir()


# a field that begins with / is below the folder
BAD_FOLDERS: dict[str, tuple[Callable[[Path], object], Refusal]] = {
    "no test": (_no_test, ("data.path[test]", None, LAYOUT)),
    "no train": (
        lambda root: (root / "train").rename(root / "training"),
        ("data.path[train]", None, LAYOUT),
    ),
    "empty class": (_empty_class, ("/test/dog", 0, (1, None))),
    "two validation parts": (
        _two_validation_parts,
        ("data.path[validation]", ("val", "valid"), "one of them"),
    ),
    "a name that is not UTF-8": (
        lambda root: [
            (root / split / "cat").rename(os.fsdecode(bytes(root / split) + b"/caf\xe9"))
            for split in ("train", "test")
        ],
        ("/train/caf\udce9", "caf\udce9", "UTF-8"),
    ),
    "a name with a line break": (
        lambda root: [
            (root / split / "cat").rename(root / split / "a\nb") for split in ("train", "test")
        ],
        ("/train/a\nb", "a\nb", "printable characters"),
    ),
    "class that training does not have": (
        lambda root: (root / "test" / "fish").mkdir(),
        ("/test/fish", "fish", ("cat", "dog")),
    ),
}


@pytest.mark.parametrize(("damage", "refusal"), BAD_FOLDERS.values(), ids=list(BAD_FOLDERS))
def test_invalid_folders_are_refused(
    tmp_path: Path, damage: Callable[[Path], object], refusal: Refusal
) -> None:
    root = folder(tmp_path / "images")
    damage(root)
    field, value, allowed = refusal
    with refused(f"{root}{field}" if field.startswith("/") else field, value, allowed) as caught:
        prepare(Data(name="folder", path=root, size=8), tmp_path, 0)
    assert str(root) in str(caught.value)


@pytest.mark.parametrize("content", [b"", b"no image", None])
def test_undecodable_images_are_counted_before_training(
    tmp_path: Path, content: bytes | None
) -> None:
    root = folder(tmp_path / "images")
    first, second = root / "train" / "dog" / "1.png", root / "test" / "cat" / "0.png"
    for path in (first, second):
        path.write_bytes(path.read_bytes()[:-60] if content is None else content)
    config = Data(name="folder", path=root, size=8, validation=0.34)
    with refused(str(first.resolve())) as caught:
        prepare(config, tmp_path / "store", 0)
    assert (
        "2 of 24" in str(caught.value)
        and "\n" not in str(caught.value)
        and not (tmp_path / "store").exists()
    )
    assert describe(config, tmp_path / "store", 0).sizes.test == 12, (
        "a dry run lists files without opening them"
    )


def test_parallel_checks_agree_with_one_process_and_a_killed_process_is_reported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = folder(tmp_path / "images")
    messages: list[str] = []
    (root / "train" / "dog" / "1.png").write_bytes(b"no image")
    config = Data(name="folder", path=root, size=8, validation=0.34)
    monkeypatch.setattr(image_check, "MANY", 23)
    before = torch.get_rng_state()
    for few in (1024, 0):
        monkeypatch.setattr(image_check, "FEW", few)
        with refused(f"{root}/train/dog/1.png") as caught:
            prepare(config, tmp_path / "store", 0, messages.append)
        assert "1 of 24" in str(caught.value)
        messages.append(str(caught.value))
    assert messages[:2] == messages[2:] and messages[0].startswith("decoding 24 images once")
    assert torch.equal(before, torch.get_rng_state())
    monkeypatch.setattr(image_check, "decode_image", lambda *_: os._exit(1))
    with refused("data.path", str(root), "more free memory", PreflightError):
        prepare(config, tmp_path / "store", 0)


def test_a_truncated_jpeg_and_an_animation_are_found_before_training(tmp_path: Path) -> None:
    """The header of such a JPEG is complete."""
    root = folder(tmp_path / "images")
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), np.uint8)
    whole = io.BytesIO()
    Image.fromarray(noise).save(whole, "JPEG")
    frames = [Image.fromarray(noise), Image.fromarray(255 - noise)]
    broken, moving = root / "train" / "cat" / "half.jpg", root / "train" / "dog" / "moving.gif"
    broken.write_bytes(whole.getvalue()[: len(whole.getvalue()) // 2])
    config = Data(name="folder", path=root, size=8, validation=0.34)
    with refused(str(broken)) as caught:
        prepare(config, tmp_path / "store", 0)
    assert "1 of 25" in str(caught.value) and "truncated" in str(caught.value.value)
    broken.write_bytes(whole.getvalue())
    frames[0].save(moving, save_all=True, append_images=frames[1:])
    with refused(str(moving)) as caught:
        prepare(config, tmp_path / "store", 0)
    assert "1 of 26" in str(caught.value) and "frames" in str(caught.value.value)


def test_eps_files_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pillow detects formats by content, and renders EPS by Ghostscript."""
    from PIL import EpsImagePlugin

    def draw(*_: object) -> None:
        raise AssertionError("Ghostscript would be started")

    monkeypatch.setattr(EpsImagePlugin, "Ghostscript", draw)
    root = folder(tmp_path / "images")
    text = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 20 20\n%%EndComments\nshowpage\n%%EOF\n"
    (root / "train" / "cat" / "0.png").write_bytes(text)
    with refused(f"{root}/train/cat/0.png") as caught:
        prepare(Data(name="folder", path=root, size=16), tmp_path, 0)
    assert "1 of 24" in str(caught.value)
    with refused(f"{root}/train/cat/0.png"):
        list(decode(root, np.array([b"train/cat/0.png"]), [np.array([0])], 16, None, 0, False))
