"""The inverse of a damped Kronecker product, by the eigendecompositions of its factors, whatever they are."""

import torch
from torch import Tensor


class Kronecker:
    """left (x) right + damping I, for symmetric positive semi-definite left (..., K, K) and right (..., D, D).

    The basis of K-FAC (arXiv 1503.05671, section 4); the damping is exact here, not split between the factors.
    Decomposed in float64.
    """

    def __init__(self, left: Tensor, right: Tensor, damping: float) -> None:
        left_values, left_vectors = torch.linalg.eigh(left.double())
        right_values, right_vectors = torch.linalg.eigh(right.double())
        values = left_values.clamp(min=0)[..., :, None] * right_values.clamp(min=0)[..., None, :] + damping
        self.left: Tensor = left_vectors.to(left.dtype)
        self.right: Tensor = right_vectors.to(right.dtype)
        self.values: Tensor = values.to(left.dtype)

    def solve(self, matrix: Tensor) -> Tensor:
        """The inverse applied to a matrix (..., K, D), read row by row as a vector: (..., K, D)."""
        return self.left @ ((self.left.mT @ matrix @ self.right) / self.values) @ self.right.mT
