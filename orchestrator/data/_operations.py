"""Apply operations of RandAugment to batches of images, each image with its own strength.

The operations are those of torchvision's transforms v2. Products and sums are separate operations,
and sums of pixels are exact: a fused operation would round differently at the end of a vector, and
the result would depend on the batch, the threads and the device.
"""

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torchvision.transforms.v2 import functional

from orchestrator.data.memory import to_device

Levels = NDArray[np.float64]
OPERATIONS = (
    *("identity", "shear_x", "shear_y", "translate_x", "translate_y", "rotate", "brightness"),
    *("color", "contrast", "sharpness", "posterize", "solarize", "autocontrast", "equalize"),
)
BRIGHTNESS, COLOR, CONTRAST = (
    OPERATIONS.index(name) for name in ("brightness", "color", "contrast")
)
NUM_PARAMETERS = 6  # of one image: an affine matrix, or one number
LUMA = (0.2989, 0.587, 0.114)  # as in torchvision's grey images


def apply_operations(images: Tensor, operations: NDArray[np.uint8], levels: Levels) -> Tensor:
    """Return the images, each after its own operation.

    Args:
        images: (B, C, H, W) uint8 with one or three channels.
        operations: (B,), positions in `OPERATIONS`.
        levels: (B,), strengths in torchvision's units: the tangent of a shear, pixels, degrees, the
            difference of a factor from 1, bits, and the threshold of solarize in 0..1.

    Returns:
        (B, C, H, W) uint8, on the device of the images.
    """
    order = np.argsort(operations, kind="stable")
    ends = np.cumsum(np.bincount(operations, minlength=len(OPERATIONS))).tolist()
    groups = [
        (name, slice(start, end))
        for name, start, end in zip(OPERATIONS, [0, *ends], ends, strict=False)
        if start < end and name != "identity"
    ]
    parameters = np.zeros((len(order), NUM_PARAMETERS), dtype=np.float32)
    for name, part in groups:
        parameters[part] = _parameters(name, levels[order[part]], *images.shape[2:])
    moved = to_device(torch.from_numpy(parameters), images.device)
    rows = to_device(torch.from_numpy(order), images.device)
    grouped = images.index_select(0, rows)
    for name, part in groups:
        grouped[part] = KERNELS[name](grouped[part], moved[part])
    return torch.empty_like(grouped).index_copy_(0, rows, grouped)


def _parameters(name: str, levels: Levels, height: int, width: int) -> NDArray[np.float64]:
    """Return (B, 6) parameters of an operation.

    An affine operation has the matrix that maps a pixel of the result to one of the image, with
    coordinates from the centre. Other operations have one number, in the first column.
    """
    rows = np.zeros((len(levels), NUM_PARAMETERS))
    if name not in AFFINE:
        rows[:, 0] = SCALARS[name](levels)
        return rows
    rows[:, 0] = rows[:, 4] = 1
    if name == "shear_x":
        rows[:, 1], rows[:, 2] = levels, levels * height / 2
    elif name == "shear_y":
        rows[:, 3], rows[:, 5] = levels, levels * width / 2
    elif name == "translate_x":
        rows[:, 2] = -np.trunc(levels)
    elif name == "translate_y":
        rows[:, 5] = -np.trunc(levels)
    else:
        angle = np.radians(levels)
        rows[:, 0] = rows[:, 4] = np.cos(angle)
        rows[:, 1], rows[:, 3] = -np.sin(angle), np.sin(angle)
    return rows


def _affine(images: Tensor, parameters: Tensor) -> Tensor:
    """Move pixels by `parameters` (B, 6); the nearest pixel is taken, outside is black."""
    batch, channels, height, width = images.shape
    middle_row, middle_column = (height - 1) / 2, (width - 1) / 2
    y = (torch.arange(height, device=images.device) - middle_row)[:, None]
    x = torch.arange(width, device=images.device) - middle_column
    xx, xy, x0, yx, yy, y0 = parameters[:, :, None, None].unbind(1)
    column = (xx * x + xy * y + x0 + middle_column).round_()
    row = (yx * x + yy * y + y0 + middle_row).round_()
    inside = (column >= 0) & (column < width) & (row >= 0) & (row < height)
    index = (row.clamp_(0, height - 1) * width + column.clamp_(0, width - 1)).long()
    pixels = images.reshape(batch, channels, height * width)
    moved = pixels.gather(2, index.view(batch, 1, -1).expand(-1, channels, -1))
    return moved.view(images.shape) * inside[:, None]


def _factor(parameters: Tensor) -> Tensor:
    return parameters[:, :1, None, None]


def _to_pixels(values: Tensor) -> Tensor:
    return values.clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """Return (B, 1, H, W) float32, whole numbers."""
    if images.shape[1] == 1:
        return images.float()
    shares = zip(images.float().unbind(1), LUMA, strict=True)
    red, green, blue = (plane.mul_(share) for plane, share in shares)
    return red.add_(green).add_(blue).floor_()[:, None]


def _blend(images: Tensor, degenerate_images: Tensor, factor: Tensor) -> Tensor:
    return _to_pixels(images.float().mul_(factor).add_(degenerate_images * (1 - factor)))


def _color(images: Tensor, parameters: Tensor) -> Tensor:
    if images.shape[1] == 1:
        return images
    return _blend(images, _grey(images), _factor(parameters))


def _contrast(images: Tensor, parameters: Tensor) -> Tensor:
    total = _grey(images).sum(dim=(1, 2, 3), keepdim=True, dtype=torch.float64)  # exact
    mean = (total / (images.shape[2] * images.shape[3])).float()
    return _blend(images, mean, _factor(parameters))


def _sharpness(images: Tensor, parameters: Tensor) -> Tensor:
    """Blend with the mean of 3 x 3 pixels, the middle one five times; the border is unchanged."""
    if min(images.shape[2:]) <= 2:
        return images
    values = images.float()
    lines = values[:, :, :-2] + values[:, :, 1:-1] + values[:, :, 2:]
    middle = values[:, :, 1:-1, 1:-1]
    total = lines[..., :-2] + lines[..., 1:-1] + lines[..., 2:] + 4 * middle
    blurred = (total / 13).round_()
    sharpened = images.clone()
    sharpened[:, :, 1:-1, 1:-1] = _to_pixels(
        middle + (blurred - middle) * (1 - _factor(parameters))
    )
    return sharpened


def _solarize(images: Tensor, parameters: Tensor) -> Tensor:
    return torch.where(images >= _factor(parameters).to(torch.uint8), ~images, images)


AFFINE = ("shear_x", "shear_y", "translate_x", "translate_y", "rotate")
SCALARS: dict[str, Callable[[Levels], Levels]] = {
    **dict.fromkeys(("brightness", "color", "contrast", "sharpness"), lambda levels: 1 + levels),
    "posterize": lambda levels: 256 - 2 ** (8 - levels),  # the mask of the kept bits
    "solarize": lambda levels: np.ceil(255 * levels.astype(np.float32)),
    **dict.fromkeys(("autocontrast", "equalize"), lambda levels: 0 * levels),
}
KERNELS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    **dict.fromkeys(AFFINE, _affine),
    "brightness": lambda images, parameters: _to_pixels(images.float().mul_(_factor(parameters))),
    "color": _color,
    "contrast": _contrast,
    "sharpness": _sharpness,
    "posterize": lambda images, parameters: images & _factor(parameters).to(torch.uint8),
    "solarize": _solarize,
    "autocontrast": lambda images, _: functional.autocontrast(images),
    "equalize": lambda images, _: functional.equalize(images),
}
