"""Context-Aware Module: reweight the teacher's classes from the outputs of teacher and student.

The idea is that of arXiv 2509.05319 ("MLP + Attention" over class-wise teacher outputs); its form
is a reconstruction. The module exists during training only and is no part of the student.
"""

import torch
from torch import Tensor, nn

FULL_ATTENTION = 256  # most classes at which every class attends to every other
INDUCED = 64  # tokens of the induced attention beyond that


class ContextAware(nn.Module):
    """Scores s (B, K) that turn the teacher p_T = softmax(v / T) into softmax(v / T + s).

    The input is logits (B, K) of teacher and student. Each class is one token: [p_T, q_T, p_T -
    q_T], projected to `width`, plus a learned embedding of the class. Attention with `heads` heads
    over the tokens, a residual sum and an MLP follow. The last layer starts at zero, so that s = 0
    leaves the teacher unchanged.

    Attention costs B heads K^2 scores. Beyond `FULL_ATTENTION` classes it uses `INDUCED` learned
    tokens. These first attend to the classes and are then attended to (induced form of arXiv
    1810.00825). This costs 2 B heads K `INDUCED` scores, an eighth at K = 1000, and limits the rank
    to `INDUCED`.
    """

    def __init__(self, classes: int, width: int, heads: int, temperature: float) -> None:
        super().__init__()
        self.temperature = temperature
        self.lift = nn.Linear(3, width)
        self.classes = nn.Parameter(0.02 * torch.randn(classes, width))
        self.attention = nn.MultiheadAttention(width, heads, batch_first=True)
        self.induced: nn.Parameter | None = None
        if classes > FULL_ATTENTION:
            self.induced = nn.Parameter(torch.randn(INDUCED, width) / width**0.5)
            self.gathering = nn.MultiheadAttention(width, heads, batch_first=True)
        last = nn.Linear(width, 1, bias=False)
        nn.init.zeros_(last.weight)
        self.mlp = nn.Sequential(nn.Linear(width, width), nn.GELU(), last)

    def forward(self, teacher_logits: Tensor, student_logits: Tensor) -> Tensor:
        """Return s (B, K), float32 or float64 as the parameters; no gradient reaches the logits."""
        with torch.autocast(teacher_logits.device.type, enabled=False):
            kind = self.classes.dtype
            teacher, student = (
                (logits.detach().to(kind) / self.temperature).softmax(dim=1)
                for logits in (teacher_logits, student_logits)
            )
            tokens = (
                self.lift(torch.stack([teacher, student, teacher - student], dim=2)) + self.classes
            )  # (B, K, width)
            context = tokens
            if self.induced is not None:
                asking = self.induced.expand(len(tokens), -1, -1)
                context = self.gathering(asking, tokens, tokens, need_weights=False)[0]
            tokens = tokens + self.attention(tokens, context, context, need_weights=False)[0]
            scores: Tensor = self.mlp(tokens).squeeze(2)
            return scores


def class_weights(scores: Tensor) -> Tensor:
    """Return K softmax(s), (B, K): positive factors of the teacher's classes, with mean 1.

    They multiply the classes before normalisation.
    """
    return scores.shape[1] * scores.softmax(dim=1)
