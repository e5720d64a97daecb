"""IC-KD: distillation that also uses the logits of similar samples from a memory bank.

`retrieval.py` retrieves the samples; `bank_plan.py` describes how the bank is filled.
"""

from collections.abc import Callable
from typing import Literal, Self

import torch
from pydantic import Field, model_validator
from torch import Tensor

from methods import contrastive, losses
from methods.bank import Bank, BankQuery
from methods.bank_plan import BankPlan
from methods.batch import Batch
from methods.method import Knowledge, Method, Needs, Objective, Progress, Task
from methods.retrieval import Neighbours
from methods.settings import SettingsError, Temperature
from methods.standardization import StandardizationSettings


class ICKDSettings(StandardizationSettings):
    """Hyper-parameters of IC-KD.

    With picd = nicd = 0 it is KD in its convex form (offline), or mutual learning (online).
    """

    paradigm: Literal["offline", "online", "teacher_free"] = Field(
        "offline",
        description="Source of the bank. offline: a frozen teacher, computed once; online: the "
        "peers, during training; teacher_free: the student itself.",
    )
    alpha: float = Field(
        0.9,
        description="Weight of the teacher or its substitute; cross entropy has the weight 1 - "
        "alpha. Smaller values, 0.1 to 0.5, suit online and teacher_free. teacher_free uses 0 "
        "until the first bank.",
        ge=0,
        le=1,
    )
    temperature: Temperature = Field(
        4.0, description="T, the divisor of the logits of student and target."
    )
    picd: float = Field(
        0.5,
        description="pi, the share of alpha for the target from positives; the sample's own "
        "target has the share 1 - pi.",
        ge=0,
        le=1,
    )
    nicd: float = Field(0.2, description="nu, the weight of the contrast with the negatives.", ge=0)
    positives: int = Field(
        8,
        description="k_p, the number of most similar samples of the same class that form a "
        "target; 0: the whole class.",
        ge=0,
    )
    negatives: int = Field(
        32, description="k_n, the number of most similar samples of other classes.", ge=1
    )
    retrieval_temperature: float = Field(
        0.1,
        description="tau_r, the divisor of the similarities that weight the positives: 0.01 "
        "selects the nearest one, 100 gives equal weights.",
        ge=1e-4,
    )
    aggregate: Literal["logit", "prob"] = Field(
        "logit",
        description="Quantity of the positives that is averaged. logit: their logits, which gives "
        "the geometric mean of their distributions; prob: their distributions.",
    )
    nicd_loss: Literal["info_nce", "hinge"] = Field(
        "info_nce",
        description="Loss of the contrast. info_nce: InfoNCE with a positive; hinge: mean hinge "
        "loss of the negatives alone.",
    )
    nicd_pos: Literal["bank", "own"] = Field(
        "bank",
        description="Positive of InfoNCE. bank: the target from the positives; own: the logits of "
        "the teacher or the bank for the sample itself.",
    )
    nicd_temperature: Temperature = Field(
        0.5, description="tau, the divisor of the cosines in InfoNCE."
    )
    nicd_margin: float = Field(
        0.0, description="Cosine above which a negative adds to the hinge loss.", ge=-1, le=1
    )
    bank: Literal["epoch", "ema", "momentum"] = Field(
        "epoch",
        description="How students fill the bank. epoch: a pass over the clean view after each "
        "epoch; ema: the same with the moving average of their weights; momentum: their training "
        "outputs, blended entry by entry, without a pass. Used by online and teacher_free.",
    )
    bank_momentum: float = Field(
        0.9,
        description="Share of the old value that a blend keeps: of an entry once per epoch "
        "(momentum), or of the averaged weights once per step (ema).",
        ge=0,
        le=1,
    )
    queue: int = Field(
        16_384,
        description="Number of most recently drawn samples that can be retrieved; 0: all samples. "
        "Used by online and teacher_free.",
        ge=0,
        le=10**9,
    )
    warmup: float = Field(
        0.1,
        description="Share of the epochs before the first bank, at least one epoch. Used by "
        "online and teacher_free.",
        ge=0,
        le=1,
    )

    @model_validator(mode="after")
    def _check_terms(self) -> Self:
        if self.paradigm == "teacher_free" and self.alpha == self.nicd == 0:
            raise SettingsError(
                "alpha = 0.0 is not allowed together with nicd = 0.0, because the bank would "
                "have no effect: give one of them a weight above 0",
                "alpha",
                value=self.alpha,
                allowed="above 0",
            )
        return self


class ICKD(Method):
    """(1 - alpha) CE + alpha [(1 - pi) KD + pi PICD] + nu NICD, means over the batch.

    PICD_i = T^2 D(softmax(u_i / T) || q_T), where u_i aggregates the bank's logits of the positives
    of i. NICD_i is InfoNCE or a hinge. It compares the direction of the student's logits with the
    directions of the bank's logits for the negatives of i.

    KD is T^2 D of the teacher's logits (offline) or the mean over the peers' logits of this step
    (online). With teacher_free it is that of the bank's logits of the same sample; at picd = 1 it
    is absent. `standardize` changes these divergences, after the aggregation; NICD has no scale.
    """

    Settings = ICKDSettings
    settings: ICKDSettings
    needs = Needs(teacher=True)
    provenance = (
        "arXiv 2501.07040 (2025), of which only the abstract was available: the bank, the "
        "retrieval, the terms PICD and NICD in logit space and the three paradigms are from it; "
        "every formula and number is a reconstruction"
    )

    def __init__(self, settings: ICKDSettings) -> None:
        super().__init__(settings)
        self.needs = Needs(teacher=settings.paradigm == "offline")
        self.bank: Bank | None = None

    @property
    def uses_peers(self) -> bool:
        """Return whether the peers provide targets and fill the bank."""
        return self.settings.paradigm == "online"

    @property
    def updates_alternately(self) -> bool:
        """Return False: all students step at once."""
        return False

    @property
    def _uses_positives(self) -> bool:
        """Return whether a target from positives has a weight."""
        chosen = self.settings
        contrasted = (
            chosen.nicd > 0 and chosen.nicd_loss == "info_nce" and chosen.nicd_pos == "bank"
        )
        return contrasted or chosen.alpha * chosen.picd > 0

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        """Store the size that the bank must have."""
        self.shape = (task.samples, task.classes)

    def bank_plan(self, epochs: int) -> BankPlan | None:
        """Return the plan of the bank, or None if no term uses one.

        Students fill a new bank after every epoch from the end of the warm-up.

        Raises:
            SettingsError: No epoch remains that can use the bank.
        """
        chosen = self.settings
        retrieved = (
            chosen.positives if self._uses_positives else 0,
            chosen.negatives if chosen.nicd > 0 else 0,
        )
        if chosen.paradigm != "teacher_free" and not self._uses_positives and chosen.nicd == 0:
            return None
        if chosen.paradigm == "offline":
            return BankPlan("teacher", *retrieved)
        first = max(round(chosen.warmup * epochs), 1)
        if first >= epochs:
            raise SettingsError(
                f"warmup = {chosen.warmup} leaves none of {epochs} epochs with a bank: lower it, "
                "or train for at least two epochs",
                "warmup",
                value=chosen.warmup,
                allowed="at least two epochs",
            )
        return BankPlan(
            "peers" if chosen.paradigm == "online" else "own",
            *retrieved,
            fill=chosen.bank,  # type: ignore[arg-type]
            momentum=chosen.bank_momentum,
            queue=chosen.queue,
            first=first,
        )

    def update_bank(self, knowledge: Knowledge) -> None:
        """Replace the bank.

        Raises:
            SettingsError: The knowledge has other numbers of samples or classes than the task.
        """
        shape = tuple(knowledge.logits.shape)
        if shape != self.shape:
            raise SettingsError(
                f"the bank has {shape} samples and classes, but the task has {self.shape}: it "
                "belongs to other data or another teacher; fit the teacher on these data",
                value=shape,
                allowed=self.shape,
            )
        chosen = self.settings
        self.bank = None  # two banks may not fit in memory
        self.bank = Bank(
            knowledge,
            BankQuery(
                chosen.positives if self._uses_positives else None,
                chosen.negatives if chosen.nicd > 0 else 0,
                chosen.retrieval_temperature,
                chosen.aggregate,  # type: ignore[arg-type]
                chosen.temperature,
            ),
        )

    @property
    def neighbours(self) -> Neighbours | None:
        """Return the samples retrieved from the current bank, or None without a bank."""
        return self.bank.neighbours if self.bank else None

    def forward(self, batch: Batch) -> Objective:
        """Return the objective of a batch.

        Tracked are cross entropy and the other terms without their weights (`distillation`, `picd`,
        `nicd`).
        """
        chosen, hard = self.settings, batch.cross_entropy()
        terms = {"cross_entropy": hard.detach()}
        if chosen.paradigm == "teacher_free" and self.bank is None:
            return Objective(hard, terms)
        share = chosen.picd if self.bank else 0.0
        soft = hard.new_zeros(())
        for name, weight, term in (
            ("distillation", 1 - share, self._kd),
            ("picd", share, self._picd),
        ):
            if weight > 0 and chosen.alpha > 0:
                value = term(batch).mean()
                soft = soft + weight * value
                terms[name] = value.detach()
        loss = (1 - chosen.alpha) * hard + chosen.alpha * soft
        if chosen.nicd > 0 and self.bank:
            value = self._nicd(batch, self.bank).mean()
            loss = loss + chosen.nicd * value
            terms["nicd"] = value.detach()
        return Objective(loss, terms)

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """Return the quality measures of the current bank."""
        return dict(self.bank.quality) if self.bank else {}

    def _kd(self, batch: Batch) -> Tensor:
        """Return the KD term, (B,)."""
        if self.settings.paradigm == "online":
            divergences = torch.stack(
                [self._divergence(peer, batch) for peer in batch.peer_logits]
            )  # (P, B)
            return divergences.mean(dim=0)
        return self._divergence(self._reference_logits(batch), batch)

    def _picd(self, batch: Batch) -> Tensor:
        assert self.bank is not None
        return self._divergence(self.bank.target(batch.index), batch)

    def _nicd(self, batch: Batch, bank: Bank) -> Tensor:
        chosen = self.settings
        negatives, present = bank.negatives(batch.index)
        if chosen.nicd_loss == "hinge":
            return contrastive.hinge(batch.student.logits, negatives, present, chosen.nicd_margin)
        positive = (
            bank.target(batch.index) if chosen.nicd_pos == "bank" else self._reference_logits(batch)
        )
        return contrastive.info_nce(
            batch.student.logits, positive, negatives, present, chosen.nicd_temperature
        )

    def _reference_logits(self, batch: Batch) -> Tensor:
        """Return the logits (B, K) of the teacher, or of the bank in its place, for the samples."""
        if self.settings.paradigm == "offline":
            return batch.teacher_logits
        assert self.bank is not None
        return self.bank.logits(batch.index)

    def _divergence(self, target: Tensor, batch: Batch) -> Tensor:
        """Return T^2 D, (B,), from target logits (B, K)."""
        temperature, scaled = self.settings.temperature, self.settings.scale_logits
        divergence = losses.tempered_kl(scaled(target), scaled(batch.student.logits), temperature)
        return temperature**2 * divergence
