"""Schedule, score and map the weights of training samples from a survey of the student.

The estimators are in `influence.py`, the maps in `sample_weights.py`.
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.nn import functional

from methods import influence, losses
from methods.influence_network import WholeNetwork
from methods.kfac import factor_bytes, kfac
from methods.sample_weighting import Part, StudentSurvey, WeightingResult
from methods.sample_weights import CLIPPED_SHARE, MapName, Sign, sample_weights
from methods.settings import Positive, Settings, SettingsError
from methods.tempered_objective import Losses

Update = Literal["iterative", "static", "teacher_only", "both", "ssl"]
EstimatorName = Literal["last_layer", "kfac", "cg", "lissa", "identity", "exact"]
MAX_RESIDUAL = 1e-2  # largest relative residual of a solution that is accepted without a note
ESTIMATORS: dict[str, influence.Estimator] = {
    "last_layer": influence.last_layer,
    "kfac": kfac,
    "cg": influence.cg,
    "lissa": influence.lissa,
    "identity": influence.identity,
    "exact": influence.exact,
}


class InfluenceWeightingSettings(Settings):
    """Hyper-parameters of sample weighting: schedule, score, and map from scores to weights."""

    update: Update = Field(
        "iterative",
        description="Schedule and use of the weights. iterative: new weights every few epochs; "
        "static: once halfway, after which the student restarts; teacher_only: for the teacher "
        "alone; both: for teacher and student; ssl: for the unlabelled samples.",
    )
    weigh_by: Literal["influence", "loss", "random", "none"] = Field(
        "influence",
        description="Score of the samples. influence: on the loss of the validation part. "
        "Baselines: loss, the sample's own loss; random, the weights of influence, shuffled; "
        "none, equal weights.",
    )
    estimator: EstimatorName = Field(
        "last_layer",
        description="Estimator of the influence. last_layer: of the classifier, in closed form. "
        "Of the whole network: kfac, cg, lissa, exact (for few parameters), identity (inner "
        "products of gradients).",
    )
    damping: Positive = Field(0.01, description="lambda, added to the diagonal of the curvature.")
    weight_map: MapName = Field(
        "sigmoid",
        description="Map from influence to weights; hard: 1 for samples that are not harmful, "
        "else 0.",
    )
    sharpness: Positive = Field(
        10.0,
        description="k, the length of the interval to which sigmoid scales the range of the "
        "influence.",
    )
    clip: float = Field(
        CLIPPED_SHARE,
        description="Share of the influence scores that is clipped at each end before the map; 0: "
        "no clipping.",
        ge=0,
        le=0.25,
    )
    sign: Sign = Field(
        "correct",
        description="Sign of the influence. correct: harmful samples get smaller weights; "
        "released: larger ones, as in the released code, for comparison.",
    )
    warmup: float = Field(
        0.25,
        description="Share of the epochs before weights are first computed, at least one epoch. "
        "Not used by static.",
        ge=0,
        le=1,
    )
    every: int = Field(
        2,
        description="R, the number of epochs from one computation of the weights to the next. Not "
        "used by static.",
        ge=1,
    )
    lag: int = Field(
        1,
        description="Epochs trained while new weights are computed, fewer if none would remain to "
        "use them; 0: training waits for the weights. Not used by static.",
        ge=0,
    )
    momentum: float = Field(
        0.5,
        description="Share of the current weights that new ones keep. Not used by static.",
        ge=0,
        le=0.99,
    )
    clean_samples: int = Field(
        0,
        description="Number of validation samples used to score the training samples; 0: all.",
        ge=0,
        le=10**9,
    )

    @model_validator(mode="after")
    def _check_lag(self) -> Self:
        if self.lag > self.every and self.update != "static":
            raise SettingsError(
                f"lag = {self.lag} must not exceed every = {self.every}, because weights would be "
                f"requested before the previous ones arrive: give a lag of at most {self.every}, "
                f"or raise every",
                "lag",
                value=self.lag,
                allowed=(0, self.every),
            )
        return self


class WeightedObjective(NamedTuple):
    """Objective that the student minimises, in the form that the estimators need.

    Attributes:
        objective: Tempered cross entropies of each sample.
        weights: (n,) current factors of the samples' losses.
        counted: (n,) bool, samples that have a weight of their own.
    """

    objective: Losses
    weights: Tensor
    counted: Tensor


class InfluenceWeighting:
    """Weighting plan of a method that gives its objective on a survey by `weighted_objective`."""

    def __init__(
        self,
        settings: InfluenceWeightingSettings,
        epochs: int,
        weighted_objective: Callable[[StudentSurvey], WeightedObjective],
    ) -> None:
        self.settings, self.epochs, self.weighted_objective = settings, epochs, weighted_objective
        self.restarts_after: int | None = None
        if settings.update == "static":
            self.first, self.lag, self.restarts_after = epochs // 2, 0, epochs // 2
        else:
            self.first = max(round(settings.warmup * epochs), 1)
            self.lag = max(min(settings.lag, epochs - 1 - self.first), 0)
        if not 0 < self.first < epochs:
            raise SettingsError(
                f"update = {settings.update!r} needs epochs before and after the weights are "
                f"computed, but training.epochs is {epochs}: give training.epochs of 2 or more, "
                "and a warmup below 1",
                "update",
                value=settings.update,
                allowed="training.epochs of 2 or more",
            )

    def is_due(self, epoch: int) -> bool:
        """Return whether weights are due after `epoch` epochs: once halfway, or every R epochs.

        Weights are due only while an epoch remains that can use them.
        """
        if self.settings.update == "static":
            return 0 < epoch == self.first
        return (
            epoch >= self.first
            and (epoch - self.first) % self.settings.every == 0
            and epoch + self.lag < self.epochs
        )

    def required_bytes(
        self, samples: int, classes: int, features: int, parameters: Mapping[str, Tensor]
    ) -> int:
        """Return the bytes that the survey and the chosen estimator hold at once."""
        survey_bytes = (
            4 * samples * (features + 4 * classes)
        )  # logits and targets of student, teacher and labels
        return survey_bytes + self._estimator_bytes(samples, classes, features, parameters)

    def _estimator_bytes(
        self, samples: int, classes: int, features: int, parameters: Mapping[str, Tensor]
    ) -> int:
        chosen, size = self.settings, sum(tensor.numel() for tensor in parameters.values())
        if chosen.weigh_by in ("loss", "none"):
            return 0
        if chosen.estimator == "kfac":
            return factor_bytes(parameters) + influence.needed_bytes(
                "identity", samples, classes, features, size
            )
        parameter_count = classes * (features + 1) if chosen.estimator == "last_layer" else size
        return influence.needed_bytes(chosen.estimator, samples, classes, features, parameter_count)

    def weigh(self, survey: StudentSurvey) -> WeightingResult:
        """Return new weights: scores, mapped and mixed with the current weights.

        The baseline `random` shuffles them. A note reports an estimator that stopped before
        convergence.

        Raises:
            ArithmeticError: The estimator diverged.
        """
        chosen = self.settings
        weighted = self.weighted_objective(survey)
        counted, notes = weighted.counted, list[str]()
        loss = _labelled_loss(survey.training)
        tracked = {"labelled_loss": loss, "weighed": float(counted.sum())}
        noted = {"labelled_loss": loss, "progress": survey.before.get("labelled_loss", loss) - loss}
        if not counted.any():
            notes.append(
                "no samples are weighted, because no prediction of the teacher reaches "
                "method.threshold: lower it, or train the teacher longer"
            )
        scores = torch.full_like(survey.weights, math.nan)
        new_weights = torch.ones_like(survey.weights)
        if chosen.weigh_by != "none" and counted.any():
            if chosen.weigh_by == "loss":
                scores = _sample_losses(survey.training, weighted.objective)
                scores -= scores[counted].mean()
            else:
                result = self._influence(survey, weighted)
                scores = result.phi
                tracked = tracked | _solver_metrics(result)
                notes = notes + _convergence_notes(result)
            scores = torch.where(counted, scores, math.nan).float()
            new_weights = sample_weights(
                scores, chosen.weight_map, chosen.sharpness, chosen.sign, counted, chosen.clip
            )
        if chosen.weigh_by == "random":
            new_weights = _shuffled(new_weights, counted, survey.seed)
        old_share = 0.0 if chosen.update == "static" else chosen.momentum
        weights = torch.where(
            counted, old_share * survey.weights + (1 - old_share) * new_weights, 1.0
        )
        mean = (survey.rates * weights * counted).sum() / (survey.rates * counted).sum().clamp(
            min=1e-12
        )
        weights = torch.where(counted, weights / mean, 1.0)
        return WeightingResult(weights.float(), scores, noted, tracked, tuple(notes))

    def _influence(
        self, survey: StudentSurvey, weighted: WeightedObjective
    ) -> influence.InfluenceScores:
        chosen, held_out = self.settings, self._clean_part(survey)
        objective, weights, _ = weighted
        problem: influence.Problem
        if chosen.estimator == "last_layer":
            problem = influence.LastLayer(
                survey.training, objective, held_out, weights, survey.limit_bytes, survey.heartbeat
            )
        else:
            problem = WholeNetwork(survey.network, objective, held_out.labels, weights)
        return influence.scores(problem, ESTIMATORS[chosen.estimator], chosen.damping)

    def _clean_part(self, survey: StudentSurvey) -> Part:
        """Return the validation part; samples beyond `clean_samples` get the label -1."""
        part, limit = survey.held_out, self.settings.clean_samples
        if not 0 < limit < len(part.labels):
            return part
        order = torch.randperm(
            len(part.labels), generator=torch.Generator().manual_seed(survey.seed)
        )
        return part._replace(
            labels=part.labels.index_fill(0, order[limit:].to(part.labels.device), -1)
        )


def _solver_metrics(result: influence.InfluenceScores) -> dict[str, float]:
    residual = {} if result.residual is None else {"residual": result.residual}
    return {"iterations": float(result.iterations), **residual}


def _convergence_notes(result: influence.InfluenceScores) -> list[str]:
    if result.residual is None or result.residual < MAX_RESIDUAL:
        return []
    return [
        f"the influence did not converge: its relative residual is {result.residual:.2g} after "
        f"{result.iterations} iterations; raise method.damping, or choose another method.estimator"
    ]


def _shuffled(weights: Tensor, counted: Tensor, seed: int) -> Tensor:
    """Return the same weights, permuted among the weighted samples."""
    order = torch.randperm(int(counted.sum()), generator=torch.Generator().manual_seed(seed)).to(
        weights.device
    )
    shuffled = weights.clone()
    shuffled[counted] = weights[counted][order]
    return shuffled


def _sample_losses(part: Part, objective: Losses) -> Tensor:
    """Return the loss of each sample, (n,): its cross entropy, or if unlabelled its excess loss.

    The excess loss is the minimised loss less its least possible value.
    """
    labelled = functional.cross_entropy(part.logits, part.labels, ignore_index=-1, reduction="none")
    return torch.where(part.labels != -1, labelled, objective.excess(part.logits))


def _labelled_loss(part: Part) -> float:
    """Return the mean cross entropy over the labelled samples of a part, in nats."""
    return float(losses.cross_entropy(part.logits, part.labels))
