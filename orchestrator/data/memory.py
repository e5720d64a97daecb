"""Where arrays lie: sent to a device batch by batch, or kept there as a whole. Knows no views and no batches."""

import numpy as np
import torch
from torch import Tensor

from orchestrator.data.dataset import Dataset

CHUNK = 4096  # samples on their way to the device: bounds what the host holds in memory
LARGEST_SHARE = 1 / 4  # of the free memory of the device
_kept: dict[tuple[str, str, torch.device], Tensor] = {}


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on `device`; to a GPU through pinned memory, so that the host does not wait for the copy."""
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def fits_on_device(dataset: Dataset, device: torch.device) -> bool:
    """Whether all parts of a data set may lie on a GPU: arrays, of a quarter of its free memory at most, or there already."""
    if dataset.root is not None or device.type != "cuda":
        return False
    if any(key[0] == dataset.fingerprint and key[2] == device for key in _kept):
        return True
    free, _ = torch.cuda.mem_get_info(device)
    return sum(dataset.split(name).inputs.nbytes for name in ("train", "validation", "test")) <= free * LARGEST_SHARE


def on_device(dataset: Dataset, part: str, device: torch.device) -> Tensor:
    """A part's images (n, H, W, C) uint8 on `device`, copied once per process; those of another data set are let go."""
    assert dataset.root is None, "files are decoded, and do not lie in memory"
    key = dataset.fingerprint, part, device
    if key not in _kept:
        for other in [held for held in _kept if held[0] != dataset.fingerprint]:
            del _kept[other]
        _kept[key] = _copied(dataset.split(part).inputs, device)
    return _kept[key]


def _copied(images: np.ndarray, device: torch.device) -> Tensor:
    copy = torch.empty(images.shape, dtype=torch.uint8, device=device)
    for start in range(0, len(images), CHUNK):
        copy[start : start + CHUNK] = torch.from_numpy(np.array(images[start : start + CHUNK]))
    return copy
