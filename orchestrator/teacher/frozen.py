"""The teacher as trials see it: loaded once, in eval mode for ever, without gradients, in a precision of its own."""

from pathlib import Path

import torch
from torch import Tensor, nn

from methods import Output
from orchestrator.config import Network
from orchestrator.models import build, load_weights, with_exact_head
from orchestrator.store import read_json

WEIGHTS, CARD = "weights.safetensors", "teacher.json"


class FrozenTeacher(nn.Module):
    """A network that answers and never changes: `train()` leaves it, its BatchNorm statistics too, in eval mode.

    `fingerprint` is of its weights; `half_type` is the type of its autocast, None for float32.
    """

    def __init__(self, network: nn.Module, fingerprint: str, half_type: torch.dtype | None = None) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.fingerprint, self.half_type = fingerprint, half_type
        self.eval()

    @classmethod
    def open(
        cls, folder: Path, device: torch.device, channels_last: bool = False, half_type: torch.dtype | None = None
    ) -> "FrozenTeacher":
        """The teacher that was fitted into `folder`."""
        card = read_json(folder / CARD)
        choice = Network.model_validate(card["network"])
        network = build(choice.name, card["classes"], tuple(card["shape"]), choice.settings)
        load_weights(network, str(folder / WEIGHTS))
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return cls(network.to(device, memory_format=layout), card["weights"], half_type)  # type: ignore[call-overload]

    @property
    def precision(self) -> str:
        """The type of its forward, in words: what it says differs between them."""
        name = str(self.half_type or torch.float32).removeprefix("torch.")
        return f"{name}, head in float32" if self.half_type else name

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stays in eval mode: statistics that drift would be another teacher."""
        return super().train(False)

    def forward(self, inputs: Tensor) -> Output:
        """Logits (B, K) and features (B, D) in float32; the head computes in it, too."""
        with torch.inference_mode(), torch.autocast(inputs.device.type, self.half_type, enabled=self.half_type is not None):
            output = self.network(inputs)
            if self.half_type:
                output = with_exact_head(output, *map(self.network.get_parameter, ("head.weight", "head.bias")))
        # copied out of inference mode: autograd refuses to save an inference tensor
        return Output(*(each.to(torch.float32, copy=True) for each in (output.logits, output.features)))
