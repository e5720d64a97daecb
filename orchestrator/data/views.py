"""Draw augmented views of a training set.

The triple (seed, view, index) determines every crop, flip, transform and blend.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from orchestrator.config.data_schema import Data
from orchestrator.data._augmentation import (
    NUMBERS,
    crop_and_resize,
    draw_crop_offsets,
    draw_resize_matrices,
    pad_and_crop,
)
from orchestrator.data._mixing import MIXES, Mixing, draw_mixing
from orchestrator.data._streams import Stream, derive_seed, open_stream
from orchestrator.data.dataset import Dataset
from orchestrator.data.preprocessing import resolve_augmentation, shift_pixels
from orchestrator.data.user_transforms import TRANSFORMS, transform_batch

if TYPE_CHECKING:
    from orchestrator.data._transforms import Transforms

POLICIES = ("none", "crop", "crop_flip", "resized_crop_flip")
SHIFTING = ("crop", "crop_flip")


class Views:
    """Augmented versions of a training set of `count` samples.

    The numbers of a view are drawn for the whole set at once. The image of a sample therefore does
    not depend on the batch, rank or trial. View None is the clean view, without augmentation and
    blending.

    Args:
        policy: One of `POLICIES`, or a key of `TRANSFORMS`.
        seed: Seed of the views.
        count: Number of samples.
        pad: Padding in pixels, for crop and crop_flip.
        mix: One of `MIXES`.
        mix_alpha: alpha of Beta(alpha, alpha), for mixup and cutmix.
        transforms: Transforms after crop and flip by name, as `Data.transforms` returns them.
        fill: (C,), the pixel value of erased areas.
    """

    def __init__(
        self,
        policy: str,
        seed: int,
        count: int,
        pad: int,
        mix: str = "none",
        mix_alpha: float = 1.0,
        transforms: Mapping[str, Any] | None = None,
        fill: tuple[int, ...] = (0,),
    ) -> None:
        assert policy in (*POLICIES, *TRANSFORMS) and mix in MIXES, (policy, mix)
        self.policy, self.seed, self.count, self.pad = policy, seed, count, pad
        self.mix, self.mix_alpha = mix, mix_alpha
        self.transforms, self.fill = dict(transforms or {}), fill
        self._cached_numbers: tuple[int, NDArray[np.float64]] | None = None
        self._cached_transforms: tuple[int, Transforms] | None = None

    @classmethod
    def from_config(cls, dataset: Dataset, data: Data, seed: int) -> "Views":
        """Return the views of a data set's training part, as configured in `data`.

        Images are padded by an eighth of the shorter side.
        """
        return cls(
            resolve_augmentation(data, name=dataset.name),
            seed,
            len(dataset.train),
            shift_pixels(dataset.shape),
            data.mixing,
            data.mix_alpha,
            data.transforms,
            tuple(round(255 * value) for value in dataset.mean),
        )

    def strong(self, transforms: Mapping[str, Any]) -> "Views":
        """Return strong views: independent crops and flips of this policy, and other transforms.

        They have a seed of their own. Their identity therefore differs from that of these views,
        and so does the cache of the teacher's outputs, even if the transforms are equal.

        Args:
            transforms: Transforms after crop and flip by name, as `Data.transforms` returns them.
        """
        assert self.mix == "none", "a blended image has no strong view"
        seed = derive_seed(self.seed, Stream.STRONG_VIEW)
        return Views(self.policy, seed, self.count, self.pad, transforms=transforms, fill=self.fill)

    @property
    def varies(self) -> bool:
        """Return whether views differ; if not, each is the clean one."""
        return self.policy != "none" or self.mix != "none" or bool(self.transforms)

    def identity(self) -> dict[str, Any]:
        """Return the properties that determine the views, as plain JSON values.

        Equal identities give equal images of equal data.
        """
        properties: dict[str, Any] = {"policy": self.policy, "mix": self.mix}
        properties |= {"seed": self.seed} if self.varies else {}
        properties |= {"transforms": self.transforms} if self.transforms else {}
        properties |= {"pad": self.pad} if self.policy in SHIFTING else {}
        if self.policy in TRANSFORMS:
            properties["code"] = TRANSFORMS[self.policy].identity
        return properties | ({"mix_alpha": self.mix_alpha} if self.mix != "none" else {})

    def numbers(self, view: int) -> NDArray[np.float64]:
        """Return (count, 5) numbers, uniform in [0, 1), of a view.

        Columns: vertical position, horizontal position, flip, area, ratio. The numbers of the last
        view are cached.
        """
        if self._cached_numbers is None or self._cached_numbers[0] != view:
            self._cached_numbers = (
                view,
                np.random.default_rng([self.seed, view]).random((self.count, NUMBERS)),
            )
        return self._cached_numbers[1]

    def augmentation_params(self, view: int | None, height: int, width: int) -> Tensor | None:
        """Return the parameters of `augment` for every sample.

        Args:
            view: The view; None is the clean one.
            height: Image height in pixels.
            width: Image width in pixels.

        Returns:
            (count,) int64 for crops, (count, 2, 3) float32 for resized crops, (count, 2) int64 for
            a transform of user code, None without augmentation.
        """
        if view is None or self.policy == "none":
            return None
        if self.policy in TRANSFORMS:
            return torch.stack([torch.full((self.count,), view), torch.arange(self.count)], dim=1)
        if self.policy in SHIFTING:
            return torch.from_numpy(
                draw_crop_offsets(
                    self.numbers(view), height, width, self.pad, flips=self.policy == "crop_flip"
                )
            )
        return torch.from_numpy(draw_resize_matrices(self.numbers(view), height, width))

    def augment(self, images: Tensor, augmentation_params: Tensor) -> Tensor:
        """Return the augmented images.

        Args:
            images: (B, H, W, C) uint8.
            augmentation_params: The parameters of these images, on their device.

        Returns:
            (B, H, W, C) uint8, on the same device.
        """
        if self.policy in TRANSFORMS:
            return transform_batch(self.policy, self.seed, images, augmentation_params)
        if self.policy in SHIFTING:
            return pad_and_crop(
                images, augmentation_params, self.pad, flips=self.policy == "crop_flip"
            )
        return crop_and_resize(images, augmentation_params)

    def draw_transforms(self, view: int | None, height: int, width: int) -> "Transforms | None":
        """Return the transforms of a view, None without any. Those of the last view are cached.

        Args:
            view: The view; None is the clean one.
            height: Image height in pixels.
            width: Image width in pixels.
        """
        if view is None or not self.transforms:
            return None
        # imports torchvision, which takes a second; the decoding processes inherit it
        from orchestrator.data._transforms import Transforms

        if self._cached_transforms is None or self._cached_transforms[0] != view:
            drawn = Transforms(
                self.transforms, self.seed, view, self.count, height, width, self.fill
            )
            self._cached_transforms = view, drawn
        return self._cached_transforms[1]

    def mixing(self, view: int | None, height: int, width: int) -> Mixing | None:
        """Return the partner and the share of every sample, None without blending."""
        if view is None or self.mix == "none":
            return None
        generator = open_stream(self.seed, view, Stream.MIXING)
        return draw_mixing(self.mix, self.mix_alpha, generator, self.count, height, width)

    def image_transform(
        self, view: int
    ) -> Callable[[NDArray[np.uint8], int], NDArray[np.uint8]] | None:
        """Return the transform of one image, given its index; None without user code."""
        if self.policy not in TRANSFORMS:
            return None
        return partial(TRANSFORMS[self.policy].apply, seed=self.seed, view=view)
