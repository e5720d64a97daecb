"""Base of the methods that weight labels and teacher by alpha."""

from collections.abc import Callable
from typing import Literal, NamedTuple, Self

from pydantic import Field, model_validator
from torch import Tensor

from methods.alpha import Alpha, AlphaSettings, ScheduledAlpha, Terms
from methods.batch import Batch
from methods.capabilities import LookAhead
from methods.gap import GAPS
from methods.learnable import LEARNABLE
from methods.method import Knowledge, Method, Needs, Objective, ParameterGroup, Progress, Task
from methods.settings import SettingsError, Temperature


class Soft(NamedTuple):
    """Soft term of a batch.

    Attributes:
        value: (B,) soft term.
        divergence: (B,) bare divergence in nats.
        terms: Scalars to track.
        scale: Factor of `value` in the convex form.
        loss: Objective added to the weighted sum, or None.
    """

    value: Tensor
    divergence: Tensor
    terms: dict[str, Tensor]
    scale: float = 1.0
    loss: Tensor | None = None

    @property
    def scaled(self) -> Tensor:
        """Return the soft term of the convex form, (B,)."""
        return self.value if self.scale == 1 else self.scale * self.value


def build_alpha(settings: AlphaSettings) -> Alpha:
    """Return the alpha that these settings select."""
    if settings.alpha_schedule == "learnable":
        return LEARNABLE[settings.alpha_learnable](settings)
    return (GAPS[settings.alpha_gap] if settings.alpha_schedule == "gap" else ScheduledAlpha)(
        settings
    )


class AlphaWeightedMethod(Method):
    """(1 - alpha) CE + alpha soft; a subclass defines the soft term."""

    settings: AlphaSettings
    needs = Needs(teacher=True)

    def __init__(self, settings: AlphaSettings) -> None:
        super().__init__(settings)
        self.alpha = build_alpha(settings)

    def soft(self, batch: Batch) -> Soft:
        """Return the soft term of a batch."""
        raise NotImplementedError

    @property
    def learns_from_teacher(self) -> bool:
        """Return whether the soft term has a weight."""
        return super().learns_from_teacher and self.settings.alpha > 0

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        """Prepare alpha for the task."""
        self.alpha.prepare(task)

    def forward(self, batch: Batch) -> Objective:
        """Return the weighted sum over the batch.

        Tracked are the sum alone (`loss`), cross entropy, alpha, and the terms of the soft term.
        """
        return self.weigh(batch, batch.cross_entropy(), self.soft(batch))

    def weigh(self, batch: Batch, hard: Tensor, soft: Soft) -> Objective:
        """Return the objective from both terms."""
        weighted = self.alpha(batch, Terms(hard, soft.scaled, soft.divergence))
        loss = weighted.total if soft.loss is None else weighted.total + soft.loss
        return Objective(loss, {"cross_entropy": hard.detach(), **soft.terms, **weighted.tracked})

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the parameter groups of alpha."""
        return self.alpha.parameter_groups()

    @property
    def look_ahead_interval(self) -> int:
        """Return the interval of `look_ahead` that alpha requires, in steps."""
        return self.alpha.look_ahead_interval

    def look_ahead(self, ahead: LookAhead) -> None:
        """Look beyond the next step for alpha."""
        self.alpha.look_ahead(ahead, self._terms)

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """Advance the schedule of alpha."""
        return self.alpha.end_epoch(progress)

    def _terms(self, batch: Batch) -> Terms:
        soft = self.soft(batch)
        return Terms(batch.cross_entropy(), soft.scaled, soft.divergence)


Form = Literal["convex", "additive"]


class TwoFormSettings(AlphaSettings):
    """Hyper-parameters of alpha, and of the form.

    `alpha` applies to the convex form only; the additive form has `beta` instead.
    """

    form: Form = Field(
        "convex",
        description="Objective. convex: (1 - alpha) CE + alpha soft; additive: CE + beta soft, "
        "with a gradient that grows with beta.",
    )
    temperature: Temperature = Field(
        4.0, description="T, the divisor of the logits of teacher and student."
    )
    beta: float = Field(
        9.0,
        description="Weight of the soft term; cross entropy has weight 1. Used by the form "
        "additive, else ignored.",
        ge=0,
    )

    @model_validator(mode="after")
    def _check_form(self) -> Self:
        if self.form == "additive" and self.alpha_schedule != "constant":
            raise SettingsError(
                f"alpha_schedule = {self.alpha_schedule!r} is not allowed with form = 'additive', "
                "which has no alpha: choose form = 'convex', or alpha_schedule = 'constant'",
                "alpha_schedule",
                value=self.alpha_schedule,
                allowed=("constant",),
            )
        return self


class TwoFormMethod(AlphaWeightedMethod):
    """Method with two published forms: the convex one of `AlphaWeightedMethod`, and CE + beta soft.

    The additive form has no alpha.
    """

    settings: TwoFormSettings

    @property
    def learns_from_teacher(self) -> bool:
        """Return whether the soft term has a weight in the selected form."""
        if self.settings.form == "convex":
            return super().learns_from_teacher
        return self.needs.teacher and self.settings.beta > 0

    def weigh(self, batch: Batch, hard: Tensor, soft: Soft) -> Objective:
        """Return the objective in the selected form."""
        if self.settings.form == "convex":
            return super().weigh(batch, hard, soft)
        return Objective(
            self.additive(hard, soft.value.mean()), {"cross_entropy": hard.detach(), **soft.terms}
        )

    def additive(self, hard: Tensor, soft: Tensor) -> Tensor:
        """Return CE + beta soft from both means."""
        return hard + self.settings.beta * soft
