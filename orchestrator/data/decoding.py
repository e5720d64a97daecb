"""Decode one image file to 8 bits per channel; training and `predict` share it. docs/how-to/data.md has the table of modes."""

import warnings
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from orchestrator.core.text import shorten

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # by content, and no others: Pillow has EPS drawn by Ghostscript
BACKGROUND = (128, 128, 128)  # behind what is transparent: black and white shapes are both visible on it
ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 0x0112, 0x0102, 0x0106, 0x0153  # tags of EXIF and TIFF
WHITE_IS_ZERO, SIGNED = 0, 2
Bands = tuple[tuple[int, int], ...]  # the smallest and the largest value of each channel
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
PLAIN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "CMYK")  # Pillow's LAB becomes no RGB
SCALED = "grey of 16 bits scaled to 8"
CUT = "16 bits a channel cut to 8"  # of colour and of grey with alpha Pillow gives the upper 8
NARROW = ", with less than 1/16 of the range in use"  # 8 bits keep fewer than 16 levels of it
COMPOSITED = "transparency shown on grey"
TURNED = "turned upright by EXIF"
CONVERTED = "CMYK converted without a colour profile"

warnings.filterwarnings("ignore", module=r"PIL\.")  # damaged EXIF, large pictures: raw lines between those of the command


class ImageError(Exception):
    """An image that cannot be used; the message is a clause that says why."""


class Decoded(NamedTuple):
    """An image of mode L or RGB, and what was done to it that a person may not expect."""

    image: Image.Image
    notes: tuple[str, ...]


def decode_image(file: Path, channels: int) -> Decoded:
    """Decode a file completely, upright and with 8 bits per channel: mode L for 1 channel, RGB for 3.

    Raises:
        ImageError: The file is damaged or truncated, or of a mode that has no defined range, or holds several frames.
    """
    notes: list[str] = []
    try:
        # A stream: Pillow 13 maps a TIFF that it knows by name, and takes its height for its width where it is to be turned.
        with file.open("rb") as stream, Image.open(stream, formats=FORMATS) as opened:
            _require_one_frame(opened)
            cut = _is_cut(opened)
            opened.load()
            if cut:
                notes.append(_cut_in_words(opened))
            image = _upright(_to_8_bits(opened, notes), opened, notes)
            return Decoded(image.convert("RGB").convert("L") if channels == 1 else image.convert("RGB"), tuple(notes))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(f"it is none of {', '.join(FORMATS)}, or its header is damaged") from error
    except Exception as error:  # Pillow names no errors of damage, and each format has its own
        raise ImageError(shorten(" ".join(str(error).split())) or type(error).__name__) from error


def _require_one_frame(image: Image.Image) -> None:
    if getattr(image, "is_animated", False) and image.format != "MPO":  # a camera's JPEG, with previews behind its picture
        raise ImageError("it holds several frames or pages: save each that is wanted as a file of its own")


def _is_cut(image: ImageFile.ImageFile) -> bool:
    """Whether the file has more than 8 bits a channel and Pillow gives 8 of them; asked before it is loaded."""
    arguments = [tile.args if isinstance(tile.args, tuple) else (tile.args,) for tile in image.tile]
    if image.mode.startswith("I") or image.mode == "F":
        return False
    if image.format == "PPM":
        return any(isinstance(largest, int) and largest > 255 for _, *rest in arguments for largest in rest[:1])
    unpacked = all(";16" in str(raw) for raw, *_ in arguments)
    if image.format == "TIFF" and max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (1,))) > 8 and not unpacked:
        raise ImageError("it has more than 8 bits a channel, each channel by itself: save it with the channels of a pixel together")
    if unpacked and image.format == "PNG" and "transparency" in image.info:
        raise ImageError("one of its colours of 16 bits is transparent, which 8 bits cannot tell from others: save it with alpha")
    return unpacked and image.format in ("PNG", "TIFF")


def _cut_in_words(image: Image.Image) -> str:
    colours = cast("Bands", image.getextrema())[: 4 if image.mode == "CMYK" else 3]
    spread = max(high for _, high in colours) - min(low for low, _ in colours)
    return CUT + (NARROW if spread < 256 // 16 else "")


def _to_8_bits(image: Image.Image, notes: list[str]) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = _scaled(image, notes)
    signed = SIGNED in getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, ())  # of 8 bits Pillow takes -1 for 255
    if signed or image.mode not in PLAIN:
        integers = f"integers {'with a sign' if signed else 'of 32 bits'}, whose range is unknown"
        kind = {"I": integers, "L": integers, "F": "floats, whose range is unknown"}
        raise ImageError(f"its pixels are {kind.get(image.mode, image.mode)}: save it as grey or RGB of 8 or 16 bits")
    if image.mode == "CMYK":
        notes.append(CONVERTED)
    return _composited(image, notes) if image.has_transparency_data else image


def _scaled(image: Image.Image, notes: list[str]) -> Image.Image:
    """Map the range of the file's type, 0..65535 (0..4095 for a TIFF of 12 bits), to 0..255."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    largest = 2 ** tags.get(BITS_PER_SAMPLE, (16,))[0] - 1
    spread, limit = int(values.max()) - int(values.min()), largest / 16
    notes.append(SCALED + (NARROW if values.max() < limit or 0 < spread < limit else ""))
    scaled = np.rint(values * (255 / largest)).astype(np.uint8)
    grey = Image.fromarray(255 - scaled if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else scaled)  # Pillow does so for 8 bits alone
    if (transparent := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _composited(image: Image.Image, notes: list[str]) -> Image.Image:
    straight = image.convert("LA") if image.mode == "La" else image  # grey that is multiplied by its alpha has no way to RGBA
    layer = straight.convert("RGBA")
    alpha = layer.getchannel("A")
    shown = Image.new("RGB", layer.size, BACKGROUND)
    shown.paste(layer, mask=alpha)
    faintest, densest = alpha.getextrema()
    if faintest == densest == 255:
        return shown
    if faintest != densest and all(low == high for low, high in cast("Bands", shown.getextrema())):
        raise ImageError(f"it has the colour {BACKGROUND} of the background that is put behind transparency: give it another one")
    notes.append(COMPOSITED)
    return shown


def _upright(image: Image.Image, opened: Image.Image, notes: list[str]) -> Image.Image:
    """Turn as the camera noted; Pillow itself has turned a TIFF when it loaded it."""
    try:
        turn = TURNS.get(opened.getexif().get(ORIENTATION, 1))
    except Exception:  # as above; damaged EXIF says nothing of the picture
        turn = None
    if turn is None:
        return image
    notes.append(TURNED)
    return image.transpose(turn)
