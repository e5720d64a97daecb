"""Inverse of a damped Kronecker product, by the eigendecompositions of its factors."""

import torch
from torch import Tensor


class Kronecker:
    """left (x) right + damping I, for symmetric positive semi-definite factors.

    The factors are left (..., K, K) and right (..., D, D). This is the basis of K-FAC (arXiv
    1503.05671, section 4). The damping is exact here, not split between the factors. Decompositions
    use float64.
    """

    def __init__(self, left: Tensor, right: Tensor, damping: float) -> None:
        left_values, left_vectors = torch.linalg.eigh(left.double())
        right_values, right_vectors = torch.linalg.eigh(right.double())
        values = (
            left_values.clamp(min=0)[..., :, None] * right_values.clamp(min=0)[..., None, :]
            + damping
        )
        self.left: Tensor = left_vectors.to(left.dtype)
        self.right: Tensor = right_vectors.to(right.dtype)
        self.values: Tensor = values.to(left.dtype)

    def solve(self, matrix: Tensor) -> Tensor:
        """Return the inverse applied to a matrix (..., K, D), read as a vector by rows."""
        return self.left @ ((self.left.mT @ matrix @ self.right) / self.values) @ self.right.mT
