"""The Context-Aware Module: reweights the teacher's classes from what teacher and student say of all of them.

Its idea is that of arXiv 2509.05319 ("MLP + Attention" over class-wise teacher outputs); its form is a reconstruction.
Knows logits, no labels and no losses. It exists while a student is trained, and nothing of it in the student.
"""

import torch
from torch import Tensor, nn

FULL_ATTENTION = 256  # classes up to which every class attends to every other
INDUCED = 64  # tokens through which classes attend beyond that


class ContextAware(nn.Module):
    """Scores s (B, K) that turn the teacher p_T = softmax(v / T) into softmax(v / T + s), from logits (B, K) of both.

    One token per class: [p_T, q_T, p_T - q_T] lifted to `width`, plus a learned embedding of the class; `heads` heads of
    attention over the tokens, a residual sum, an MLP. Its last layer begins at zero: s = 0, the teacher as it is.
    Attention costs B heads K^2 scores; beyond `FULL_ATTENTION` classes it goes through `INDUCED` learned tokens that first
    attend to the classes and then are attended to (the induced form of arXiv 1810.00825): 2 B heads K `INDUCED` scores,
    at K = 1000 an eighth, and a rank of at most `INDUCED`.
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
        """s (B, K) in float32 (float64 stays); no gradient reaches the logits."""
        with torch.autocast(teacher_logits.device.type, enabled=False):
            kind = self.classes.dtype
            teacher, student = (
                (logits.detach().to(kind) / self.temperature).softmax(dim=1) for logits in (teacher_logits, student_logits)
            )
            tokens = self.lift(torch.stack([teacher, student, teacher - student], dim=2)) + self.classes  # (B, K, width)
            context = tokens
            if self.induced is not None:
                asking = self.induced.expand(len(tokens), -1, -1)
                context = self.gathering(asking, tokens, tokens, need_weights=False)[0]
            tokens = tokens + self.attention(tokens, context, context, need_weights=False)[0]
            scores: Tensor = self.mlp(tokens).squeeze(2)
            return scores


def class_weights(scores: Tensor) -> Tensor:
    """K softmax(s), (B, K): by how much each class of the teacher is multiplied before it is normalised; mean 1, above 0."""
    return scores.shape[1] * scores.softmax(dim=1)
