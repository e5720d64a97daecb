"""Weight alpha of the soft term: settings, interface, and schedules over the epochs.

Cross entropy has the weight 1 - alpha. `learnable` holds the trained variants, `gap` those computed
from student and teacher; `weighted` selects one.
"""

import math
from collections.abc import Callable
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from methods.batch import Batch
from methods.capabilities import LookAhead
from methods.histogram import Histogram
from methods.method import ParameterGroup, Progress, Task
from methods.settings import Positive, Settings, SettingsError

AlphaSchedule = Literal["constant", "linear", "cosine", "step", "learnable", "gap"]
OVER_EPOCHS = ("linear", "cosine", "step")  # schedules whose alpha depends on the epoch


class AlphaSettings(Settings):
    """Hyper-parameters of alpha for all schedules; each description names the ones that use it."""

    alpha: float = Field(
        0.9,
        description="Weight of the soft term; cross entropy has the weight 1 - alpha. Used by the "
        "schedule constant.",
        ge=0,
        le=1,
    )
    alpha_schedule: AlphaSchedule = Field(
        "constant",
        description="Source of alpha: a schedule over the epochs (constant, linear, cosine, "
        "step), training (learnable), or a formula of the gap between student and teacher (gap).",
    )
    alpha_start: float = Field(
        0.9, description="alpha of the first epoch. Used by linear, cosine and step.", ge=0, le=1
    )
    alpha_end: float = Field(
        0.1,
        description="alpha at the end of the schedule. Used by linear, cosine and step.",
        ge=0,
        le=1,
    )
    alpha_when: Positive = Field(
        0.5,
        description="Share of the epochs after which alpha is alpha_end: linear and cosine reach "
        "it gradually, step jumps to it.",
        le=1,
    )
    alpha_learnable: Literal["raw", "uncertainty", "entropy", "bayes", "bilevel"] = Field(
        "raw",
        description="Objective that trains alpha. raw: the student's loss, so that alpha moves to "
        "the smaller term; uncertainty: e^-s1 CE + e^-s2 KD + s1 + s2; entropy: the loss minus "
        "tau times the entropy of alpha; bayes: CE + beta KD - d/2 log beta; bilevel: the "
        "held-out loss after a virtual step. Used by learnable.",
    )
    alpha_learning_rate: Positive = Field(
        0.02,
        description="Learning rate of alpha's parameters, constant and without weight decay. Used "
        "by learnable.",
    )
    alpha_tau: Positive = Field(
        1.0,
        description="tau, the weight of the entropy of alpha; the losses are scaled to mean 1. "
        "Used by learnable: entropy.",
    )
    alpha_degrees: Positive = Field(
        1.0, description="d, the degrees of freedom of the soft term. Used by learnable: bayes."
    )
    alpha_every: int = Field(
        10,
        description="Training steps from one virtual step to the next. Used by learnable: bilevel.",
        ge=1,
    )
    alpha_gap: Literal["ratio", "kl", "label", "acc"] = Field(
        "ratio",
        description="Formula of the gap. ratio: KD / (KD + CE); kl: 1 - exp(-D / scale); label: "
        "difference between the teacher's and the student's probability of the label, per sample; "
        "acc: difference of their training accuracies in the last epoch. Used by gap.",
    )
    alpha_scale: Positive = Field(
        1.0,
        description="Divergence in nats at which alpha has covered 63 % of its range. Used by "
        "gap: kl.",
    )
    alpha_per_sample: bool = Field(
        False,
        description="Compute alpha for every sample instead of for the batch. Used by gap: kl; "
        "label always does.",
    )
    alpha_slope: Positive = Field(
        5.0,
        description="kappa, the slope of the sigmoid that maps the difference to alpha. Used by "
        "gap: label and acc.",
    )
    alpha_ema: float = Field(
        0.9,
        description="Share of the running mean of alpha that each step keeps; 0: no smoothing. "
        "Used by gap: ratio and kl.",
        ge=0,
        le=0.9999,
    )
    alpha_min: float = Field(
        0.1, description="Lower bound of alpha. Used by learnable and gap.", ge=0, le=1
    )
    alpha_max: float = Field(
        0.9, description="Upper bound of alpha. Used by learnable and gap.", ge=0, le=1
    )

    @model_validator(mode="after")
    def _check_alpha(self) -> Self:
        if self.alpha_min >= self.alpha_max:
            raise SettingsError(
                f"alpha_min = {self.alpha_min} must be below alpha_max = {self.alpha_max}: "
                f"choose for example 0.1 and 0.9",
                "alpha_min",
                value=self.alpha_min,
                allowed=(0, self.alpha_max),
            )
        if self.alpha_schedule == "step" and self.alpha_when == 1:
            raise SettingsError(
                "alpha_when = 1 is not allowed with alpha_schedule = 'step', because the step "
                "would come after the last epoch: give a value below 1",
                "alpha_when",
                value=1,
                allowed=(0, 1),
            )
        return self


class Terms(NamedTuple):
    """Terms of a batch that alpha weights.

    Attributes:
        hard: () cross entropy.
        soft: (B,) soft term at its full scale.
        divergence: (B,) bare divergence in nats.
    """

    hard: Tensor
    soft: Tensor
    divergence: Tensor


ComputeTerms = Callable[[Batch], Terms]


class WeightedLoss(NamedTuple):
    """Result of weighting the terms of a batch.

    Attributes:
        loss: () objective of the student.
        alpha_loss: () additional objective that trains alpha; None if there is none.
        tracked: Detached scalars to track, by name.
    """

    loss: Tensor
    alpha_loss: Tensor | None
    tracked: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """Return the sum of both objectives."""
        return self.loss if self.alpha_loss is None else self.loss + self.alpha_loss


class Alpha(nn.Module):
    """Weight of the soft term; a subclass computes it on a batch and defines its objective.

    Alpha lies in [alpha_min, alpha_max] unless it follows a schedule over the epochs.
    """

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__()
        self.settings = settings
        self.task: Task | None = None
        self.histogram = Histogram()

    def prepare(self, task: Task) -> None:
        """Store the task; called once per trial, before the first step."""
        self.task = task

    def mean(self, values: Tensor) -> Tensor:
        """Return the mean of a tensor over the ranks."""
        assert self.task is not None, "`prepare` is called before the first step"
        return self.task.mean(values)

    def compute(self, batch: Batch, terms: Terms) -> Tensor | float:
        """Return alpha on a batch, () or (B,); it has a gradient only if the loss trains it."""
        raise NotImplementedError

    def alpha_loss(self, hard: Tensor, soft: Tensor) -> Tensor | None:
        """Return the additional objective that trains alpha's parameters; None if there is none.

        Args:
            hard: () detached mean of the cross entropy.
            soft: () detached mean of the soft term.
        """
        return None

    def forward(self, batch: Batch, terms: Terms) -> WeightedLoss:
        """Return (1 - alpha) CE + alpha soft over the batch; alpha is (), or (B,) per sample."""
        alpha, soft = self.compute(batch, terms), terms.soft.mean(dtype=terms.hard.dtype)
        if isinstance(alpha, Tensor) and alpha.ndim:
            loss = ((1 - alpha) * batch.cross_entropies() + alpha * terms.soft).mean()
            self.histogram.count(alpha)
        else:
            weight = alpha.to(soft.dtype) if isinstance(alpha, Tensor) else alpha
            loss = torch.lerp(terms.hard, soft, weight)  # one kernel, exact at 0 and 1
        alpha_loss = self.alpha_loss(terms.hard.detach(), soft.detach())
        if isinstance(alpha, Tensor):
            tracked = alpha.detach().mean()
        else:
            tracked = soft.detach().new_full((), alpha)
        return WeightedLoss(loss, alpha_loss, {"loss": loss.detach(), "alpha": tracked})

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return one group with its own learning rate, or none if alpha has no parameters."""
        alpha_parameters = list(self.parameters())
        return (
            [ParameterGroup(alpha_parameters, self.settings.alpha_learning_rate, scheduled=False)]
            if alpha_parameters
            else []
        )

    @property
    def look_ahead_interval(self) -> int:
        """Return the interval of `look_ahead` in steps, as in `LooksAhead`."""
        return 0

    def look_ahead(self, ahead: LookAhead, terms: ComputeTerms) -> None:
        """Look beyond the next step, as in `LooksAhead`.

        `terms` returns the terms of a batch with gradients.
        """

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """Return the distribution of alpha over samples, (BINS,) shares with sum 1, if any.

        Called after each epoch and after a resume.
        """
        shares = self.histogram.shares(self.mean)
        return {} if shares is None else {"alpha_histogram": shares}

    def clamp_alpha(self, alpha: Tensor) -> Tensor:
        """Return alpha clamped to [alpha_min, alpha_max]."""
        return alpha.clamp(self.settings.alpha_min, self.settings.alpha_max)


class ScheduledAlpha(Alpha):
    """Alpha as a function of the epoch alone.

    It is constant, or goes from `alpha_start` to `alpha_end` linearly, along half a cosine, or in
    one step.
    """

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__(settings)
        self.value: float | Tensor
        if settings.alpha_schedule in OVER_EPOCHS:
            # a tensor: a compiled step would be compiled again for each number
            start = torch.tensor(scheduled_alpha(settings, 0.0), dtype=torch.float64)
            self.register_buffer("value", start, persistent=False)
        else:
            self.value = settings.alpha

    def compute(self, batch: Batch, terms: Terms) -> Tensor | float:
        """Return the scheduled value of this epoch."""
        return self.value

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """Advance the schedule to the next epoch."""
        if isinstance(self.value, Tensor):
            self.value.fill_(scheduled_alpha(self.settings, progress.epoch / progress.epochs))
        return {}


def scheduled_alpha(settings: AlphaSettings, progress: float) -> float:
    """Return the scheduled alpha after a share `progress` of the epochs, in [0, 1].

    The value is `settings.alpha` if no schedule over the epochs is set.
    """
    if settings.alpha_schedule not in OVER_EPOCHS:
        return settings.alpha
    share = min(progress / settings.alpha_when, 1.0)
    if settings.alpha_schedule == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    elif settings.alpha_schedule == "step":
        share = float(share >= 1)
    return settings.alpha_start + (settings.alpha_end - settings.alpha_start) * share


def update_running_mean(average: Tensor, value: Tensor, decay: float) -> Tensor:
    """Update a running mean () in place and return it.

    The mean starts as NaN. A value that is not finite is skipped.

    Args:
        average: () running mean.
        value: () new value.
        decay: Share of the old mean that is kept.
    """
    updated = torch.where(average.isnan(), value, decay * average + (1 - decay) * value)
    return average.copy_(torch.where(value.isfinite(), updated, average))
