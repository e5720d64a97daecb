"""Load the teacher for trials: frozen in eval mode, without gradients, in its own precision."""

from collections.abc import Sequence
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from methods import Output
from orchestrator.config.schema import Network
from orchestrator.core.errors import PreflightError
from orchestrator.models.build import build
from orchestrator.models.feature_maps import recorded_maps
from orchestrator.models.network import head_tensors, with_exact_head
from orchestrator.models.weights import network_fingerprint
from orchestrator.store.record_file import DamagedRecordError
from orchestrator.teacher.card import CARD, TEACHER, TeacherCard
from orchestrator.teacher.card import WEIGHTS as WEIGHTS

FIT = "fit it again with a lower teacher.training.learning_rate"
GIVE = "give other teacher.network.weights"
TEACH = "lower the rate at which the method trains the teacher"


def read_teacher(folder: Path) -> tuple[TeacherCard, dict[str, Tensor]]:
    """Return the card and the weights of the teacher in a folder.

    Raises:
        DamagedRecordError: The card or the weights cannot be read, or the weights are not those
            that the card names.
    """
    card, file = TEACHER.read(folder / CARD), folder / WEIGHTS
    try:
        state = load_file(file)
    except (OSError, SafetensorError) as error:
        raise DamagedRecordError(file, " ".join(str(error).split())) from error
    if network_fingerprint(state) != card["weights"]:
        raise DamagedRecordError(
            file, f"the fingerprint of its tensors differs from the one in {CARD}"
        )
    return card, state


class FrozenTeacher(nn.Module):
    """A network that never changes: `train()` keeps it and its BatchNorm statistics in eval mode.

    Attributes:
        network: The network.
        fingerprint: The fingerprint of its weights.
        half_type: The type of its autocast; None for float32.
        remedy: Advice to users for outputs that are not finite.
    """

    def __init__(
        self,
        network: nn.Module,
        fingerprint: str,
        half_type: torch.dtype | None = None,
        remedy: str = FIT,
    ) -> None:
        super().__init__()
        self.network = network.requires_grad_(False)
        self.fingerprint, self.half_type = fingerprint, half_type
        self.remedy = f"set teacher.precision=float32, or {remedy}" if half_type else remedy
        self.eval()

    @classmethod
    def open(
        cls,
        folder: Path,
        device: torch.device,
        channels_last: bool = False,
        half_type: torch.dtype | None = None,
    ) -> "FrozenTeacher":
        """Return the teacher that was fitted into `folder`.

        Args:
            folder: The folder of the teacher.
            device: The device of the network.
            channels_last: Whether the network uses the channels-last layout.
            half_type: The type of its autocast; None for float32.

        Raises:
            PreflightError: The teacher is damaged.
        """
        try:
            card, state = read_teacher(folder)
            choice = Network.model_validate(card["network"])
            channels, height, width = card["shape"]
            shape = (channels, height, width)
            network = build(choice.name, card["classes"], shape, choice.settings)
            network.load_state_dict(state)
        except (
            DamagedRecordError,
            ValidationError,
            RuntimeError,
        ) as error:  # RuntimeError: tensors of another network
            reason = " ".join(str(error).split())
            raise PreflightError(
                f"the teacher cannot be read ({reason}): start the run again; it creates the "
                f"teacher again"
            ).with_details(str(folder), reason, "a complete teacher") from error
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return cls(
            network.to(device, memory_format=layout),  # type: ignore[call-overload]
            card["weights"],
            half_type,
            GIVE if choice.weights else FIT,
        )

    @property
    def precision(self) -> str:
        """Return the type of the forward pass as text; outputs differ between types."""
        name = str(self.half_type or torch.float32).removeprefix("torch.")
        return f"{name}, head in float32" if self.half_type else name

    def train(self, mode: bool = True) -> "FrozenTeacher":
        """Stay in eval mode: drifting statistics would make another teacher."""
        return super().train(False)

    def forward(self, inputs: Tensor) -> Output:
        """Return logits (B, K) and features (B, D) in float32, the type of the head."""
        return self.compute_with_maps(inputs, ())[0]

    def compute_with_maps(
        self, inputs: Tensor, stages: Sequence[str]
    ) -> tuple[Output, dict[str, Tensor]]:
        """Return the output as `forward` does, and the feature maps (B, C, H, W) of stages."""
        with (
            torch.inference_mode(),
            torch.autocast(inputs.device.type, self.half_type, enabled=self.half_type is not None),
            recorded_maps(self.network, stages) as maps,
        ):
            output = self.network(inputs)
            if self.half_type:
                output = with_exact_head(output, *head_tensors(self.network))
        # copy the outputs out of inference mode: autograd refuses to save an inference tensor
        logits, features = (
            each.to(torch.float32, copy=True) for each in (output.logits, output.features)
        )
        return Output(logits, features), {
            name: maps[name].to(torch.float32, copy=True) for name in stages
        }
