"""Versions of a training set: the triple (seed, view, index) fixes every crop, flip and blend. Knows no files and no batches."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.config.data_schema import Data
from orchestrator.data._augmentation import NUMBERS, shifted, shifts, stretched, stretches
from orchestrator.data._mixing import MIXES, Mixing, draw
from orchestrator.data.dataset import Dataset
from orchestrator.data.preprocessing import AUTOMATIC, shift_pixels

POLICIES = ("none", "crop", "crop_flip", "resized_crop_flip")
SHIFTING = ("crop", "crop_flip")
MIX = 2  # keeps the blends of view v apart from its crops, which are drawn from (seed, v), and from the order of epoch v


class Views:
    """The augmented versions of a training set of `count` samples.

    The numbers of a view are drawn for the whole set at once, so the picture of a sample does not depend on the batch,
    rank or trial that asks for it. `pad` is in pixels (crop, crop_flip), `mix_alpha` that of Beta(alpha, alpha) (mixup,
    cutmix). View None is the clean view, which is neither augmented nor blended.
    """

    def __init__(self, policy: str, seed: int, count: int, pad: int, mix: str = "none", mix_alpha: float = 1.0) -> None:
        assert policy in POLICIES and mix in MIXES, (policy, mix)
        self.policy, self.seed, self.count, self.pad = policy, seed, count, pad
        self.mix, self.mix_alpha = mix, mix_alpha
        self._drawn: tuple[int, NDArray[np.float64]] | None = None

    @classmethod
    def of(cls, dataset: Dataset, data: Data, seed: int) -> "Views":
        """The views of a data set's training part as `data` asks for them, padded by an eighth of the side."""
        policy = AUTOMATIC[dataset.name].policy if data.augmentation == "auto" else data.augmentation
        return cls(policy, seed, len(dataset.train), shift_pixels(dataset.shape), data.mixing, data.mix_alpha)

    @property
    def varies(self) -> bool:
        """Whether views differ at all; where not, each is the clean one."""
        return self.policy != "none" or self.mix != "none"

    def identity(self) -> dict[str, Any]:
        """What decides how a view looks, and nothing else, as plain JSON: equal identities show equal pictures of equal data."""
        said: dict[str, Any] = {"policy": self.policy, "mix": self.mix}
        said |= {"seed": self.seed} if self.varies else {}
        said |= {"pad": self.pad} if self.policy in SHIFTING else {}
        return said | ({"mix_alpha": self.mix_alpha} if self.mix != "none" else {})

    def numbers(self, view: int) -> NDArray[np.float64]:
        """(count, 5) uniform in [0, 1): vertical place, horizontal place, flip, area, ratio; kept for the last view drawn."""
        if self._drawn is None or self._drawn[0] != view:
            self._drawn = view, np.random.default_rng([self.seed, view]).random((self.count, NUMBERS))
        return self._drawn[1]

    def places(self, view: int | None, height: int, width: int) -> Tensor | None:
        """For every sample what `augment` does to its picture of `height` x `width` pixels; None where that is nothing.

        (count,) int64 for crops, (count, 2, 3) float32 for resized crops.
        """
        if view is None or self.policy == "none":
            return None
        if self.policy in SHIFTING:
            return torch.from_numpy(shifts(self.numbers(view), height, width, self.pad, flips=self.policy == "crop_flip"))
        return torch.from_numpy(stretches(self.numbers(view), height, width))

    def augment(self, images: Tensor, places: Tensor) -> Tensor:
        """The pictures (B, H, W, C) uint8 of `images` (B, H, W, C) uint8, on their device, from their rows of `places`."""
        if self.policy in SHIFTING:
            return shifted(images, places, self.pad, flips=self.policy == "crop_flip")
        return stretched(images, places)

    def mixing(self, view: int | None, height: int, width: int) -> Mixing | None:
        """For every sample the partner and the share with which its picture is blended; None where it is not."""
        if view is None or self.mix == "none":
            return None
        generator = np.random.default_rng([self.seed, view, MIX])
        return draw(self.mix, self.mix_alpha, generator, self.count, height, width)
