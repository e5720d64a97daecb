"""CRD: contrast embeddings of student and teacher with those of other samples, kept in banks."""

import math
from collections.abc import Callable
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn import functional

from methods.batch import Batch
from methods.contrast_draws import ContrastDraws
from methods.feature_distillation import FeatureMethod, FeatureSettings
from methods.method import Knowledge, Needs, ParameterGroup, Progress, Task
from methods.settings import SettingsError, Temperature, override


class CRDSettings(FeatureSettings):
    """Hyper-parameters of CRD."""

    beta: float = override(FeatureSettings, "beta", default=0.8)
    negatives: int = Field(
        16_384,
        description="N, the number of negatives per sample, drawn from the samples of other "
        "classes. If these are fewer, they repeat.",
        ge=1,
    )
    nce_temperature: Temperature = Field(
        0.07, description="tau, the divisor of the inner products of embeddings."
    )
    width: int = Field(128, description="Length of the embeddings.", ge=1, le=4096)
    momentum: float = Field(
        0.5, description="Share of its old value that an entry of a bank keeps.", ge=0, lt=1
    )
    positive: Literal["exact", "relax"] = Field(
        "exact",
        description="Positive of a sample. exact: the sample itself; relax: a random sample of "
        "its class.",
    )


class CRD(FeatureMethod):
    """F = sum over both networks of the mean of NCE_i, their embeddings against the other's bank.

    NCE_i = -log h(e_i, b_i+) - sum over N negatives j of log(1 - h(e_i, b_j)), with h(e, b) = x /
    (x + N / n) and x = exp(<e, b> / tau) / Z. e is a linear map of the penultimate features to
    length 1, b an entry of the other network's bank of n embeddings. After a step, the entries of
    its samples are m b + (1 - m) e, scaled to length 1. Z is n times the mean of exp(<e, b> / tau)
    over the first batch, for each network, and constant afterwards.

    Both maps are trained with the student and are not part of it. The banks have 8 n `width` bytes
    on the device and in each checkpoint, 51 MB for 50,000 samples. They are equal on all ranks.
    """

    Settings = CRDSettings
    settings: CRDSettings
    needs = Needs(teacher=True, features=True, unblended=True)
    has_equal_buffers = True
    provenance = (
        "Tian, Krishnan & Isola, ICLR 2020 (arXiv 1910.10699): both terms and the banks; Z, the "
        "defaults and weight 0.8 as in the released code RepDistiller, whose CIFAR recipe is batch "
        "64, learning rate 0.05, 240 epochs. CRD+KD is there cross entropy + KD + 0.8 CRD (form "
        "additive, alpha 1), and WTTM+CRD in the code of TTM (arXiv 2402.11148) cross entropy + "
        "alpha WTTM + 0.8 CRD. Differences: the released code draws negatives uniformly and "
        "without repetition, here each comes from one of N equal strata, with the same "
        "expectation; it adds 1e-7 to the denominator of h. Unlabelled samples, of which it has "
        "none, are here classes of their own"
    )

    def prepare(self, knowledge: Callable[[], Knowledge] | None, task: Task) -> None:
        """Create the maps, the banks and the draws.

        Raises:
            SettingsError: All training samples have the same class.
            ValueError: The task has no labels.
        """
        if task.labels is None:
            raise ValueError("crd draws samples of other classes: give `Task.labels`")
        chosen = self.settings
        self.task = task
        self.draws = ContrastDraws(task.labels, chosen.negatives, chosen.positive == "relax")
        if int(self.draws.size.max()) == task.samples:
            raise SettingsError(
                f"negatives = {chosen.negatives} is not possible, because all {task.samples} "
                "training samples have the same class: use data with two classes, or "
                "method.name=kd",
                "negatives",
                value=chosen.negatives,
                allowed="data with samples of two classes",
            )
        self.student_map = nn.Linear(task.student_features, chosen.width)
        self.teacher_map = nn.Linear(task.teacher_features, chosen.width)
        # the expected squared length of an entry is 1
        bound = math.sqrt(3 / chosen.width)
        banks = torch.empty(2, task.samples, chosen.width).uniform_(-bound, bound)
        self.register_buffer("banks", banks)
        self.register_buffer("log_z", torch.full((2,), math.nan))
        self.banks: Tensor  # (2, n, width): embeddings of the student, of the teacher
        self.log_z: Tensor  # (2,) log Z of the student's and of the teacher's embeddings
        self.has_z = False
        self.stepped_index: Tensor | None = None  # (W B,) samples of the last step on all ranks
        self.stepped: Tensor | None = None  # (W B, 2, width) their embeddings

    def parameter_groups(self) -> list[ParameterGroup]:
        """Return one group with the recipe's weight decay, as in the released code."""
        return [ParameterGroup(list(self.parameters()), decayed=True)]

    def feature_term(self, batch: Batch) -> Tensor:
        """Return the sum of both networks' terms, ()."""
        self._update_banks()
        with torch.autocast(batch.student.features.device.type, enabled=False):
            embeddings = torch.stack(
                [
                    _embed(self.student_map, batch.student.features),
                    _embed(self.teacher_map, batch.teacher_features),
                ],
                dim=1,
            )  # (B, 2, width)
            contrast = self.draws.draw(batch.index)  # (B, 1 + N)
            scores = torch.stack(
                [
                    (embeddings[:, own] @ self.banks[1 - own].T).gather(1, contrast)
                    for own in range(2)
                ]
            )  # (2, B, 1 + N)
            scores = scores / self.settings.nce_temperature
            if not self.has_z:
                self._estimate_z(scores.detach())
            chance = math.log(self.settings.negatives / self.task.samples)
            odds = scores - (self.log_z[:, None, None] + chance)
            terms = functional.softplus(-odds[..., 0]) + functional.softplus(odds[..., 1:]).sum(2)
        self.stepped_index = self.task.gather(batch.index)
        self.stepped = self.task.gather(embeddings.detach())
        return terms.mean(dim=1).sum()

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """Complete the banks, and draw other samples in the next epoch."""
        self._update_banks()
        self.draws.epoch.fill_(progress.epoch)
        self.has_z = bool(self.log_z.isfinite().all())
        return {}

    @torch.no_grad()
    def _estimate_z(self, scores: Tensor) -> None:
        """Set log Z from scores (2, B, 1 + N) of each rank, unless an earlier batch has set it."""
        scores = scores.flatten(1)
        of_ranks = self.task.gather((scores.logsumexp(1) - math.log(scores.shape[1]))[None])
        log_z = of_ranks.logsumexp(0) + math.log(self.task.samples / len(of_ranks))
        self.log_z.copy_(torch.where(self.log_z.isnan(), log_z, self.log_z))

    @torch.no_grad()
    def _update_banks(self) -> None:
        """Blend the embeddings of the last step into the banks, which its backward pass needs."""
        if self.stepped_index is None or self.stepped is None:
            return
        index, momentum = self.stepped_index, self.settings.momentum
        # of a sample that was drawn several times, the last embedding counts
        same = index[:, None] == index
        last = (same * torch.arange(len(index), device=index.device)).amax(dim=1)
        for bank, embeddings in zip(self.banks, self.stepped[last].unbind(1), strict=True):
            blended = momentum * bank[index] + (1 - momentum) * embeddings
            bank.index_copy_(0, index, functional.normalize(blended, dim=1))
        self.stepped_index = self.stepped = None


def _embed(linear: nn.Linear, features: Tensor) -> Tensor:
    """Return the embeddings (B, width) of length 1 of features (B, D)."""
    return functional.normalize(linear(features.to(linear.weight.dtype)), dim=1)
