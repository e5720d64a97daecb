"""Influence of training samples on the loss of a held-out part: of the last layer, and estimators of H^-1 g for any parameters.

Knows torch alone: nothing of who trains, what becomes of the scores, or how a network is built (`influence_network.py`).

The objective is L(theta) = (1/n) sum_i w_i l_i(theta), and L_V the mean cross entropy of the held-out part. The score of a sample
is n dL_V / dw_i at the minimum: phi_i = - g_V^T (H + damping I)^-1 grad l_i (Koh and Liang, arXiv 1703.04730, equation 2).
Negative: a larger weight of the sample lowers the held-out loss. The damping is that of an L2 term (damping / 2) |theta|^2.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from methods.kronecker import Kronecker
from methods.tempered import Losses
from methods.weighing import Part

EXACT_UP_TO = 1000  # parameters of a last layer that is solved by Cholesky
ROWS_AT_ONCE = 8192


class Diverged(ArithmeticError):
    """An estimator did not approach a solution; the sentence says what to change."""


class Problem(Protocol):
    """What an estimator sees of the objective and the held-out loss, at the parameters of a student, as vectors (p,)."""

    @property
    def size(self) -> int:
        """p, the parameters that are looked at."""

    @property
    def samples(self) -> int:
        """n."""

    def held_out_gradient(self) -> Tensor:
        """g_V, (p,): of the mean cross entropy of the held-out part."""

    def product(self, vector: Tensor) -> Tensor:
        """H v, (p,): the curvature of (1/n) sum_i w_i l_i, without damping."""

    def along(self, vector: Tensor) -> Tensor:
        """grad l_i . v of every sample, (n,); the weights w_i do not enter."""

    def matrix(self) -> Tensor:
        """H, (p, p) float64: by p products where there is no better way."""
        unit = torch.zeros_like(self.held_out_gradient())
        found = torch.empty(self.size, self.size, dtype=torch.float64, device=unit.device)
        for place in range(self.size):
            unit[place] = 1
            found[place] = self.product(unit)  # a row, as H is symmetric
            unit[place] = 0
        return found


class LastLayer(Problem):
    """The last linear layer with its bias, (K, D + 1) read row by row: everything in closed form from features and logits.

    With h~ = [h; 1] a sample's gradient is (dl/dz) (x) h~ and its curvature (d2l/dz2) (x) h~ h~^T: the Gauss-Newton block of the
    whole network is the Hessian of this layer. `weights` (n,) are the w_i in force. Samples are taken in blocks, whose memory
    stays below `limit_bytes`; `alive` is called before each.
    """

    def __init__(
        self,
        training: Part,
        losses: Losses,
        held_out: Part,
        weights: Tensor,
        limit_bytes: int,
        alive: Callable[[], None] = lambda: None,
    ) -> None:
        self.training, self.losses, self.held_out = training, losses, held_out
        self.weights = weights.to(training.features)
        self.limit_bytes, self.alive = limit_bytes, alive

    @property
    def size(self) -> int:
        """K (D + 1)."""
        return self.training.logits.shape[1] * (self.training.features.shape[1] + 1)

    @property
    def samples(self) -> int:
        """n."""
        return len(self.training.logits)

    def held_out_gradient(self) -> Tensor:
        """(p,): the mean of (q - e_y) (x) h~ over the samples of the held-out part that have a label."""
        logits, features, labels = self.held_out
        known = (labels != -1).to(logits)
        slopes = logits.softmax(dim=1) - functional.one_hot(labels.clamp(min=0), logits.shape[1])
        slopes *= (known / known.sum().clamp(min=1))[:, None]
        return self._outer_sum(slopes, features).flatten()

    def product(self, vector: Tensor) -> Tensor:
        """H v, (p,): two products of matrices a block."""
        layer = vector.view(self.training.logits.shape[1], -1)
        total = torch.zeros_like(layer)
        for rows in self._blocks(6 * layer.shape[0]):
            bent = self.losses.curvature(self.training.logits[rows], self._logits_along(layer, rows), rows)
            total += self._outer_sum(bent * self.weights[rows, None], self.training.features[rows])
        return total.flatten() / self.samples

    def along(self, vector: Tensor) -> Tensor:
        """grad l_i . v, (n,)."""
        layer = vector.view(self.training.logits.shape[1], -1)
        found = [
            (self.losses.gradients(self.training.logits[rows], rows) * self._logits_along(layer, rows)).sum(dim=1)
            for rows in self._blocks(6 * layer.shape[0])
        ]
        return torch.cat(found)

    def matrix(self) -> Tensor:
        """H, (p, p) float64, class by class: the block of classes a and b is sum_i w_i (d2l/dz_a dz_b) h~ h~^T / n."""
        classes, width = self.training.logits.shape[1], self.training.features.shape[1] + 1
        total = torch.zeros(classes, width, classes, width, dtype=torch.float64, device=self.weights.device)
        for rows in self._blocks(2 * (classes + 2) * width + 6 * classes):
            logits, inputs = self.training.logits[rows], self._with_one(rows).double()
            for first in range(classes):
                chosen = torch.zeros_like(logits)
                chosen[:, first] = self.weights[rows]
                bent = self.losses.curvature(logits, chosen, rows)[:, first:].double()
                total[first, :, first:] += (inputs.T @ (bent[:, :, None] * inputs[:, None, :]).flatten(1)).view(width, -1, width)
        for first in range(classes):
            total[first + 1 :, :, first] = total[first, :, first + 1 :].permute(1, 2, 0)
        return total.view(self.size, self.size).div_(self.samples)

    def gradients(self, rows: slice) -> Tensor:
        """grad l_i of some samples, (B, p): for a few at a time."""
        slopes = self.losses.gradients(self.training.logits[rows], rows)
        return (slopes[:, :, None] * self._with_one(rows)[:, None, :]).flatten(1)

    def preconditioner(self, damping: float) -> Callable[[Tensor], Tensor]:
        """(mean of w C) (x) (mean of h~ h~^T by w tr C), damped and inverted, with C = d2l/dz2: H, were C and h~ independent.

        At damping 1e-3 it takes a digits network from 83 iterations of `cg` to 29, with the plain mean of h~ h~^T to 36.
        """
        classes, width = self.training.logits.shape[1], self.training.features.shape[1] + 1
        bent, inputs = self.weights.new_zeros(classes, classes), self.weights.new_zeros(width, width)
        for rows in self._blocks(6 * classes + 3 * width):
            logits, weights, with_one = self.training.logits[rows], self.weights[rows], self._with_one(rows)
            bent += self.losses.curvature_sum(logits, weights, rows)
            inputs += with_one.T @ (with_one * (weights * self.losses.curvature_traces(logits, rows))[:, None])
        inverse = Kronecker(bent / self.samples, inputs / bent.trace().clamp(min=_tiny(bent)), damping)
        return lambda vector: inverse.solve(vector.view(classes, width)).flatten()

    def _blocks(self, row_elements: int) -> Iterator[slice]:
        """Rows of the training part, as many at once as may be held at so many elements each."""
        row_bytes = row_elements * self.weights.element_size()
        at_once = max(1, min(ROWS_AT_ONCE, self.limit_bytes // row_bytes))
        for start in range(0, self.samples, at_once):
            self.alive()
            yield slice(start, min(start + at_once, self.samples))

    def _logits_along(self, layer: Tensor, rows: slice) -> Tensor:
        """What the logits change by along a layer (K, D + 1): (B, K)."""
        return torch.addmm(layer[:, -1], self.training.features[rows], layer[:, :-1].T)

    def _with_one(self, rows: slice) -> Tensor:
        return functional.pad(self.training.features[rows], (0, 1), value=1.0)

    @staticmethod
    def _outer_sum(slopes: Tensor, features: Tensor) -> Tensor:
        """The sum of slopes (x) h~ over samples, (K, D + 1)."""
        return torch.cat([slopes.T @ features, slopes.sum(dim=0)[:, None]], dim=1)


class Solution(NamedTuple):
    """s = (H + damping I)^-1 g, (p,); what was repeated for it; |g - (H + damping I) s| / |g|, None where no system is solved."""

    direction: Tensor
    iterations: int
    residual: float | None


class Solved(NamedTuple):
    """phi (n,), negative where a sample helps; how the direction behind it was found."""

    phi: Tensor
    iterations: int
    residual: float | None


Estimator = Callable[..., Solution]


def exact(problem: Problem, gradient: Tensor, damping: float) -> Solution:
    """By the whole matrix and Cholesky, in float64. Diverged where the matrix is not positive definite."""
    matrix = problem.matrix()
    matrix.diagonal().add_(damping)
    factor = _cholesky(matrix, damping)
    wanted = gradient.double()
    direction = torch.cholesky_solve(wanted[:, None], factor)[:, 0]
    residual = (wanted - matrix @ direction).norm() / wanted.norm().clamp(min=_tiny(wanted))
    return Solution(direction.to(gradient), 1, residual.item())


def cg(
    problem: Problem,
    gradient: Tensor,
    damping: float,
    tolerance: float = 1e-5,
    largest: int = 500,
    preconditioner: Callable[[Tensor], Tensor] | None = None,
) -> Solution:
    """By conjugate gradients, until the relative residual is at most `tolerance` or after `largest` iterations.

    What is left then, the residual tells. Diverged where the damped curvature is not positive along a direction. (Hestenes and
    Stiefel 1952; Martens 2010 for networks.)
    """
    enough = tolerance * gradient.norm()
    direction, residual = torch.zeros_like(gradient), gradient.clone()
    mended = preconditioner(residual) if preconditioner else residual
    search, height = mended.clone(), residual @ mended
    iterations = 0
    while iterations < largest and residual.norm() > enough:
        bent = problem.product(search) + damping * search
        slope = search @ bent
        if not slope > 0:
            raise Diverged(f"the curvature along a direction is {slope.item():.3g}, not positive: choose a damping above {damping}")
        step = height / slope
        direction += step * search
        residual -= step * bent
        mended = preconditioner(residual) if preconditioner else residual
        before, height = height, residual @ mended
        search = mended + (height / before) * search
        iterations += 1
    return Solution(direction, iterations, (residual.norm() / gradient.norm().clamp(min=_tiny(gradient))).item())


def lissa(
    problem: Problem, gradient: Tensor, damping: float, depth: int = 5000, tolerance: float = 1e-5, scale: float | None = None
) -> Solution:
    """By the Neumann series h <- g + h - (H + damping I) h / scale from h = g, and h / scale in the end (arXiv 1602.03943).

    Products are of the whole training part, so nothing is averaged. Stops after `depth` steps, or at the relative residual
    `tolerance`. The scale is 1.2 times the largest eigenvalue unless it is given; Diverged where it is too small, or the
    curvature has a direction below -damping.
    """
    if scale is None:
        scale = 1.2 * (largest_eigenvalue(problem, gradient) + damping)
    summed, size = gradient.clone(), gradient.norm()
    residual, iterations = 1.0, 0
    while iterations < depth and residual > tolerance and size > 0:
        change = gradient - (problem.product(summed) + damping * summed) / scale
        residual = (change.norm() / size).item()
        if not residual <= 1.001:
            raise Diverged(
                f"the series of LiSSA grew at step {iterations + 1}: choose a scale above {scale:.3g}, or a larger damping"
            )
        summed += change
        iterations += 1
    return Solution(summed / scale, iterations, residual)


def identity(problem: Problem, gradient: Tensor, damping: float) -> Solution:
    """s = g: no curvature, the score is the product of two gradients (TracIn, arXiv 2002.08484, at one checkpoint)."""
    return Solution(gradient, 0, None)


def last_layer(problem: LastLayer, gradient: Tensor, damping: float) -> Solution:
    """Exact where the last layer is small, else by conjugate gradients with its preconditioner."""
    if problem.size <= EXACT_UP_TO:
        return exact(problem, gradient, damping)
    return cg(problem, gradient, damping, preconditioner=problem.preconditioner(damping))


def scores(problem: Problem, estimator: Estimator, damping: float, **options: Any) -> Solved:
    """phi_i = - g_V^T (H + damping I)^-1 grad l_i of every training sample, by `estimator(problem, g_V, damping, **options)`."""
    direction, iterations, residual = estimator(problem, problem.held_out_gradient(), damping, **options)
    return Solved(-problem.along(direction), iterations, residual)


def self_influence(problem: LastLayer, damping: float) -> Tensor:
    """grad l_i^T (H + damping I)^-1 grad l_i of every training sample, (n,), never negative: by Cholesky, in blocks of samples."""
    matrix = problem.matrix()
    matrix.diagonal().add_(damping)
    factor = _cholesky(matrix, damping)
    at_once = max(1, problem.limit_bytes // (4 * 8 * problem.size))
    found = []
    for start in range(0, problem.samples, at_once):
        gradients = problem.gradients(slice(start, min(start + at_once, problem.samples))).double()
        found.append(torch.linalg.solve_triangular(factor, gradients.T, upper=False).square_().sum(dim=0))
        del gradients  # else two blocks of them are held
    return torch.cat(found).to(problem.weights)


def largest_eigenvalue(problem: Problem, like: Tensor, iterations: int = 50, seed: int = 0) -> float:
    """Of H, by power iteration from a drawn vector (p,) of the type and device of `like`: a lower bound that is close."""
    generator = torch.Generator().manual_seed(seed)
    vector = torch.randn(problem.size, generator=generator, dtype=like.dtype).to(like.device)
    value = 0.0
    for _ in range(iterations):
        vector = problem.product(vector / vector.norm())
        value = float(vector.norm())
        if not value > 0:
            return value
    return value


def needed_bytes(estimator: str, samples: int, classes: int, features: int, parameters: int) -> int:
    """What an estimator by name holds in memory at once, beside the student, its logits and features, and a block of samples.

    samples n, classes K, features D, parameters p of what is looked at: K (D + 1) for a last layer. `kfac` depends on the
    shapes of the layers: `kfac.factor_bytes`.
    """
    if estimator == "last_layer":
        estimator = "exact" if parameters <= EXACT_UP_TO else "preconditioned"
    vectors = 4 * (8 * parameters + 3 * samples)
    more = {
        "exact": 2 * 8 * parameters**2,  # the matrix and its factor
        "preconditioned": 5 * 8 * ((features + 1) ** 2 + classes**2),  # the factors, and what eigh needs for them
        "cg": 0,
        "lissa": 0,
        "identity": 0,
    }
    return vectors + more[estimator]


def _cholesky(matrix: Tensor, damping: float) -> Tensor:
    factor: Tensor
    factor, failed = torch.linalg.cholesky_ex(matrix)
    if failed:
        raise Diverged(f"the curvature with damping {damping} is not positive definite: choose a larger damping")
    return factor


def _tiny(tensor: Tensor) -> float:
    return torch.finfo(tensor.dtype).tiny
