"""Who decides between labels and teacher: alpha, the weight of the SOFT term; cross entropy has the rest, 1 - alpha.

One interface for all of them, the settings of all, and the plans over the epochs; `learnable` has those that are trained,
`gap` those computed from student and teacher, `weighted` picks one. Knows the terms of a batch, not the method they come from.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from methods.batch import Batch
from methods.histogram import Histogram
from methods.method import LookAhead, ParameterGroup, Progress, Task
from methods.settings import Settings, SettingsError, setting


@dataclass(frozen=True)
class AlphaSettings(Settings):
    """Hyper-parameters of alpha, whatever decides it; each says for which schedule it counts."""

    alpha: float = setting(0.9, "weight of the soft term, cross entropy has the rest (constant)", low=0, high=1)
    alpha_schedule: str = setting(
        "constant",
        "what decides alpha: a plan over the epochs (constant, linear, cosine, step), training (learnable), or a formula of the "
        "gap between student and teacher (gap)",
        choices=("constant", "linear", "cosine", "step", "learnable", "gap"),
    )
    alpha_start: float = setting(0.9, "alpha of the first epoch (linear, cosine, step)", low=0, high=1)
    alpha_end: float = setting(0.1, "alpha at the end of the plan (linear, cosine, step)", low=0, high=1)
    alpha_when: float = setting(
        0.5, "share of the epochs after which alpha_end is reached (linear, cosine) or jumped to (step)", above=0, high=1
    )
    alpha_learnable: str = setting(
        "raw",
        "raw: by the gradient of the loss itself, which falls to the smaller term; uncertainty: e^-s1 CE + e^-s2 KD + s1 + s2; "
        "entropy: the loss less tau times alpha's entropy; bayes: CE + beta KD - d/2 log beta; bilevel: by the held-out loss "
        "after a virtual step (learnable)",
        choices=("raw", "uncertainty", "entropy", "bayes", "bilevel"),
    )
    alpha_learning_rate: float = setting(0.02, "of alpha's own parameters, without schedule or decay (learnable)", above=0)
    alpha_tau: float = setting(1.0, "weight of alpha's entropy, against losses of mean one (learnable entropy)", above=0)
    alpha_degrees: float = setting(1.0, "d: degrees of freedom of the soft term (learnable bayes)", above=0)
    alpha_every: int = setting(10, "steps between two virtual steps (learnable bilevel)", low=1)
    alpha_gap: str = setting(
        "ratio",
        "ratio: KD / (KD + CE); kl: 1 - exp(-D / scale); label: by how much more the teacher believes the label than the student, "
        "per sample; acc: by the training accuracies of the last epoch (gap)",
        choices=("ratio", "kl", "label", "acc"),
    )
    alpha_scale: float = setting(1.0, "divergence in nats at which kl has gone 63 % of its way (gap kl)", above=0)
    alpha_per_sample: bool = setting(False, "an alpha for every sample rather than for the batch (gap kl; label always)")
    alpha_slope: float = setting(5.0, "kappa: how steeply alpha follows the difference (gap label, acc)", above=0)
    alpha_ema: float = setting(0.9, "share of the last step's alpha that stays; 0: none (gap ratio, kl)", low=0, high=0.9999)
    alpha_min: float = setting(0.1, "smallest alpha (learnable, gap)", low=0, high=1)
    alpha_max: float = setting(0.9, "largest alpha (learnable, gap)", low=0, high=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.alpha_min >= self.alpha_max:
            raise SettingsError(
                f"alpha_min = {self.alpha_min} is not below alpha_max = {self.alpha_max}: the clamp needs room, as in 0.1 and 0.9",
                "alpha_min",
                value=self.alpha_min,
                allowed=(0, self.alpha_max),
            )
        if self.alpha_schedule == "step" and self.alpha_when == 1:
            raise SettingsError(
                "alpha_when = 1 is not allowed with alpha_schedule = 'step': the step never comes",
                "alpha_when",
                value=1,
                allowed=(0, 1),
            )


class Terms(NamedTuple):
    """What is weighed on a batch: cross entropy `hard` (), `soft` (B,) at its full scale, the bare divergence (B,) in nats."""

    hard: Tensor
    soft: Tensor
    divergence: Tensor


TermsOf = Callable[[Batch], Terms]


class Weighed(NamedTuple):
    """What the student minimises, what trains alpha beside it (None: nothing), scalars; and detached scalars to track."""

    loss: Tensor
    own: Tensor | None
    tracked: dict[str, Tensor]

    @property
    def total(self) -> Tensor:
        """Both together."""
        return self.loss if self.own is None else self.loss + self.own


class Alpha(nn.Module):
    """The weight of the soft term: a subclass says what it is on a batch, and what trains it.

    In the clamp [alpha_min, alpha_max] unless it is planned.
    """

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__()
        self.settings = settings
        self.task: Task | None = None
        self.histogram = Histogram()

    def prepare(self, task: Task) -> None:
        """Once per trial, before the first step."""
        self.task = task

    def mean(self, values: Tensor) -> Tensor:
        """The mean over the ranks."""
        assert self.task is not None, "prepare comes before the first step"
        return self.task.mean(values)

    def of(self, batch: Batch, terms: Terms) -> Tensor | float:
        """Alpha on a batch, () or (B,); it has a gradient only where the loss itself trains it."""
        raise NotImplementedError

    def own_loss(self, hard: Tensor, soft: Tensor) -> Tensor | None:
        """What trains alpha's parameters beside the loss, from the detached means () of both terms; None: nothing."""
        return None

    def forward(self, batch: Batch, terms: Terms) -> Weighed:
        """(1 - alpha) CE + alpha soft over the batch, each sample by its own alpha where there is one."""
        alpha, soft = self.of(batch, terms), terms.soft.mean()
        if isinstance(alpha, Tensor) and alpha.ndim:
            loss = ((1 - alpha) * batch.cross_entropies() + alpha * terms.soft).mean()
            self.histogram.count(alpha)
        else:
            loss = (1 - alpha) * terms.hard + alpha * soft
        own = self.own_loss(terms.hard.detach(), soft.detach())
        tracked = alpha.detach().mean() if isinstance(alpha, Tensor) else soft.detach().new_full((), alpha)
        return Weighed(loss, own, {"loss": loss.detach(), "alpha": tracked})

    def parameter_groups(self) -> list[ParameterGroup]:
        """One at its own rate, if there is anything to learn."""
        mine = list(self.parameters())
        return [ParameterGroup(mine, self.settings.alpha_learning_rate, scheduled=False)] if mine else []

    @property
    def looks_ahead_every(self) -> int:
        """As of `Method`."""
        return 0

    def look_ahead(self, ahead: LookAhead, terms: TermsOf) -> None:
        """As of `Method`; `terms` gives those of a batch, with gradients."""

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """After each epoch and after a resume; the distribution of alpha over the samples, (BINS,) shares that sum to one."""
        shares = self.histogram.shares(self.mean)
        return {} if shares is None else {"alpha_histogram": shares}

    def clamped(self, alpha: Tensor) -> Tensor:
        """Alpha within [alpha_min, alpha_max]."""
        return alpha.clamp(self.settings.alpha_min, self.settings.alpha_max)


class Planned(Alpha):
    """A function of the epoch alone: constant, or from `alpha_start` to `alpha_end` linearly, by half a cosine, or at once."""

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__(settings)
        self.value = planned(settings, 0.0)

    def of(self, batch: Batch, terms: Terms) -> float:
        """The plan's value of this epoch."""
        return self.value

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """On to the next epoch."""
        self.value = planned(self.settings, progress.epoch / progress.epochs)
        return {}


def planned(settings: AlphaSettings, progress: float) -> float:
    """Alpha of a plan after a share of the epochs, in [0, 1]; constant where there is no other plan."""
    if settings.alpha_schedule not in ("linear", "cosine", "step"):
        return settings.alpha
    share = min(progress / settings.alpha_when, 1.0)
    if settings.alpha_schedule == "cosine":
        share = (1 - math.cos(math.pi * share)) / 2
    elif settings.alpha_schedule == "step":
        share = float(share >= 1)
    return settings.alpha_start + (settings.alpha_end - settings.alpha_start) * share


def follow(average: Tensor, value: Tensor, stays: float) -> Tensor:
    """Move a running mean () on in place and give it; it begins as NaN; what is not finite is passed over."""
    moved = torch.where(average.isnan(), value, stays * average + (1 - stays) * value)
    return average.copy_(torch.where(value.isfinite(), moved, average))
