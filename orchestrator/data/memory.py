"""Share the memory of arrays, or copy them to a device, batch by batch or as a whole."""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.data.dataset import Dataset

CHUNK = 4096  # samples per copy to the device: bounds the memory of the host
SMALL_BYTES = 2**26  # of float32 values that a process keeps in memory rather than mapped
LARGEST_SHARE = 1 / 4  # of the free memory of the device
_resident: dict[tuple[str, str, torch.device], Tensor] = {}


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """Return the tensor on `device`.

    A copy to a GPU goes through pinned memory, so that the host does not wait for it.
    """
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def map_array(array: NDArray[Any]) -> Tensor:
    """Return a tensor that shares the memory of an array; it must not be written to."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        return torch.from_numpy(np.asarray(array))


def fits_on_device(dataset: Dataset, device: torch.device) -> bool:
    """Return whether all parts of a data set may reside on a GPU.

    Only arrays qualify, and they may take a quarter of the free memory. Arrays that are already
    there always qualify.
    """
    if dataset.root is not None or device.type != "cuda":
        return False
    if any(key[0] == dataset.fingerprint and key[2] == device for key in _resident):
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return (
        sum(dataset.split(name).inputs.nbytes for name in ("train", "validation", "test"))
        <= free * LARGEST_SHARE
    )


def images_on_device(dataset: Dataset, part: str, device: torch.device) -> Tensor:
    """Return the images (n, H, W, C) uint8 of a part on `device`.

    They are copied once per process. The images of other data sets are released.
    """
    assert dataset.root is None, "images of folder data are decoded, not kept in memory"
    key = dataset.fingerprint, part, device
    if key not in _resident:
        for stale in [each for each in _resident if each[0] != dataset.fingerprint]:
            del _resident[stale]
        _resident[key] = _copy_images(dataset.split(part).inputs, device)
    return _resident[key]


def _copy_images(images: NDArray[Any], device: torch.device) -> Tensor:
    copy = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), CHUNK):
        copy[start : start + CHUNK] = torch.from_numpy(np.array(images[start : start + CHUNK]))
    return copy
