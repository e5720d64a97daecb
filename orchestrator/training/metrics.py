"""Quality of a network on a labelled part: accuracy, NLL, calibration, entropy, agreement. Knows tensors alone."""

import torch
from torch import Tensor
from torch.nn.functional import log_softmax, nll_loss

BINS = 15  # of the calibration error, as in Guo et al. 2017 (arXiv 1706.04599)


class Scores:
    """Sums over the batches of one part; they add over ranks, so any split of the part gives the same metrics."""

    def __init__(self, device: torch.device) -> None:
        # samples, correct, nll, entropy, agreeing; then per bin: samples, confidence, correct
        self.sums = torch.zeros(5 + 3 * BINS, dtype=torch.float64, device=device)

    def add(self, logits: Tensor, labels: Tensor, teacher: Tensor | None = None) -> None:
        """Count a batch: logits (B, K), labels (B,), the teacher's predicted classes (B,) or None."""
        log_q = log_softmax(logits.float(), dim=1).double()
        confidence, predicted = log_q.max(dim=1)
        correct = (predicted == labels).double()
        agreeing = torch.zeros_like(correct) if teacher is None else (predicted == teacher).double()
        nll = nll_loss(log_q, labels, reduction="none")
        entropy = -torch.special.xlogy(log_q.exp(), log_q.exp()).sum(dim=1)
        sums = torch.stack([torch.ones_like(correct), correct, nll, entropy, agreeing], dim=1).sum(dim=0)
        bins = (confidence.exp().nan_to_num() * BINS).long().clamp(max=BINS - 1)  # a diverged student: its nll says so
        table = torch.zeros(BINS, 3, dtype=torch.float64, device=logits.device)
        table.index_add_(0, bins, torch.stack([torch.ones_like(correct), confidence.exp(), correct], dim=1))
        self.sums += torch.cat([sums, table.flatten()])

    def metrics(self, agreement: bool) -> dict[str, float]:
        """accuracy, nll (nats), ece, entropy (nats) and, if asked for, agreement with the teacher."""
        sums = self.sums.cpu()
        samples, correct, nll, entropy, agreeing = sums[:5].tolist()
        table = sums[5:].reshape(BINS, 3)
        ece = (table[:, 1] - table[:, 2]).abs().sum().item() / samples
        metrics = {"accuracy": correct / samples, "nll": nll / samples, "ece": ece, "entropy": entropy / samples}
        return metrics | ({"agreement": agreeing / samples} if agreement else {})
