"""Deep mutual learning: students without a teacher learn from each other."""

from methods.batch import Batch
from methods.method import Needs, Objective
from methods.peers import PeerMethod, PeerSettings, UpdateOrder
from methods.settings import override


class DMLSettings(PeerSettings):
    """Hyper-parameters of DML.

    The defaults are the published ones: weight 1, T_p = 1, no warm-up, alternating updates.
    """

    update: UpdateOrder = override(PeerSettings, "update", default="alternating")


class DML(PeerMethod):
    """CE + lambda_peer T_p^2 D(q_o || q_s), the mean over the other students o."""

    Settings = DMLSettings
    settings: DMLSettings
    needs = Needs()
    provenance = (
        "Zhang, Xiang, Hospedales & Lu, CVPR 2018 (arXiv 1706.00384); T_p and the "
        "warm-up are additions, off by default"
    )

    def forward(self, batch: Batch) -> Objective:
        """Return the objective of one student; track cross entropy and T_p^2 D (`peer`)."""
        hard = batch.cross_entropy()
        return self.add_peer_term(batch, hard, {"cross_entropy": hard.detach()})
