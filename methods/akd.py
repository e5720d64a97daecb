"""AKD: distillation with an adaptive alpha and a class-wise reweighted teacher."""

from collections.abc import Callable
from typing import Literal, Self

from pydantic import Field, model_validator
from torch import Tensor

from methods import losses
from methods.alpha import AlphaSchedule, AlphaSettings
from methods.batch import Batch
from methods.cam import ContextAware, class_weights
from methods.method import Knowledge, ParameterGroup, Task
from methods.settings import Positive, SettingsError, Temperature, override
from methods.standardization import StandardizationSettings
from methods.weighted import AlphaWeightedMethod, Soft


class AKDSettings(AlphaSettings, StandardizationSettings):
    """Hyper-parameters of AKD: those of alpha and of the Context-Aware Module (cam).

    By default the gap formula `ratio` sets alpha.
    """

    alpha_schedule: AlphaSchedule = override(AlphaSettings, "alpha_schedule", default="gap")
    alpha_min: float = override(AlphaSettings, "alpha_min", default=0.05)
    alpha_max: float = override(AlphaSettings, "alpha_max", default=0.95)
    temperature: Temperature = Field(
        4.0, description="T, the divisor of the logits of teacher and student."
    )
    cam: bool = Field(
        False,
        description="Reweight the teacher's classes by the Context-Aware Module. Initially it "
        "changes nothing.",
    )
    cam_width: int = Field(
        32,
        description="Dimension of the class tokens, a multiple of cam_heads. Used with cam.",
        ge=1,
        le=4096,
    )
    cam_heads: int = Field(
        4, description="Number of attention heads over the classes. Used with cam.", ge=1, le=256
    )
    cam_rho: float = Field(
        4.0,
        description="rho in the module's objective CE(y, p~) + rho D(p || p~): at 0 its optimum "
        "is the labels, for large rho the teacher. Used with cam.",
        ge=0,
    )
    cam_grad: Literal["detached", "joint"] = Field(
        "detached",
        description="Objective that trains the module. detached: its own alone; joint: also the "
        "student's loss, which the module can lower by copying the student. Used with cam.",
    )
    cam_learning_rate: Positive = Field(
        0.02,
        description="Learning rate of the module, on the recipe's schedule and without weight "
        "decay. Used with cam.",
    )

    @model_validator(mode="after")
    def _check_cam(self) -> Self:
        if self.cam_width % self.cam_heads:
            below = self.cam_width - self.cam_width % self.cam_heads
            raise SettingsError(
                f"cam_width = {self.cam_width} must be divisible by cam_heads = {self.cam_heads}: "
                f"give {f'{below} or ' if below else ''}{below + self.cam_heads}",
                "cam_width",
                value=self.cam_width,
                allowed=f"a multiple of cam_heads = {self.cam_heads}",
            )
        return self


class AKD(AlphaWeightedMethod):
    """(1 - alpha) CE + alpha T^2 D(p~_T || q_T), with the reweighted teacher p~_T.

    p~_T = softmax(v / T + s), where the Context-Aware Module computes s. Without the module p~_T =
    p_T. The module minimises CE(y, p~_T) + rho D(p_T || p~_T). For each sample the optimum is (e_y
    + rho p_T) / (1 + rho), a teacher with corrected labels.
    """

    Settings = AKDSettings
    settings: AKDSettings
    provenance = (
        "arXiv 2509.05319 (2025), of which only the abstract was available; every formula is a "
        "reconstruction"
    )

    def __init__(self, settings: AKDSettings) -> None:
        super().__init__(settings)
        self.context: ContextAware | None = None

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        """Prepare alpha, and create the module for the task's number of classes."""
        super().prepare(knowledge, task)
        if self.settings.cam:
            chosen = self.settings
            self.context = ContextAware(
                task.classes, chosen.cam_width, chosen.cam_heads, chosen.temperature
            )

    def soft(self, batch: Batch) -> Soft:
        """Return T^2 D(p~_T || q_T) with the module's own objective.

        The tracked `distillation` contains T^2; `cam` is the module's own objective.
        """
        temperature = self.settings.temperature
        if self.context is None:
            divergence = losses.tempered_kl(*self._logits(batch), temperature)  # (B,)
            return self._scaled(divergence)
        (log_p, log_mixed), kind = self._teacher(batch), losses.full_type(batch.student.logits)
        target_log_p = log_mixed if self.settings.cam_grad == "joint" else log_mixed.detach()
        divergence = losses.kl_divergence(
            target_log_p, losses.log_softmax(self._logits(batch)[1].double(), temperature)
        ).to(kind)
        labelled = batch.labelled * batch.unweighted_cross_entropy(
            0.0, log_mixed.to(kind)
        )  # both terms are means over all samples
        module_loss = labelled + self.settings.cam_rho * losses.kl_divergence(
            log_p, log_mixed
        ).mean().to(kind)
        return self._scaled(divergence, module_loss)

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return the parameter groups of alpha and of the module."""
        module = [] if self.context is None else list(self.context.parameters())
        return super().parameter_groups() + (
            [ParameterGroup(module, self.settings.cam_learning_rate)] if module else []
        )

    def class_distributions(self, batch: Batch) -> dict[str, Tensor]:
        """Return the distributions of teacher, student and reweighted teacher at temperature T."""
        logits_by_source = dict(zip(("teacher", "student"), self._logits(batch), strict=True))
        shown = {
            name: losses.log_softmax(logits, self.settings.temperature).exp()
            for name, logits in logits_by_source.items()
        }
        if self.context is None:
            return shown
        return shown | {"reweighted": self._teacher(batch)[1].exp()}

    def class_weights(self, batch: Batch) -> Tensor | None:
        """Return the factor of the module for each class, (B, K), or None without the module."""
        if self.context is None:
            return None
        return class_weights(self.context(*self._logits(batch)))

    def _logits(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return the logits (B, K) of teacher and student that T divides."""
        scaled = self.settings.scale_logits
        return scaled(batch.teacher_logits), scaled(batch.student.logits)

    def _scaled(self, divergence: Tensor, module_loss: Tensor | None = None) -> Soft:
        value = self.settings.temperature**2 * divergence
        terms = {"distillation": value.detach().mean()} | (
            {} if module_loss is None else {"cam": module_loss.detach()}
        )
        return Soft(value, divergence, terms, loss=module_loss)

    def _teacher(self, batch: Batch) -> tuple[Tensor, Tensor]:
        """Return log p_T and log p~_T, (B, K) float64 each; only the second has a gradient."""
        assert self.context is not None
        logits = self._logits(batch)
        teacher = losses.log_softmax(logits[0].double(), self.settings.temperature)
        scores = self.context(*logits)
        return teacher, losses.log_softmax(teacher + scores)
