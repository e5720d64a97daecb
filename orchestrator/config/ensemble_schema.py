"""Define the section that weights several teachers in the configuration."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, model_validator

from orchestrator.config.fields import Section
from orchestrator.core.errors import FieldError
from orchestrator.core.text import quote

if TYPE_CHECKING:
    from orchestrator.config.schema import Teacher

MOST_TEACHERS = 8
TEACHER_IDENTITY = {"network", "training", "seed", "classes"}
Factors = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1e6)], ...], Field(min_length=2, max_length=MOST_TEACHERS)
]
GIVEN = ("fixed", "learned")  # kinds that use given weights


class Ensemble(Section):
    """Weights of the average of the logits of several `teachers`."""

    weights: Literal["fixed", "confidence", "entropy", "learned"] = Field(
        "fixed",
        description="fixed: the same for all samples; confidence: for each sample by each "
        "teacher's cross entropy with the label; entropy: for each sample by each teacher's "
        "entropy; learned: trained on the validation part during each trial.",
    )
    fixed: Factors | None = Field(
        None,
        description="Weight of each teacher, divided by their sum: with weights = fixed, and at "
        "the start with weights = learned. Null weights all equally.",
    )
    temperature: Annotated[float, Field(ge=0.01, le=1000)] = Field(
        1.0, description="Temperature of the distributions whose confidence or entropy is compared."
    )
    learning_rate: Annotated[float, Field(gt=0, le=1000)] = Field(
        0.3, description="Rate of the steps of learned weights, one for each validation batch."
    )

    @model_validator(mode="after")
    def _check_fixed(self) -> "Ensemble":
        if self.fixed is None:
            return self
        if self.weights not in GIVEN:
            message = (
                f"fixed = {quote(list(self.fixed))} is not allowed with weights = {self.weights}, "
                f"which computes the weights: set weights to fixed or learned, or remove fixed"
            )
            raise FieldError(message).with_details("fixed", self.fixed, None)
        if not sum(self.fixed) or (self.weights == "learned" and not all(self.fixed)):
            least = "all above 0" if self.weights == "learned" else "at least one above 0"
            message = f"fixed = {quote(list(self.fixed))} is not allowed: give weights, {least}"
            raise FieldError(message).with_details("fixed", self.fixed, least)
        return self


def check_teachers(teachers: "Sequence[Teacher]") -> None:
    """Require that teachers differ, and share the cache and its limit.

    Raises:
        FieldError: A teacher is repeated, or its cache or limit differs from that of the first.
    """
    identities = [each.model_dump(include=TEACHER_IDENTITY) for each in teachers]
    for number, (teacher, identity) in enumerate(zip(teachers, identities, strict=True)):
        field = f"teachers.{number}"
        if identity in identities[:number]:
            message = (
                f"{field} is the same as teachers.{identities.index(identity)}: give it another "
                f"network, training or seed, or remove it"
            )
            raise FieldError(message).with_details(field, teacher.network.name, "another teacher")
        for name in ("cache", "cache_gib"):
            first, value = getattr(teachers[0], name), getattr(teacher, name)
            if value != first:
                message = (
                    f"{field}.{name} = {quote(value)} differs from {quote(first)} of teachers.0, "
                    f"but teachers share one cache: give all of them the same {name}"
                )
                raise FieldError(message).with_details(f"{field}.{name}", value, first)
