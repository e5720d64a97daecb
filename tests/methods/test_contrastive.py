"""Test the contrast of logits with absent negatives; `test_ic_kd.py` tests the rest."""

import pytest
import torch
from torch import Tensor

from methods import contrastive

CLASSES = 5


@pytest.mark.parametrize("loss", ["info_nce", "hinge"])
def test_a_negative_that_is_absent_does_not_count(loss: str) -> None:
    """Against each sample alone with its present negatives, down to none."""
    generator = torch.Generator().manual_seed(5)
    student, positive, directions = (
        torch.randn(*shape, CLASSES, generator=generator) for shape in ((4,), (4,), (4, 6))
    )
    present = torch.arange(6) < torch.tensor([[6], [3], [1], [0]])

    def value(rows: slice, left: int) -> Tensor:
        z, others, there = (
            student[rows],
            contrastive.centred(directions[rows, :left]),
            present[rows, :left],
        )
        if loss == "hinge":
            # so that every counted negative has an effect
            return contrastive.hinge(z, others, there, margin=-1.0)
        return contrastive.info_nce(z, positive[rows], others, there, temperature=0.5)

    alone = torch.cat([value(slice(row, row + 1), left) for row, left in enumerate((6, 3, 1, 0))])
    torch.testing.assert_close(value(slice(None), 6), alone)
    assert (alone[:3] > 0.01).all() and alone[3] == 0
