"""What the methods with an alpha have in common: labels and teacher, weighed by whatever decides alpha.

Knows one batch at a time; what the soft term is, a method says.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor

from methods.alpha import Alpha, AlphaSettings, Planned, Terms
from methods.batch import Batch
from methods.gap import GAPS
from methods.learnable import LEARNABLE
from methods.method import Knowledge, LookAhead, Method, Needs, Objective, ParameterGroup, Progress, Task
from methods.settings import SettingsError, setting, temperature_setting


class Soft(NamedTuple):
    """The soft term of a batch: `value` (B,), by whose `scale` the convex form multiplies it, the bare divergence (B,) in nats.

    `loss` is what the method minimises beside the weighted sum; `terms` what it tracks.
    """

    value: Tensor
    divergence: Tensor
    terms: dict[str, Tensor]
    scale: float = 1.0
    loss: Tensor | None = None


def alpha_of(settings: AlphaSettings) -> Alpha:
    """Who decides alpha under these settings."""
    if settings.alpha_schedule == "learnable":
        return LEARNABLE[settings.alpha_learnable](settings)
    return (GAPS[settings.alpha_gap] if settings.alpha_schedule == "gap" else Planned)(settings)


class Weighted(Method):
    """(1 - alpha) CE + alpha soft; a subclass says what the soft term is."""

    settings: AlphaSettings
    needs = Needs(teacher=True)

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__(settings)
        self.alpha = alpha_of(settings)

    def soft(self, batch: Batch) -> Soft:
        """The soft term of a batch."""
        raise NotImplementedError

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        """Alpha learns who else trains this student."""
        self.alpha.prepare(task)

    def forward(self, batch: Batch) -> Objective:
        """The weighted sum over the batch; tracked: it alone (`loss`), both terms, alpha, what the soft term says of itself."""
        return self.weigh(batch, batch.cross_entropy(), self.soft(batch))

    def weigh(self, batch: Batch, hard: Tensor, soft: Soft) -> Objective:
        """The objective from both terms."""
        weighed = self.alpha(batch, Terms(hard, soft.scale * soft.value, soft.divergence))
        loss = weighed.total if soft.loss is None else weighed.total + soft.loss
        return Objective(loss, {"cross_entropy": hard.detach(), **soft.terms, **weighed.tracked})

    def parameter_groups(self) -> list[ParameterGroup]:
        """Alpha's own."""
        return self.alpha.parameter_groups()

    @property
    def looks_ahead_every(self) -> int:
        """As often as alpha wants to."""
        return self.alpha.looks_ahead_every

    def look_ahead(self, ahead: LookAhead) -> None:
        """Alpha does."""
        self.alpha.look_ahead(ahead, self._terms)

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """Alpha's plan moves on."""
        return self.alpha.end_epoch(progress)

    def _terms(self, batch: Batch) -> Terms:
        soft = self.soft(batch)
        return Terms(batch.cross_entropy(), soft.scale * soft.value, soft.divergence)


@dataclass(frozen=True)
class FormedSettings(AlphaSettings):
    """Alpha's hyper-parameters, of which `alpha` counts in the convex form alone; the additive form has `beta` instead."""

    form: str = setting(
        "convex",
        "convex: (1 - alpha) CE + alpha soft; additive: CE + beta soft, whose gradient grows with beta",
        choices=("convex", "additive"),
    )
    temperature: float = temperature_setting(4.0, "T: divides the logits of teacher and student")
    beta: float = setting(9.0, "weight of the soft term beside a cross entropy of weight 1 (additive form; else ignored)", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.form == "additive" and self.alpha_schedule != "constant":
            raise SettingsError(
                f"alpha_schedule = {self.alpha_schedule!r} does not go with form = 'additive', which has no alpha: "
                "take form = 'convex', or alpha_schedule = 'constant'",
                "alpha_schedule",
                value=self.alpha_schedule,
                allowed=("constant",),
            )


class Formed(Weighted):
    """A method with two published forms: the convex one of `Weighted`, and CE + beta soft, which has no alpha."""

    settings: FormedSettings

    def weigh(self, batch: Batch, hard: Tensor, soft: Soft) -> Objective:
        """The objective in the form that was chosen."""
        if self.settings.form == "convex":
            return super().weigh(batch, hard, soft)
        return Objective(self.additive(hard, soft.value.mean()), {"cross_entropy": hard.detach(), **soft.terms})

    def additive(self, hard: Tensor, soft: Tensor) -> Tensor:
        """CE + beta soft from both means."""
        return hard + self.settings.beta * soft
