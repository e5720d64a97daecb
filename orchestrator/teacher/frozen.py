"""The teacher as trials see it: loaded once, in eval mode for ever, without gradients."""

from pathlib import Path

import torch
from torch import Tensor, nn

from methods import Output
from orchestrator.config import Network
from orchestrator.models import build, load_weights
from orchestrator.store import read_json

WEIGHTS, CARD = "weights.safetensors", "teacher.json"


class FrozenTeacher(nn.Module):
    """A network that answers and never changes: `train()` leaves it, its BatchNorm statistics too, in eval mode.

    `fingerprint` is of its weights.
    """

    def __init__(self, network: nn.Module, fingerprint: str) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.fingerprint = fingerprint
        self.eval()

    @classmethod
    def open(cls, folder: Path, device: torch.device, channels_last: bool = False) -> "FrozenTeacher":
        """The teacher that was fitted into `folder`."""
        card = read_json(folder / CARD)
        choice = Network.model_validate(card["network"])
        network = build(choice.name, card["classes"], tuple(card["shape"]), choice.settings)
        load_weights(network, str(folder / WEIGHTS))
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return cls(network.to(device, memory_format=layout), card["weights"])  # type: ignore[call-overload]

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stays in eval mode: statistics that drift would be another teacher."""
        return super().train(False)

    @torch.no_grad()
    def forward(self, inputs: Tensor) -> Output:
        """Logits (B, K) and features (B, D) in float32."""
        output = self.network(inputs)
        return Output(output.logits.float(), output.features.float())
