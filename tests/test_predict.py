"""Test predictions of an exported student: correct classes, and one sentence per bad file."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

import run
from orchestrator.data.pictures import decode
from orchestrator.export import predict
from orchestrator.export.loading import load_exported
from orchestrator.export.settings import Input, StudentSettings
from orchestrator.models.build import build
from orchestrator.models.weights import save_weights
from orchestrator.store.store import write_json
from tests.refusal import refused

GREY = {"shape": [1, 8, 8], "range": [0, 1], "mean": [0.3], "std": [0.4], "cut": None}
CLASSES = ["zero", "one", "two"]


def _input(shape: tuple[int, int, int], cut: float | None = None) -> Input:
    values = [0.5] * shape[0]
    return Input(shape=shape, mean=values, std=values, cut=cut)


SETTINGS: dict[str, Any] = {"format": 1, "network": {"name": "mlp", "width": 4}, "classes": CLASSES}


def exported(folder: Path, prepared: dict[str, Any] = GREY) -> Path:
    """Write an export with random weights and only the settings for predictions."""
    torch.manual_seed(2)
    network = build("mlp", 3, tuple(prepared["shape"]), {"width": 4})
    save_weights(network, folder / "model.safetensors")
    write_json(folder / "settings.json", SETTINGS | {"input": prepared})
    return folder


def pixels(count: int, *shape: int) -> Any:
    return np.random.default_rng(4).integers(0, 256, (count, *shape), np.uint8)


def predicted(folder: Path, *files: Path, top: int = 3) -> Any:
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
    found = predicted(
        folder, *(tmp_path / name for name in ("grey.png", "colour.png", "many.npy", "one.npy"))
    )
    images = (torch.from_numpy(raw)[:, None].float() / 255 - 0.3) / 0.4
    expected = load_exported(folder)(images).logits.softmax(1)
    assert [row["image"] for row in found] == [
        str(tmp_path / name)
        for name in (
            "grey.png",
            "colour.png",
            "many.npy[0]",
            "many.npy[1]",
            "many.npy[2]",
            "one.npy",
        )
    ]
    for row, picture in zip(found, (0, 1, 0, 1, 2, 2), strict=True):
        given = {entry["class"]: entry["probability"] for entry in row["classes"]}
        assert [given[name] for name in CLASSES] == pytest.approx(
            expected[picture].tolist(), abs=1e-6
        )
        assert list(given) == sorted(given, key=lambda name: -given[name])


def test_pictures_of_other_sizes_are_cut_as_those_that_were_trained_on(tmp_path: Path) -> None:
    Image.fromarray(pixels(1, 40, 60, 3)[0]).save(tmp_path / "wide.png")
    clean = next(
        decode(tmp_path, np.array([b"wide.png"]), [np.array([0])], 16, None, workers=0, pin=False)
    )
    input_settings = _input((3, 16, 16), 224 / 256)
    (found,) = predict.read(tmp_path / "wide.png", input_settings)
    assert np.array_equal(found.pixels, clean[0].numpy().transpose(2, 0, 1)) and not found.note
    (whole,) = predict.read(tmp_path / "wide.png", input_settings.model_copy(update={"cut": None}))
    assert (
        whole.pixels.shape == (3, 16, 16) and whole.note == "scaled from 60 x 40 to 16 x 16 pixels"
    )
    assert not np.array_equal(whole.pixels, found.pixels)


def test_file_name_that_is_not_utf_8_is_read(tmp_path: Path) -> None:
    folder, name = exported(tmp_path / "out"), "caf\udce9"
    np.save(tmp_path / f"{name}.npy", pixels(1, 8, 8)[0])
    Image.fromarray(pixels(1, 8, 8)[0]).save(tmp_path / f"{name}.png")
    found = predicted(folder, tmp_path / f"{name}.npy", tmp_path / f"{name}.png")
    assert [row["image"] for row in found] == [
        str(tmp_path / f"{name}.npy"),
        str(tmp_path / f"{name}.png"),
    ]
    assert found[0]["classes"] == found[1]["classes"]
    shown = CliRunner().invoke(run.app, ["predict", str(folder), str(tmp_path / f"{name}.npy")])
    assert shown.exit_code == 0 and "caf\\udce9.npy" in shown.stdout


def test_table_shows_the_requested_number_of_likeliest_classes(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out")
    Image.fromarray(pixels(1, 8, 8)[0]).save(tmp_path / "grey.png")
    result = CliRunner().invoke(
        run.app, ["predict", str(folder), str(tmp_path / "grey.png"), "--top", "2"]
    )
    best = predicted(folder, tmp_path / "grey.png", top=1)[0]["classes"]
    lines = result.output.splitlines()
    assert (
        len(lines) == 3
        and len(best) == 1
        and lines[1].split() == [f"{best[0]['probability']:.2%}", best[0]["class"]]
    )


def test_a_sentence_for_each_bad_file_and_the_others_are_answered(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out")
    (tmp_path / "bad.png").write_text("no picture")
    np.save(tmp_path / "floats.npy", pixels(1, 8, 8) / 2)
    np.save(tmp_path / "large.npy", pixels(1, 9, 8))
    (tmp_path / "objects.npy").write_bytes(b"\x93NUMPY\x01\x00 no array")
    np.save(tmp_path / "five.npy", np.zeros((2, 8, 8, 1, 3), np.uint8))
    np.save(tmp_path / "number.npy", np.uint8(3))
    np.savez(tmp_path / "archive.npz", a=pixels(1, 8, 8))
    (tmp_path / "archive.npz").rename(tmp_path / "archive.npy")
    for name, count in (("terabytes", 10**12), ("uncountable", 10**25), ("negative", -1)):
        with (tmp_path / f"{name}.npy").open("wb") as stream:
            np.lib.format.write_array_header_1_0(
                stream, {"descr": "|u1", "fortran_order": False, "shape": (count, 8, 8)}
            )
    (tmp_path / "python.npy").write_bytes(
        b"\x93NUMPY\x01\x00" + (2000).to_bytes(2, "little") + b"(" * 2000
    )
    frames = [Image.fromarray(each) for each in pixels(2, 8, 8)]
    frames[0].save(tmp_path / "moving.gif", save_all=True, append_images=frames[1:])
    messages = {
        "bad.png": "cannot be decoded",
        "none.png": "does not exist or is not a file",
        "floats.npy": "is float64 of 1 x 8 x 8",
        "large.npy": "is uint8 of 1 x 9 x 8: give uint8 of 8 x 8 x 1",
        "objects.npy": "is not a readable array",
        "five.npy": "is uint8 of 2 x 8 x 8 x 1 x 3: give uint8 of 8 x 8 x 1",
        "number.npy": "is uint8 of a single number: give",
        "archive.npy": "is not a readable array (it is an archive",
        "terabytes.npy": "is not a readable array",
        "uncountable.npy": "is not a readable array",
        "negative.npy": "is not a readable array",
        "python.npy": "is not a readable array",
        "moving.gif": "it contains several frames or pages: save each",
    }
    files = [str(tmp_path / name) for name in messages]
    nothing = CliRunner().invoke(run.app, ["predict", str(folder), *files])
    assert nothing.exit_code == 2 and not nothing.stdout
    for line, (name, sentence) in zip(nothing.stderr.splitlines(), messages.items(), strict=True):
        assert line.startswith(f"error: {tmp_path / name} ") and sentence in line
        assert len(line) < 500 + len(str(tmp_path)), "a header is not repeated whole"
    Image.fromarray(pixels(1, 8, 8)[0]).save(tmp_path / "grey.png")
    some = CliRunner().invoke(run.app, ["predict", str(folder), *files, str(tmp_path / "grey.png")])
    assert (
        some.exit_code == 0
        and "grey.png" in some.stdout
        and len(some.stderr.splitlines()) == len(messages)
    )


def test_a_folder_that_is_no_export_is_one_sentence(tmp_path: Path) -> None:
    result = CliRunner().invoke(run.app, ["predict", str(tmp_path), "x.png"])
    assert (result.exit_code, result.output.count("\n")) == (
        2,
        1,
    ) and "is not an exported student" in result.output


def test_invalid_folder_is_refused_with_the_system_message() -> None:
    result = CliRunner().invoke(run.app, ["predict", "/dev/null/x", "x.png"])
    assert (
        result.exit_code == 2
        and "(settings.json: Not a directory)" in result.output
        and "Errno" not in result.output
    )


@pytest.mark.parametrize(
    ("wanted", "given", "count"),
    [
        ((1, 8, 8), (8, 8), 1),
        ((1, 8, 8), (8, 8, 1), 1),
        ((1, 8, 8), (8, 8, 8), 8),
        ((1, 8, 8), (8, 8, 8, 1), 8),
        ((1, 8, 8), (1, 8, 8), 1),
        ((3, 16, 16), (16, 16, 3), 1),
        ((3, 16, 16), (16, 16, 16, 3), 16),
        ((1, 8, 6), (8, 8, 6), 8),
    ],
)
def test_as_many_pictures_as_one_is_high_are_many(
    tmp_path: Path, wanted: tuple[int, int, int], given: tuple[int, ...], count: int
) -> None:
    raw = pixels(1, *given)[0]
    np.save(tmp_path / "a.npy", raw)
    found = predict.read(tmp_path / "a.npy", _input(wanted))
    assert np.array_equal(
        np.stack([one.pixels.transpose(1, 2, 0) for one in found]),
        raw.reshape(count, *wanted[1:], wanted[0]),
    )


@pytest.mark.parametrize("shape", [(0, 8, 8), (0, 8, 8, 1)])
def test_an_array_without_a_picture_is_one_sentence(tmp_path: Path, shape: tuple[int, ...]) -> None:
    np.save(tmp_path / "none.npy", pixels(0, *shape[1:]))
    result = CliRunner().invoke(
        run.app, ["predict", str(exported(tmp_path / "out")), str(tmp_path / "none.npy")]
    )
    assert (result.exit_code, result.output.count("\n")) == (
        2,
        1,
    ) and "none.npy holds no image: give" in result.stderr


@pytest.mark.parametrize(
    "change",
    [
        *({name: ...} for name in ("mean", "std", "cut", "shape")),
        {"mean": None},
        {"std": [0.1, 0.2]},
        {"mean": ["x"]},
        {"cut": "x"},
        *({"cut": value} for value in (0, -1, 1.5, 1e-300, float("nan"), float("inf"))),
        *({"std": [value]} for value in (0.0, -1.0, float("nan"), float("inf"))),
        {"mean": [float("nan")]},
        *({"shape": [1, side, 8]} for side in (0, -8, 8.5, "8", True, 10**6, 10**12, 10**30)),
        *({"shape": shape} for shape in ([10**9, 8, 8], [1, 8], [1, 8, 8, 8], 8)),
    ],
)
def test_settings_that_say_too_little_or_the_impossible_are_one_sentence(
    tmp_path: Path, change: dict[str, Any]
) -> None:
    folder = exported(tmp_path / "out")
    content = json.loads((folder / "settings.json").read_text())
    content["input"] = {name: value for name, value in (GREY | change).items() if value is not ...}
    write_json(folder / "settings.json", content)
    Image.fromarray(pixels(1, 8, 8)[0]).save(tmp_path / "grey.png")
    result = CliRunner().invoke(run.app, ["predict", str(folder), str(tmp_path / "grey.png")])
    assert (result.exit_code, result.output.count("\n")) == (
        2,
        1,
    ) and "is not an exported student" in result.output


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"format": float("inf")}, "format: Input should be a valid integer"),
        ({"format": 2}, "was written by a newer version"),
        ({"form": "jax"}, "was written by a newer version"),
        ({"form": []}, "form: Input should be a valid string"),
        ({"classes": "abc"}, "classes: Input should be a valid list"),
        ({"classes": [1, 2, 3]}, "classes.0: Input should be a valid string"),
        ({"classes": ["a", "b\ud800", "c"]}, r"settings.json contains the surrogate U\+D800"),
        ({"network": {"name": "\udcff"}}, r"settings.json contains the surrogate U\+DCFF"),
        (
            {"network": {"name": "mpl"}},
            r"out/settings.json does not describe a valid network \(.*\): export it again",
        ),
        (
            {"network": {"name": "cnn", "width": 10**9}},
            r"out/settings.json does not describe a valid network .*width = 10+ .*export it again",
        ),
        ({"classes": []}, "classes: List should have at least 1 item"),
        ({"network": {"name": None}}, "network.name: Input should be a valid string"),
        (
            {"network": {"name": "mlp", "width": 10**6}},
            "is damaged, the network in settings.json has 4000276000012 bytes",
        ),
        (
            {"network": {"name": "mlp", "width": 10**12}},
            "no network has the sizes in settings.json|width = 10+ is not allowed",
        ),
        (
            {"network": {"name": "mlp", "width": 10**23}},
            "no network has the sizes in settings.json|width = 10+ is not allowed",
        ),
    ],
)
def test_settings_of_no_student_are_one_sentence(
    tmp_path: Path, change: dict[str, Any], sentence: str
) -> None:
    """A network of 10^12 weights is counted and never built."""
    folder = exported(tmp_path / "out")
    content = json.loads((folder / "settings.json").read_text()) | change
    (folder / "settings.json").write_text(json.dumps(content))
    Image.fromarray(pixels(1, 8, 8)[0]).save(tmp_path / "grey.png")
    result = CliRunner().invoke(run.app, ["predict", str(folder), str(tmp_path / "grey.png")])
    assert (result.exit_code, result.output.count("\n")) == (2, 1) and re.search(
        sentence, result.output
    )


def test_weights_of_other_classes_are_listed_below_one_sentence(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out")
    content = json.loads((folder / "settings.json").read_text()) | {"classes": ["a"] * 9}
    (folder / "settings.json").write_text(json.dumps(content))
    Image.fromarray(pixels(1, 8, 8)[0]).save(tmp_path / "grey.png")
    result = CliRunner().invoke(run.app, ["predict", str(folder), str(tmp_path / "grey.png")])
    assert result.exit_code == 2 and "2 tensors do not fit" in result.output.splitlines()[0]
    assert re.search(r"head.weight +float32 3x4 +float32 9x4", result.output)


@pytest.mark.parametrize("content", ["[" * 100_000, '{"format": ' + "9" * 5000 + "}", "[]", "\xff"])
def test_settings_that_are_no_json_of_ours_are_one_sentence(tmp_path: Path, content: str) -> None:
    folder = exported(tmp_path / "out")
    (folder / "settings.json").write_bytes(content.encode("latin-1"))
    result = CliRunner().invoke(run.app, ["predict", str(folder), "x.png"])
    assert (result.exit_code, result.output.count("\n")) == (
        2,
        1,
    ) and "is not an exported student" in result.output


def test_settings_that_do_not_fit_the_program_are_one_sentence(tmp_path: Path) -> None:
    picture = predict.Picture("a", pixels(1, 1, 8, 8)[0])
    settings = StudentSettings.model_validate(SETTINGS | {"input": GREY})

    def fails(_: torch.Tensor) -> torch.Tensor:
        raise AssertionError("Guard failed: images.size()[2] == 9")

    with refused("input.shape", (1, 8, 8)):
        predict.probabilities(fails, [picture], settings)
    with refused("classes", 4, 3):
        predict.probabilities(lambda images: torch.zeros(len(images), 4), [picture], settings)


def test_large_pictures_are_looked_at_in_smaller_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predict, "VALUES", 3 * 64)
    sizes: list[int] = []

    def answers(images: torch.Tensor) -> torch.Tensor:
        sizes.append(len(images))
        return images.flatten(1)[:, :3]

    pictures = [
        predict.Picture(str(number), each) for number, each in enumerate(pixels(7, 1, 8, 8))
    ]
    rows = predict.probabilities(
        answers, pictures, StudentSettings.model_validate(SETTINGS | {"input": GREY})
    )
    expected = (
        (torch.from_numpy(np.stack([one.pixels for one in pictures])).float() / 255 - 0.3) / 0.4
    ).flatten(1)[:, :3]
    assert sizes == [3, 3, 1] and torch.allclose(rows, expected.softmax(1))


def test_images_of_8_and_16_bits_have_equal_predictions_and_notes(tmp_path: Path) -> None:
    folder, raw = exported(tmp_path / "out"), pixels(1, 8, 8)[0]
    Image.fromarray(raw).save(tmp_path / "eight.png")
    Image.fromarray(raw.astype(np.uint16) * 257).save(tmp_path / "sixteen.png")
    Image.fromarray(np.dstack([raw, raw])).save(tmp_path / "alpha.png")
    eight, sixteen, alpha = predicted(
        folder, *(tmp_path / f"{name}.png" for name in ("eight", "sixteen", "alpha"))
    )
    assert eight["classes"] == sixteen["classes"] and "note" not in eight
    assert (sixteen["note"], alpha["note"]) == (
        "16-bit grey scaled to 8 bits",
        "transparency composited on grey",
    )
    result = CliRunner().invoke(run.app, ["predict", str(folder), str(tmp_path / "sixteen.png")])
    assert f"{tmp_path / 'sixteen.png'} (16-bit grey scaled to 8 bits)" in result.output


def test_what_is_printed_moves_no_terminal(tmp_path: Path) -> None:
    folder = exported(tmp_path / "out")
    content = json.loads((folder / "settings.json").read_text())
    write_json(
        folder / "settings.json", content | {"classes": [f"{name}\x1b[2J" for name in CLASSES]}
    )
    for name in ("good\x1b[1A.png", "bad\x1b[1A.png"):
        (tmp_path / name).write_text("no picture")
    Image.fromarray(pixels(1, 8, 8)[0]).save(tmp_path / "good\x1b[1A.png")
    files = [str(tmp_path / f"{name}\x1b[1A.png") for name in ("good", "bad")]
    result = CliRunner().invoke(run.app, ["predict", str(folder), *files])
    assert result.exit_code == 0 and "\x1b" not in result.stdout + result.stderr
    assert (
        "good\\x1b[1A.png" in result.stdout
        and "one\\x1b[2J" in result.stdout
        and "bad\\x1b[1A.png" in result.stderr
    )
