"""Logit standardisation: compare the z-scores of the logits instead of the logits themselves.

Source: Sun et al., CVPR 2024 (arXiv 2403.01427) and its released code.
"""

from pydantic import Field
from torch import Tensor

from methods import losses
from methods.settings import Settings


class StandardizationSettings(Settings):
    """Switch of the methods that compare softened logits."""

    standardize: bool = Field(
        False,
        description="Replace the compared logits by their z-scores over the classes before the "
        "division by the temperature, so that the student matches the order and the proportions of "
        "the other network's logits and not their scale.",
    )

    def scale_logits(self, logits: Tensor) -> Tensor:
        """Return the logits (B, K) to divide by the temperature: z-scores with `standardize`."""
        return losses.standardize(logits) if self.standardize else logits
