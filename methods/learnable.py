"""Alpha as a trained parameter: five forms of a "learnable balancing factor" (arXiv 2509.05319).

The paper's equations were not available; these are reconstructions. All contain a sigmoid or
softmax, so that alpha lies in (0, 1).
"""

import math
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from methods.alpha import Alpha, AlphaSettings, ComputeTerms, Terms, update_running_mean
from methods.batch import Batch
from methods.capabilities import LookAhead

LOGIT_EPS = 1e-6  # closest distance of alpha to 0 and 1, where its slope vanishes
MAX_LOG_VARIANCE = 10.0  # bound on log variances: terms from e^-10 to e^10 nats


class Raw(Alpha):
    """alpha = sigmoid(a) under the gradient of the loss, dL/da = alpha (1 - alpha) (soft - CE).

    This is the literal reading of a "learnable alpha". It is degenerate: only the clamp stops alpha
    from moving entirely to the smaller term. The clamp projects a before each step, so that alpha
    can return from it. Without a clamp alpha stops short of 0 and 1, where it would stay.
    """

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__(settings)
        self.logit = nn.Parameter(torch.zeros(()))
        ends = torch.tensor([settings.alpha_min, settings.alpha_max], dtype=torch.float64)
        self.limits = torch.logit(ends, eps=LOGIT_EPS).tolist()

    def compute(self, batch: Batch, terms: Terms) -> Tensor:
        """Return alpha, (), with a gradient."""
        with torch.no_grad():
            self.logit.clamp_(*self.limits)
        return torch.sigmoid(self.logit)


class Entropy(Raw):
    """alpha = sigmoid(a) trained by (1 - alpha) CE + alpha soft - tau H(alpha).

    H is the binary entropy. The running mean of (CE + soft) / 2 divides both terms, so that tau has
    no unit. The fixed point at constant terms is sigmoid((CE - soft) / tau).
    """

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__(settings)
        self.register_buffer("scale", torch.tensor(math.nan))
        self.scale: Tensor

    def compute(self, batch: Batch, terms: Terms) -> Tensor:
        """Return alpha, (), without a gradient; `alpha_loss` trains it."""
        return super().compute(batch, terms).detach()

    def alpha_loss(self, hard: Tensor, soft: Tensor) -> Tensor:
        """Return the objective of a."""
        update_running_mean(self.scale, self.mean((hard + soft) / 2), 0.9)
        alpha, scale = self.logit.sigmoid(), self.scale.clamp(min=1e-8)
        entropy = -torch.special.xlogy(alpha, alpha) - torch.special.xlogy(1 - alpha, 1 - alpha)
        loss: Tensor = (
            (1 - alpha) * hard + alpha * soft
        ) / scale - self.settings.alpha_tau * entropy
        return loss


class Uncertainty(Alpha):
    """e^-s1 CE + e^-s2 soft + s1 + s2, which trains s1 and s2.

    Source: Kendall & Gal 2018 (arXiv 1705.07115).

    The student minimises the same sum divided by e^-s1 + e^-s2. Its effective learning rate
    therefore does not grow as the terms shrink. alpha = e^-s2 / (e^-s1 + e^-s2), at the optimum CE
    / (CE + soft). Before each step s1 and s2 are projected to [-SPAN, SPAN]. Otherwise a term that
    stays zero, as without labels, would drive its own parameter to minus infinity.
    """

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__(settings)
        self.log_variances = nn.Parameter(torch.zeros(2))

    def compute(self, batch: Batch, terms: Terms) -> Tensor:
        """Return alpha, (), without a gradient."""
        logs = self.log_variances.detach().clamp_(-MAX_LOG_VARIANCE, MAX_LOG_VARIANCE)
        return self.clamp_alpha(torch.sigmoid(logs[0] - logs[1]))

    def alpha_loss(self, hard: Tensor, soft: Tensor) -> Tensor:
        """Return the objective of s1 and s2."""
        return (
            torch.exp(-self.log_variances) * torch.stack([hard, soft]) + self.log_variances
        ).sum()


class Bayes(Raw):
    """CE + beta soft - d/2 log beta, which trains log beta = a.

    The optimum is beta = d / (2 soft), and alpha = beta / (1 + beta). The student minimises the sum
    divided by 1 + beta, which leaves its effective learning rate unchanged.
    """

    def compute(self, batch: Batch, terms: Terms) -> Tensor:
        """Return alpha, (), without a gradient."""
        return super().compute(batch, terms).detach()

    def alpha_loss(self, hard: Tensor, soft: Tensor) -> Tensor:
        """Return the objective of log beta."""
        return self.logit.exp() * soft - self.settings.alpha_degrees / 2 * self.logit


class Bilevel(Raw):
    """alpha = sigmoid(a), trained by the slope of the held-out loss after a virtual step.

    The slope is computed every `alpha_every` steps. It scales with the learning rate, so it is
    divided by the running root of its mean square. Between two evaluations only the optimizer's
    momentum moves a. The held-out samples are those of the validation part.
    """

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__(settings)
        self.register_buffer("slope", torch.zeros(()), persistent=False)
        self.register_buffer("square", torch.tensor(math.nan))
        self.slope: Tensor
        self.square: Tensor

    def compute(self, batch: Batch, terms: Terms) -> Tensor:
        """Return alpha, (), without a gradient."""
        return super().compute(batch, terms).detach()

    @property
    def look_ahead_interval(self) -> int:
        """Return the interval of `look_ahead` in steps, as in `LooksAhead`."""
        return self.settings.alpha_every

    def look_ahead(self, ahead: LookAhead, terms: ComputeTerms) -> None:
        """Compute the slope along a for the next step."""
        alpha = self.logit.detach().clamp(*self.limits).sigmoid()
        slope = alpha * (1 - alpha) * held_out_slope(ahead, terms, alpha, self.mean)
        update_running_mean(self.square, slope**2, 0.9)
        normalised = slope / self.square.sqrt().clamp(min=1e-12)
        self.slope.copy_(
            torch.where(slope.isfinite(), normalised, 0.0)
        )  # a virtual step may diverge where the real one does not

    def alpha_loss(self, hard: Tensor, soft: Tensor) -> Tensor:
        """Return zero, with the slope as its gradient along a; clear the slope."""
        slope = self.slope.clone()
        self.slope.zero_()
        return slope * (self.logit - self.logit.detach())


def held_out_slope(
    ahead: LookAhead, terms: ComputeTerms, alpha: Tensor, mean: Callable[[Tensor], Tensor]
) -> Tensor:
    """Return dL_val(theta') / dalpha, (), after one virtual step of plain SGD.

    theta' = theta - rate grad((1 - alpha) CE + alpha soft). By the chain rule the slope is - rate
    <grad L_val(theta'), grad soft - grad CE>. It takes two gradients of the batch and one of the
    held-out batch.

    Args:
        ahead: Access to the student before the step.
        terms: Function that returns the terms of a batch with gradients.
        alpha: () weight of the soft term.
        mean: Mean of a tensor over the ranks.
    """
    current = {name: value.detach().requires_grad_() for name, value in ahead.parameters.items()}
    batch_terms = terms(ahead.training(current))
    hard = mean(_gradient(batch_terms.hard, current, retain=True))
    soft = mean(_gradient(batch_terms.soft.mean(), current))
    stepped_vector = torch.cat(
        [value.detach().flatten() for value in current.values()]
    ) - ahead.learning_rate * ((1 - alpha) * hard + alpha * soft)
    parts = torch.split(stepped_vector, [value.numel() for value in current.values()])
    stepped = {
        name: part.view_as(current[name]).requires_grad_()
        for name, part in zip(current, parts, strict=True)
    }
    held_out = mean(_gradient(ahead.held_out(stepped).cross_entropy(), stepped))
    return -ahead.learning_rate * torch.dot(held_out, soft - hard)


def _gradient(loss: Tensor, parameters: Mapping[str, Tensor], retain: bool = False) -> Tensor:
    gradients = torch.autograd.grad(
        loss, list(parameters.values()), retain_graph=retain, materialize_grads=True
    )
    return torch.cat([value.flatten() for value in gradients])


LEARNABLE: dict[str, type[Alpha]] = {
    "raw": Raw,
    "uncertainty": Uncertainty,
    "entropy": Entropy,
    "bayes": Bayes,
    "bilevel": Bilevel,
}
