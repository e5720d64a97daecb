"""Augment images by the transforms of user code."""

from bdb import BdbQuit
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from orchestrator.core.errors import ConfigurationError, short_reason, suggest_name
from orchestrator.core.user_code import failure_location
from orchestrator.data._streams import Stream, open_stream

if TYPE_CHECKING:
    from torch import Tensor

Function = Callable[[NDArray[np.uint8], np.random.Generator], NDArray[np.uint8]]


@dataclass(frozen=True)
class Transform:
    """Augmentation `data.augmentation = my/NAME`.

    Attributes:
        name: The name, with the prefix.
        function: Takes an image (H, W, C) uint8 and a generator, and returns such an image.
        identity: Text that changes with the code.
        place: File and line of the function, for messages.
    """

    name: str
    function: Function
    identity: str
    place: str

    def apply(
        self, image: NDArray[np.uint8], index: int, seed: int, view: int
    ) -> NDArray[np.uint8]:
        """Return the augmented image (H, W, C) uint8; (seed, view, index) determine it.

        One rank alone may fail, so the error is not one of all ranks.

        Raises:
            ConfigurationError: The function fails, or returns something else.
        """
        from torch import Tensor

        generator = open_stream(seed, view, Stream.USER_TRANSFORM, index)
        try:
            result: Any = self.function(image.copy(), generator)
        except BdbQuit:  # the user has left the debugger
            raise
        except Exception as error:  # any error of user code
            reason = short_reason(error)
            location = failure_location(error, self.place)
            raise self._failure(f"fails ({reason})", reason, location) from error
        if isinstance(result, Tensor):
            result = result.numpy()
        if (
            not isinstance(result, np.ndarray)
            or result.dtype != np.uint8
            or result.shape != image.shape
        ):
            got = f"{getattr(result, 'dtype', type(result).__name__)} of shape " + str(
                getattr(result, "shape", "none")
            )
            raise self._failure(f"returns {got}, and must return uint8 of shape {image.shape}", got)
        return result

    def _failure(self, problem: str, value: str, location: str = "") -> ConfigurationError:
        return ConfigurationError(
            f"transform {self.name} ({location or self.place}) {problem}"
        ).with_details("data.augmentation", value, "an image (H, W, C) uint8")


TRANSFORMS: dict[str, Transform] = {}


def transform_batch(name: str, seed: int, images: "Tensor", samples: "Tensor") -> "Tensor":
    """Return augmented images.

    Args:
        name: A key of `TRANSFORMS`.
        seed: The seed of the views.
        images: (B, H, W, C) uint8.
        samples: (B, 2) int64, the view and the index of each image.

    Returns:
        (B, H, W, C) uint8, on the device of the images.
    """
    import torch

    transform, device = TRANSFORMS[name], images.device
    pixels = images.cpu().numpy()
    changed = [
        transform.apply(image, index, seed, view)
        for image, (view, index) in zip(pixels, samples.tolist(), strict=True)
    ]
    return torch.from_numpy(np.stack(changed)).to(device)


def require_transform(augmentation: str) -> None:
    """Raise ConfigurationError if an augmentation `my/NAME` is not registered."""
    if augmentation.startswith("my/") and augmentation not in TRANSFORMS:
        raise ConfigurationError(
            f"data.augmentation = {augmentation!r} is not known: "
            f"{suggest_name(augmentation, TRANSFORMS)}"
        ).with_details("data.augmentation", augmentation, tuple(TRANSFORMS))


def transform_code(augmentation: str) -> str:
    """Return the identity of the code of an augmentation; empty for built-in ones."""
    return TRANSFORMS[augmentation].identity if augmentation in TRANSFORMS else ""
