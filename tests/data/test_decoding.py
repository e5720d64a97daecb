"""Test the decoding of each kind of image file against values that are computed by hand."""

import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from data_made import folder
from numpy.typing import NDArray
from PIL import Image

from orchestrator.config.data_schema import Data
from orchestrator.data.dataset import Dataset
from orchestrator.data.decoding import BACKGROUND, ORIENTATION, ImageError, decode_image
from orchestrator.data.prepare import describe, list_notes, prepare
from orchestrator.export.predict import read
from orchestrator.export.settings import Input

GREY = np.random.default_rng(0).integers(0, 256, (6, 10), np.uint8)
COLOUR = np.random.default_rng(1).integers(0, 256, (6, 10, 3), np.uint8)
ALPHA = np.random.default_rng(2).integers(0, 256, (6, 10), np.uint8)


def decoded(file: Path, channels: int = 3) -> NDArray[Any]:
    return np.asarray(decode_image(file, channels).image)


def grey(values: NDArray[Any]) -> NDArray[Any]:
    return np.repeat(values[..., None], 3, axis=2)


def shown(colour: NDArray[Any], alpha: NDArray[Any]) -> NDArray[Any]:
    """Return the colour over the background by the definition of alpha, before rounding."""
    share = alpha[..., None] / 255
    return colour * share + np.array(BACKGROUND) * (1 - share)


def tiff(values: NDArray[Any], bits: int, white: int) -> bytes:
    """Return an uncompressed grey TIFF of 12 or 16 bits; with `white` 0 the value 0 is white."""
    if bits == 16:
        data = values.astype("<u2").tobytes()
    else:
        pairs = values.ravel().reshape(-1, 2).tolist()
        data = b"".join((first << 12 | second).to_bytes(3, "big") for first, second in pairs)
    height, width = values.shape
    tags = [
        (256, width),
        (257, height),
        (258, bits),
        (259, 1),
        (262, white),
        (273, 8),
        (277, 1),
        (278, height),
        (279, len(data)),
    ]
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return (
        b"II*\0"
        + struct.pack("<I", 8 + len(data))
        + data
        + struct.pack("<H", len(tags))
        + entries
        + bytes(4)
    )


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm"])
def test_grey_of_16_bits_is_scaled_by_its_range(tmp_path: Path, suffix: str) -> None:
    """The same image in 8 and 16 bits: 257 times a value of 8 bits is the same share of 65535."""
    file = tmp_path / f"a.{suffix}"
    Image.fromarray(GREY.astype(np.uint16) * 257).save(file)
    assert np.array_equal(decoded(file), grey(GREY)) and np.array_equal(decoded(file, 1), GREY)
    values = np.array(
        [[0, 128, 129, 385, 386, 65535]], np.uint16
    )  # 257 / 2 and 257 * 3 / 2 lie between
    Image.fromarray(values).save(file)
    assert decoded(file, 1).tolist() == [[0, 0, 1, 1, 2, 255]]


@pytest.mark.parametrize("bits", [12, 16])
def test_a_12_or_16_bit_tiff_and_a_tiff_with_white_zero_are_scaled(
    tmp_path: Path, bits: int
) -> None:
    file, largest = tmp_path / "a.tif", 2**bits - 1
    values = np.array([[0, largest], [largest // 3, largest // 5]], np.uint16)
    file.write_bytes(tiff(values, bits, white=1))
    assert decoded(file, 1).tolist() == [[0, 255], [85, 51]]
    if bits == 16:
        file.write_bytes(tiff(values, bits, white=0))
        assert decoded(file, 1).tolist() == [[255, 0], [170, 204]]


def test_transparent_pixels_are_composited_on_the_background(tmp_path: Path) -> None:
    file, layered = tmp_path / "a.png", np.dstack([COLOUR, ALPHA])
    Image.fromarray(layered).save(file)
    assert np.abs(decoded(file) - shown(COLOUR, ALPHA)).max() <= 1
    Image.fromarray(np.dstack([GREY, ALPHA])).save(file)
    assert np.abs(decoded(file, 1) - shown(GREY[..., None], ALPHA)[..., 0]).max() <= 1
    Image.fromarray(np.dstack([COLOUR, np.full_like(ALPHA, 255)])).save(file)
    assert np.array_equal(decoded(file), COLOUR) and not decode_image(file, 3).notes


@pytest.mark.parametrize("colour", [0, 255])
def test_a_shape_in_the_alpha_channel_stays_visible(tmp_path: Path, colour: int) -> None:
    alpha = np.where(np.arange(60).reshape(6, 10) % 3 == 0, 255, 0).astype(np.uint8)
    Image.fromarray(np.dstack([np.full_like(COLOUR, colour), alpha])).save(tmp_path / "a.png")
    assert np.array_equal(decoded(tmp_path / "a.png", 1), np.where(alpha == 255, colour, 128))


def test_a_shape_of_the_background_colour_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.dstack([np.full_like(COLOUR, 128), ALPHA])).save(tmp_path / "a.png")
    with pytest.raises(ImageError, match="background"):
        decode_image(tmp_path / "a.png", 3)
    Image.fromarray(np.dstack([COLOUR, np.zeros_like(ALPHA)])).save(tmp_path / "a.png")
    assert (decoded(tmp_path / "a.png") == 128).all(), "an entirely transparent image is accepted"


def test_a_single_transparent_colour_is_composited(tmp_path: Path) -> None:
    """As in PNG and GIF: a palette entry, a colour, or a 16-bit value."""
    index = np.arange(60, dtype=np.uint8).reshape(6, 10) % 4
    palette = Image.fromarray(index, "L").convert("P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0, 9, 9, 9])
    colours = np.array([[0, 0, 0], [255, 0, 0], [0, 255, 0], [9, 9, 9]])
    expected = np.where((index == 3)[..., None], 128, colours[index])
    for name, transparency in (("a.gif", 3), ("b.png", 3), ("c.png", bytes([255, 255, 255, 0]))):
        palette.save(tmp_path / name, transparency=transparency)
        assert np.array_equal(decoded(tmp_path / name), expected), name
    Image.fromarray(index).save(tmp_path / "d.png", transparency=3)
    assert np.array_equal(decoded(tmp_path / "d.png", 1), np.where(index == 3, 128, index))
    Image.fromarray(index.astype(np.uint16) * 257).save(tmp_path / "e.png", transparency=3 * 257)
    assert np.array_equal(decoded(tmp_path / "e.png", 1), np.where(index == 3, 128, index))


TURNED: dict[int, Callable[[NDArray[Any]], NDArray[Any]]] = {
    2: np.fliplr,
    3: lambda a: np.rot90(a, 2),
    4: np.flipud,
    5: lambda a: a.T,
    6: lambda a: np.rot90(a, -1),
    7: lambda a: np.rot90(a, 2).T,
    8: np.rot90,
}


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("orientation", TURNED)
def test_an_image_is_rotated_by_its_exif_orientation(
    tmp_path: Path, orientation: int, suffix: str
) -> None:
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    Image.fromarray(GREY).save(tmp_path / f"a.{suffix}", exif=exif)
    assert np.array_equal(decoded(tmp_path / f"a.{suffix}", 1), TURNED[orientation](GREY))


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
def test_damaged_exif_is_ignored(tmp_path: Path) -> None:
    Image.fromarray(COLOUR).save(tmp_path / "a.png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    assert np.array_equal(decoded(tmp_path / "a.png"), COLOUR)


def test_cmyk_is_converted_by_its_definition(tmp_path: Path) -> None:
    inks = np.random.default_rng(3).integers(0, 256, (6, 10, 4), np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "a.tif")
    expected = (255 - inks[..., :3]) * (1 - inks[..., 3:] / 255)
    assert np.abs(decoded(tmp_path / "a.tif") - expected).max() <= 1
    assert decode_image(tmp_path / "a.tif", 1).notes == ("CMYK converted without a colour profile",)


@pytest.mark.parametrize(
    ("suffix", "array"), [("tif", GREY.astype(np.int32)), ("tif", GREY / 255), ("pfm", GREY / 255)]
)
def test_pixels_without_a_defined_range_are_refused(
    tmp_path: Path, suffix: str, array: NDArray[Any]
) -> None:
    array = array if array.dtype == np.int32 else array.astype(np.float32)
    Image.fromarray(array).save(tmp_path / f"a.{suffix}", "TIFF" if suffix == "tif" else "PPM")
    with pytest.raises(ImageError, match="range"):
        decode_image(tmp_path / f"a.{suffix}", 3)


def test_signed_integers_are_refused(tmp_path: Path) -> None:
    """Pillow reads -1 of 8 bits as 255."""
    Image.fromarray(GREY).save(tmp_path / "a.tif", tiffinfo={339: 2})
    with pytest.raises(ImageError, match="sign"):
        decode_image(tmp_path / "a.tif", 3)


def test_lab_is_refused(tmp_path: Path) -> None:
    Image.new("LAB", (8, 8)).save(tmp_path / "a.tif")
    with pytest.raises(ImageError, match="LAB"):
        decode_image(tmp_path / "a.tif", 3)


@pytest.mark.parametrize("suffix", ["gif", "png", "tif", "webp"])
def test_several_frames_or_pages_are_refused(tmp_path: Path, suffix: str) -> None:
    first, second = Image.fromarray(COLOUR), Image.fromarray(255 - COLOUR)
    first.save(tmp_path / f"a.{suffix}", save_all=True, append_images=[second])
    with pytest.raises(ImageError, match="several frames"):
        decode_image(tmp_path / f"a.{suffix}", 3)
    first.save(tmp_path / f"a.{suffix}")
    assert decoded(tmp_path / f"a.{suffix}").shape == COLOUR.shape


def test_a_camera_jpeg_with_a_preview_is_decoded(tmp_path: Path) -> None:
    first, second = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    first.save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=[second])
    assert np.abs(decoded(tmp_path / "a.jpg").astype(int) - [255, 0, 0]).max() <= 2


def test_training_and_predict_decode_alike_and_report_conversions(tmp_path: Path) -> None:
    """A folder of 16 bits gives the same inputs as the folder in 8 bits."""
    prepared = {}
    for bits in (8, 16):
        root = folder(tmp_path / f"bits{bits}", ("train", "val", "test"))
        for file in sorted(root.rglob("*.png")):
            values = np.asarray(Image.open(file, formats=("PNG",)).convert("L"))
            Image.fromarray(values if bits == 8 else values.astype(np.uint16) * 257).save(file)
        config = Data(name="folder", path=root, size=16)
        prepared[bits] = Dataset.open(prepare(config, tmp_path, 0))
        plan_lines = list_notes(config, describe(config, tmp_path, 0))
        assert plan_lines == ({} if bits == 8 else {"images": "16-bit grey scaled to 8 bits: 36"})
    expected_input = Input(shape=(3, 16, 16), mean=[0.5] * 3, std=[0.5] * 3, cut=224 / 256)
    for part in ("train", "test"):
        for path in prepared[8].split(part).inputs:
            (eight,), (sixteen,) = (
                read(tmp_path / f"bits{bits}" / path.decode(), expected_input) for bits in (8, 16)
            )
            assert np.array_equal(eight.pixels, sixteen.pixels)
            assert (eight.note, sixteen.note) == ("", "16-bit grey scaled to 8 bits")


def test_a_barely_used_range_is_noted(tmp_path: Path) -> None:
    """Twelve bits in a file of sixteen leave sixteen grey levels."""
    Image.fromarray(GREY.astype(np.uint16) * 16).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png", 3).notes == (
        "16-bit grey scaled to 8 bits, using less than 1/16 of the range",
    )
    assert decoded(tmp_path / "a.png", 1).max() <= 16


def test_a_narrow_range_far_from_black_is_noted(tmp_path: Path) -> None:
    """Signed values plus 32768, as scanners store them."""
    Image.fromarray(GREY.astype(np.uint16) * 16 + 30_000).save(tmp_path / "a.png")
    assert decode_image(tmp_path / "a.png", 3).notes == (
        "16-bit grey scaled to 8 bits, using less than 1/16 of the range",
    )


def png_16(values: NDArray[Any], transparent: bytes = b"") -> bytes:
    """Return a PNG of 16 bits with 2 channels (grey and alpha), 3 or 4."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))
        )

    height, width, channels = values.shape
    header = struct.pack(">IIBBBBB", width, height, 16, {2: 4, 3: 2, 4: 6}[channels], 0, 0, 0)
    lines = b"".join(b"\0" + line.astype(">u2").tobytes() for line in values)
    extra = chunk(b"tRNS", transparent) if transparent else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + extra
        + chunk(b"IDAT", zlib.compress(lines))
        + chunk(b"IEND", b"")
    )


def tiff_16(values: NDArray[Any], order: str, planar: int = 1, inks: bool = False) -> bytes:
    """Return an uncompressed 16-bit TIFF with 3 channels, 4 with alpha last, or 4 inks."""
    height, width, channels = values.shape
    data = (values.transpose(2, 0, 1) if planar == 2 else values).astype(f"{order}u2").tobytes()
    each, bits_at = len(data) // (channels if planar == 2 else 1), 8 + len(data)
    bits = struct.pack(f"{order}{channels}H", *[16] * channels)
    offsets_at = bits_at + len(bits)
    planes = channels if planar == 2 else 1
    offsets = struct.pack(f"{order}{planes}I", *(8 + plane * each for plane in range(planes)))
    counts = struct.pack(f"{order}{planes}I", *[each] * planes)
    places = (8, each) if planes == 1 else (offsets_at, offsets_at + len(offsets))
    tags = [
        (256, 1, width),
        (257, 1, height),
        (258, channels, bits_at),
        (259, 1, 1),
        (273, planes, places[0]),
    ]
    tags = sorted([*tags, (262, 1, 5 if inks else 2)])
    tags += [(277, 1, channels), (278, 1, height), (279, planes, places[1]), (284, 1, planar)]
    tags += [(338, 1, 2)] * (channels == 4 and not inks)
    entries = b"".join(
        struct.pack(f"{order}HHI", tag, 3 if tag in (258, 259, 262, 277, 284, 338) else 4, count)
        + (
            struct.pack(f"{order}HH", value, 0)
            if tag in (259, 262, 277, 284, 338)
            else struct.pack(f"{order}I", value)
        )
        for tag, count, value in tags
    )
    mark = b"II*\0" if order == "<" else b"MM\0*"
    directory = offsets_at + len(offsets) + len(counts)
    rest = struct.pack(f"{order}H", len(tags)) + entries + bytes(4)
    return mark + struct.pack(f"{order}I", directory) + data + bits + offsets + counts + rest


def ppm_16(values: NDArray[Any]) -> bytes:
    """Return a binary PPM of 16 bits."""
    return b"P6 %d %d 65535\n" % (values.shape[1], values.shape[0]) + values.astype(">u2").tobytes()


WRITERS: dict[str, tuple[int, Callable[[NDArray[Any]], bytes]]] = {
    "grey and alpha": (2, png_16),
    "RGB": (3, png_16),
    "RGBA": (4, png_16),
    "TIFF": (3, lambda v: tiff_16(v, "<")),
    "TIFF, big end first": (3, lambda v: tiff_16(v, ">")),
    "TIFF with alpha": (4, lambda v: tiff_16(v, "<")),
    "PPM": (3, ppm_16),
}


@pytest.mark.parametrize("kind", WRITERS)
def test_truncation_to_8_bits_is_noted(tmp_path: Path, kind: str) -> None:
    """An image of the whole range keeps its upper 8 bits; one within 20..219 becomes one level."""
    channels, written = WRITERS[kind]
    file, has_alpha = tmp_path / "a", channels in (2, 4)
    colours = COLOUR[..., : channels - has_alpha]
    full = [np.full((*GREY.shape, 1), 255)] if has_alpha else []
    for values, notes in (
        (colours.astype(np.uint16) * 257, ("16 bits per channel truncated to 8",)),
        (
            colours % 200 + 20,
            ("16 bits per channel truncated to 8, using less than 1/16 of the range",),
        ),
        (
            colours % 200 + np.uint16(40_000),
            ("16 bits per channel truncated to 8, using less than 1/16 of the range",),
        ),
    ):
        file.write_bytes(
            written(np.dstack([values, *(alpha.astype(np.uint16) * 257 for alpha in full)]))
        )
        assert decode_image(file, 3).notes == notes
        if values.max() > 50_000:
            assert np.array_equal(decoded(file), np.broadcast_to(colours, (*GREY.shape, 3)))


def test_truncation_of_16_bit_cmyk_is_noted(tmp_path: Path) -> None:
    inks = np.random.default_rng(3).integers(0, 256, (6, 10, 4), np.uint8)
    Image.fromarray(inks, "CMYK").save(tmp_path / "8.tif")
    (tmp_path / "16.tif").write_bytes(tiff_16(inks.astype(np.uint16) * 257, ">", inks=True))
    assert np.array_equal(decoded(tmp_path / "16.tif"), decoded(tmp_path / "8.tif"))
    assert decode_image(tmp_path / "16.tif", 3).notes == (
        "16 bits per channel truncated to 8",
        "CMYK converted without a colour profile",
    )


def test_16_bit_colours_that_pillow_misreads_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(
        png_16(COLOUR.astype(np.uint16) * 257, struct.pack(">HHH", 20, 20, 20))
    )
    with pytest.raises(ImageError, match="marks a 16-bit colour as transparent"):
        decode_image(tmp_path / "a", 3)
    (tmp_path / "a").write_bytes(tiff_16(COLOUR.astype(np.uint16) * 257, "<", planar=2))
    with pytest.raises(ImageError, match="planar layout"):
        decode_image(tmp_path / "a", 3)
