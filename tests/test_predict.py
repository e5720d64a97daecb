"""Pictures shown to an exported student: its own answers for pictures as it was trained on, and a sentence for each bad file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import run
from orchestrator import predict
from orchestrator.data.pictures import decode
from orchestrator.export import load_exported
from orchestrator.models import build, save_weights
from orchestrator.store import write_json

GREY = {"shape": [1, 8, 8], "range": [0, 1], "mean": [0.3], "std": [0.4], "cut": None}
CLASSES = ["zero", "one", "two"]


def exported(folder: Path, prepared: dict[str, Any] = GREY) -> Path:
    """An export with random weights; only what predicting needs is in its settings."""
    torch.manual_seed(2)
    network = build("mlp", 3, tuple(prepared["shape"]), {"width": 4})
    save_weights(network, folder / "model.safetensors")
    write_json(
        folder / "settings.json", {"format": 1, "network": {"name": "mlp", "width": 4}, "classes": CLASSES, "input": prepared}
    )
    return folder


def pixels(count: int, *shape: int) -> Any:
    return np.random.default_rng(4).integers(0, 256, (count, *shape), np.uint8)


def told(folder: Path, *files: Path, top: int = 3) -> Any:
    arguments = ["predict", str(folder), *map(str, files), "--json", "--top", str(top)]
    result = CliRunner().invoke(run.app, arguments)
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


@torch.no_grad()
def test_a_picture_and_an_array_give_the_answers_of_the_student(tmp_path: Path) -> None:
    folder, raw = exported(tmp_path / "out"), pixels(3, 8, 8)
    Image.fromarray(raw[0]).save(tmp_path / "grey.png")
    Image.fromarray(raw[1]).convert("RGB").save(tmp_path / "colour.png")
    np.save(tmp_path / "many.npy", raw[..., None])
    np.save(tmp_path / "one.npy", raw[2])
    found = told(folder, *(tmp_path / name for name in ("grey.png", "colour.png", "many.npy", "one.npy")))
    images = (torch.from_numpy(raw)[:, None].float() / 255 - 0.3) / 0.4
    expected = load_exported(folder)(images).logits.softmax(1)
    assert [row["image"] for row in found] == [
        str(tmp_path / name) for name in ("grey.png", "colour.png", "many.npy[0]", "many.npy[1]", "many.npy[2]", "one.npy")
    ]
    for row, picture in zip(found, (0, 1, 0, 1, 2, 2), strict=True):
        given = {entry["class"]: entry["probability"] for entry in row["classes"]}
        assert [given[name] for name in CLASSES] == pytest.approx(expected[picture].tolist(), abs=1e-6)
        assert list(given) == sorted(given, key=lambda name: -given[name])


def test_pictures_of_other_sizes_are_cut_as_those_that_were_trained_on(tmp_path: Path) -> None:
    Image.fromarray(pixels(1, 40, 60, 3)[0]).save(tmp_path / "wide.png")
    clean = next(decode(tmp_path, np.array([b"wide.png"]), [np.array([0])], 16, None, workers=0, pin=False))
    said = {"shape": [3, 16, 16], "cut": 224 / 256}
    (found,) = predict.read(tmp_path / "wide.png", said)
    assert np.array_equal(found.pixels, clean[0].numpy().transpose(2, 0, 1)) and not found.note
    (whole,) = predict.read(tmp_path / "wide.png", said | {"cut": None})
    assert whole.pixels.shape == (3, 16, 16) and whole.note == "scaled from 60 x 40 to 16 x 16 pixels"
    assert not np.array_equal(whole.pixels, found.pixels)


def test_a_table_shows_the_likeliest_first_and_no_more_than_asked(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out")
    Image.fromarray(pixels(1, 8, 8)[0]).save(tmp_path / "grey.png")
    result = CliRunner().invoke(run.app, ["predict", str(folder), str(tmp_path / "grey.png"), "--top", "2"])
    best = told(folder, tmp_path / "grey.png", top=1)[0]["classes"]
    lines = result.output.splitlines()
    assert len(lines) == 3 and len(best) == 1 and lines[1].split() == [f"{best[0]['probability']:.2%}", best[0]["class"]]


def test_a_sentence_for_each_bad_file_and_the_others_are_answered(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out")
    (tmp_path / "bad.png").write_text("no picture")
    np.save(tmp_path / "floats.npy", pixels(1, 8, 8) / 2)
    np.save(tmp_path / "large.npy", pixels(1, 9, 8))
    (tmp_path / "objects.npy").write_bytes(b"\x93NUMPY\x01\x00 no array")
    said = {
        "bad.png": "cannot be decoded", "none.png": "does not exist or is no file", "floats.npy": "is float64 of 1 x 8 x 8",
        "large.npy": "is uint8 of 1 x 9 x 8: give uint8 of 8 x 8 x 1", "objects.npy": "is no array that can be read",
    }  # fmt: skip
    files = [str(tmp_path / name) for name in said]
    nothing = CliRunner().invoke(run.app, ["predict", str(folder), *files])
    assert nothing.exit_code == 2 and not nothing.stdout
    for line, (name, sentence) in zip(nothing.stderr.splitlines(), said.items(), strict=True):
        assert line.startswith(f"error: {tmp_path / name} ") and sentence in line
    Image.fromarray(pixels(1, 8, 8)[0]).save(tmp_path / "grey.png")
    some = CliRunner().invoke(run.app, ["predict", str(folder), *files, str(tmp_path / "grey.png")])
    assert some.exit_code == 0 and "grey.png" in some.stdout and len(some.stderr.splitlines()) == len(said)


def test_a_folder_that_is_no_export_is_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(run.app, ["predict", str(tmp_path), "x.png"])
    assert (result.exit_code, result.output.count("\n")) == (2, 1) and "is no exported student" in result.output


@pytest.mark.parametrize(
    ("wanted", "given", "count"),
    [
        ([1, 8, 8], (8, 8), 1),
        ([1, 8, 8], (8, 8, 1), 1),
        ([1, 8, 8], (8, 8, 8), 8),
        ([1, 8, 8], (8, 8, 8, 1), 8),
        ([1, 8, 8], (1, 8, 8), 1),
        ([3, 16, 16], (16, 16, 3), 1),
        ([3, 16, 16], (16, 16, 16, 3), 16),
        ([1, 8, 6], (8, 8, 6), 8),
    ],
)
def test_as_many_pictures_as_one_is_high_are_many(tmp_path: Path, wanted: list[int], given: tuple[int, ...], count: int) -> None:
    raw = pixels(1, *given)[0]
    np.save(tmp_path / "a.npy", raw)
    found = predict.read(tmp_path / "a.npy", {"shape": wanted})
    assert np.array_equal(np.stack([one.pixels.transpose(1, 2, 0) for one in found]), raw.reshape(count, *wanted[1:], wanted[0]))


@pytest.mark.parametrize("shape", [(0, 8, 8), (0, 8, 8, 1)])
def test_an_array_without_a_picture_is_one_sentence(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "none.npy", pixels(0, *shape[1:]))
    result = CliRunner().invoke(run.app, ["predict", str(exported(tmp_path / "out")), str(tmp_path / "none.npy")])
    assert (result.exit_code, result.output.count("\n")) == (2, 1) and "none.npy holds no picture: give" in result.stderr


@pytest.mark.parametrize(
    "change",
    [
        *({name: ...} for name in ("mean", "std", "cut", "shape")),
        {"mean": None},
        {"std": [0.1, 0.2]},
        {"mean": ["x"]},
        {"cut": "x"},
    ],
)
def test_settings_that_say_too_little_are_one_sentence(tmp_path: Path, change: dict[str, Any]) -> None:
    folder = exported(tmp_path / "out")
    said = json.loads((folder / "settings.json").read_text())
    said["input"] = {name: value for name, value in (GREY | change).items() if value is not ...}
    write_json(folder / "settings.json", said)
    Image.fromarray(pixels(1, 8, 8)[0]).save(tmp_path / "grey.png")
    result = CliRunner().invoke(run.app, ["predict", str(folder), str(tmp_path / "grey.png")])
    assert (result.exit_code, result.output.count("\n")) == (2, 1) and "is no exported student or damaged" in result.output


def test_what_is_printed_moves_no_terminal(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out")
    said = json.loads((folder / "settings.json").read_text())
    write_json(folder / "settings.json", said | {"classes": [f"{name}\x1b[2J" for name in CLASSES]})
    for name in ("good\x1b[1A.png", "bad\x1b[1A.png"):
        (tmp_path / name).write_text("no picture")
    Image.fromarray(pixels(1, 8, 8)[0]).save(tmp_path / "good\x1b[1A.png")
    files = [str(tmp_path / f"{name}\x1b[1A.png") for name in ("good", "bad")]
    result = CliRunner().invoke(run.app, ["predict", str(folder), *files])
    assert result.exit_code == 0 and "\x1b" not in result.stdout + result.stderr
    assert "good\\x1b[1A.png" in result.stdout and "one\\x1b[2J" in result.stdout and "bad\\x1b[1A.png" in result.stderr
