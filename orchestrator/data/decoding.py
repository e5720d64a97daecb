"""Decode images to 8 bits per channel, for training and `predict`.

docs/how-to/data.md has the table of modes.
"""

import io
import warnings
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

from orchestrator.core.text import shorten

# recognised by content; no other formats, since Pillow runs Ghostscript for EPS
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
# blended with transparent pixels: black and white shapes are both visible on it
BACKGROUND = (128, 128, 128)
# tags of EXIF and TIFF
ORIENTATION, BITS_PER_SAMPLE, PHOTOMETRIC, SAMPLE_FORMAT = 0x0112, 0x0102, 0x0106, 0x0153
WHITE_IS_ZERO, SIGNED = 0, 2
Bands = tuple[tuple[int, int], ...]  # smallest and largest value of each channel
TRANSPOSES = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow cannot convert LAB to RGB
PLAIN = ("1", "L", "LA", "La", "P", "PA", "RGB", "RGBA", "RGBa", "RGBX", "YCbCr", "CMYK")
GREY = ("1", "L", "LA", "La", "I", "F")
SCALED = "16-bit grey scaled to 8 bits"
# Pillow returns the upper 8 bits of 16-bit colour, and of 16-bit grey with alpha
CUT = "16 bits per channel truncated to 8"
NARROW = ", using less than 1/16 of the range"  # 8 bits keep fewer than 16 levels of it
COMPOSITED = "transparency composited on grey"
TURNED = "rotated upright by EXIF orientation"
CONVERTED = "CMYK converted without a colour profile"

# damaged EXIF, large images: the warnings would interrupt the output of the command
warnings.filterwarnings("ignore", module=r"PIL\.")


class ImageError(Exception):
    """Image that cannot be used; the message is a clause with the reason."""


class Decoded(NamedTuple):
    """Image of mode L or RGB, and notes on conversions that a user may not expect."""

    image: Image.Image
    notes: tuple[str, ...]


def decode_image(file: Path | bytes, channels: int, smallest: int | None = None) -> Decoded:
    """Decode a complete file to an upright image with 8 bits per channel.

    Args:
        file: The image file, or its bytes.
        channels: 1 for mode L, 3 for RGB.
        smallest: Decode a JPEG at 1/2, 1/4 or 1/8 of its size if both sides stay at least so long;
            this is up to eight times as fast. None decodes all pixels.

    Raises:
        ImageError: The file is damaged or truncated, has a mode without a defined range, or holds
            several frames.
    """
    notes: list[str] = []
    try:
        # Open a stream, not a path: Pillow 13 memory-maps a TIFF that it opens by name, and swaps
        # its height and width if it must be rotated.
        with (
            io.BytesIO(file) if isinstance(file, bytes) else file.open("rb") as stream,
            Image.open(stream, formats=FORMATS) as source,
        ):
            _require_one_frame(source)
            cut = _is_cut(source)
            if smallest is not None:
                source.draft(None, (smallest, smallest))
            source.load()
            if cut:
                notes.append(_describe_cut(source))
            image = _rotate_upright(to_8_bits(source, notes), source, notes)
            # a conversion to the same mode would copy the image
            colour = image if image.mode == "RGB" else image.convert("RGB")
            return Decoded(colour.convert("L") if channels == 1 else colour, tuple(notes))
    except ImageError:
        raise
    except UnidentifiedImageError as error:
        raise ImageError(
            f"its format is none of {', '.join(FORMATS)}, or its header is damaged"
        ) from error
    except Exception as error:  # Pillow has no common error for damage: each format has its own
        raise ImageError(shorten(" ".join(str(error).split())) or type(error).__name__) from error


def is_grey(image: Image.Image) -> bool:
    """Return whether the image has one channel besides transparency."""
    return image.mode in GREY or image.mode.startswith("I;16")


def resize_middle_square(image: Image.Image, side: int) -> Image.Image:
    """Return the middle square, resized (bilinear); an image of this size keeps its pixels.

    Args:
        image: The image.
        side: Side of the result in pixels.
    """
    if image.size == (side, side):
        return image
    short = min(image.size)
    left, top = (image.width - short) / 2, (image.height - short) / 2
    box = (left, top, left + short, top + short)
    return image.resize((side, side), Image.Resampling.BILINEAR, box=box)


def _require_one_frame(image: Image.Image) -> None:
    # MPO is a camera's JPEG, with previews behind its image
    if getattr(image, "is_animated", False) and image.format != "MPO":
        raise ImageError(
            "it contains several frames or pages: save each frame that you need as a separate file"
        )


def _is_cut(image: ImageFile.ImageFile) -> bool:
    """Return whether the file has more than 8 bits per channel of which Pillow gives 8.

    Call this before the image is loaded.
    """
    arguments = [tile.args if isinstance(tile.args, tuple) else (tile.args,) for tile in image.tile]
    if image.mode.startswith("I") or image.mode == "F":
        return False
    if image.format == "PPM":
        return any(
            isinstance(largest, int) and largest > 255
            for _, *rest in arguments
            for largest in rest[:1]
        )
    unpacked = all(";16" in str(raw) for raw, *_ in arguments)
    if (
        image.format == "TIFF"
        and max(getattr(image, "tag_v2", {}).get(BITS_PER_SAMPLE, (1,))) > 8
        and not unpacked
    ):
        raise ImageError(
            "it has more than 8 bits per channel in planar layout: save it with interleaved "
            "channels"
        )
    if unpacked and image.format == "PNG" and "transparency" in image.info:
        raise ImageError(
            "it marks a 16-bit colour as transparent, which 8 bits cannot distinguish from "
            "similar colours: save it with an alpha channel"
        )
    return unpacked and image.format in ("PNG", "TIFF")


def _describe_cut(image: Image.Image) -> str:
    colours = cast("Bands", image.getextrema())[: 4 if image.mode == "CMYK" else 3]
    spread = max(high for _, high in colours) - min(low for low, _ in colours)
    return CUT + (NARROW if spread < 256 // 16 else "")


def to_8_bits(image: Image.Image, notes: list[str]) -> Image.Image:
    """Return the image with 8 bits per channel and without transparency.

    Args:
        image: An image of any mode.
        notes: Notes on conversions, to which those of this image are appended.

    Raises:
        ImageError: The mode has no defined range.
    """
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        image = _scale_to_8_bits(image, notes)
    # Pillow reads -1 of 8 bits as 255
    signed = SIGNED in getattr(image, "tag_v2", {}).get(SAMPLE_FORMAT, ())
    if signed or image.mode not in PLAIN:
        integers = f"{'signed' if signed else '32-bit'} integers, and their range is unknown"
        kind = {"I": integers, "L": integers, "F": "floats, and their range is unknown"}
        raise ImageError(
            f"its pixels are {kind.get(image.mode, image.mode)}: save it as grey or RGB with 8 or "
            f"16 bits per channel"
        )
    if image.mode == "CMYK":
        notes.append(CONVERTED)
    return _composite(image, notes) if image.has_transparency_data else image


def _scale_to_8_bits(image: Image.Image, notes: list[str]) -> Image.Image:
    """Map the range of the file's type, 0..65535 (0..4095 for a 12-bit TIFF), to 0..255."""
    values, tags = np.asarray(image), getattr(image, "tag_v2", {})
    largest = 2 ** tags.get(BITS_PER_SAMPLE, (16,))[0] - 1
    spread, limit = int(values.max()) - int(values.min()), largest / 16
    notes.append(SCALED + (NARROW if values.max() < limit or 0 < spread < limit else ""))
    scaled = np.rint(values * (255 / largest)).astype(np.uint8)
    # Pillow inverts only 8 bits
    grey = Image.fromarray(255 - scaled if tags.get(PHOTOMETRIC) == WHITE_IS_ZERO else scaled)
    if (transparent := image.info.get("transparency")) is not None:
        grey.putalpha(Image.fromarray(np.where(values == transparent, 0, 255).astype(np.uint8)))
    return grey


def _composite(image: Image.Image, notes: list[str]) -> Image.Image:
    # Pillow cannot convert grey with premultiplied alpha to RGBA
    straight = image.convert("LA") if image.mode == "La" else image
    layer = straight.convert("RGBA")
    alpha = layer.getchannel("A")
    composited = Image.new("RGB", layer.size, BACKGROUND)
    composited.paste(layer, mask=alpha)
    lowest_alpha, highest_alpha = alpha.getextrema()
    if lowest_alpha == highest_alpha == 255:
        return composited
    if lowest_alpha != highest_alpha and all(
        low == high for low, high in cast("Bands", composited.getextrema())
    ):
        raise ImageError(
            f"its colour equals the background {BACKGROUND} that transparent pixels are "
            "composited on: change its colour"
        )
    notes.append(COMPOSITED)
    return composited


def _rotate_upright(image: Image.Image, source: Image.Image, notes: list[str]) -> Image.Image:
    """Rotate or mirror the image as its EXIF orientation requires.

    Pillow itself has already turned a TIFF when it loaded it.
    """
    try:
        transpose = TRANSPOSES.get(source.getexif().get(ORIENTATION, 1))
    except Exception:  # any error, as above; damaged EXIF does not affect the pixels
        transpose = None
    if transpose is None:
        return image
    notes.append(TURNED)
    return image.transpose(transpose)
