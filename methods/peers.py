"""Base of methods with peer learning: the peer term and its weight."""

from collections.abc import Mapping
from typing import Literal

import torch
from pydantic import Field
from torch import Tensor

from methods import losses
from methods.batch import Batch
from methods.method import Method, Objective, Progress
from methods.settings import Temperature
from methods.standardization import StandardizationSettings

UpdateOrder = Literal["simultaneous", "alternating"]


class PeerSettings(StandardizationSettings):
    """Hyper-parameters of peer learning.

    The defaults are those of deep mutual learning, except for alternating updates.
    """

    lambda_peer: float = Field(
        1.0,
        description="Weight of the peer term; at 0 every student trains alone, without "
        "communication.",
        ge=0,
    )
    peer_temperature: Temperature = Field(
        1.0, description="T_p, the divisor of the students' logits in the peer term."
    )
    peer_warmup: float = Field(
        0.0,
        description="Share of the epochs over which the weight of the peer term grows linearly "
        "from 0; 0: no warm-up.",
        ge=0,
        le=1,
    )
    update: UpdateOrder = Field(
        "simultaneous",
        description="Order of the students' steps. simultaneous: all use the outputs before the "
        "step; alternating: in turn, each with the outputs of its predecessors after their step, "
        "at the cost of one additional forward pass.",
    )


class PeerMethod(Method):
    """A student's own objective + lambda_peer T_p^2 D(q_o || q_s), the mean over its peers o.

    The peers' outputs are constants without a gradient.
    """

    settings: PeerSettings

    def __init__(self, settings: PeerSettings) -> None:
        super().__init__(settings)
        self.weight = self._weight_after(0.0)  # weight of the peer term in this epoch

    @property
    def uses_peers(self) -> bool:
        """Return whether peers are used: only with a weight above 0.

        All workers of a trial must agree, or they deadlock.
        """
        return self.settings.lambda_peer > 0

    @property
    def updates_alternately(self) -> bool:
        """Return whether `update` is alternating and peers are used."""
        return self.settings.update == "alternating" and self.uses_peers

    def add_peer_term(
        self,
        batch: Batch,
        own_loss: Tensor,
        terms: Mapping[str, Tensor],
        shares: Tensor | None = None,
    ) -> Objective:
        """Return the sum of the objective `own_loss` and the peer term.

        The peers' logits are read last, and not at all while their weight is 0. The objective is
        then bit-identical to `own_loss`.

        Args:
            batch: Batch of the student.
            own_loss: () objective without peers.
            terms: Scalars to track; `peer` is added, T_p^2 D without `shares`.
            shares: (B,) factors of the samples in the peer term; None means 1.
        """
        if self.weight == 0:
            return Objective(own_loss, {**terms, "peer": own_loss.detach().new_zeros(())})
        temperature, scaled = self.settings.peer_temperature, self.settings.scale_logits
        student = scaled(batch.student.logits)
        divergences = torch.stack(
            [losses.tempered_kl(scaled(peer), student, temperature) for peer in batch.peer_logits]
        )  # (P, B)
        peer_term = temperature**2 * divergences.mean(dim=0)
        weighted_term = peer_term if shares is None else shares * peer_term
        return Objective(
            own_loss + self.weight * weighted_term.mean(),
            {**terms, "peer": peer_term.detach().mean()},
        )

    def end_epoch(self, progress: Progress) -> dict[str, float | Tensor]:
        """Advance the warm-up; return the weight of the peer term in the finished epoch."""
        self.weight = self._weight_after(progress.epoch / progress.epochs)
        return {"peer_weight": self._weight_after((progress.epoch - 1) / progress.epochs)}

    def _weight_after(self, share: float) -> float:
        """Return the weight of the peer term after a share of the epochs."""
        warmup = self.settings.peer_warmup
        return self.settings.lambda_peer * (min(share / warmup, 1.0) if warmup else 1.0)
