"""Train small networks by the plain loops that benchmarks/small.py compares with."""

from argparse import Namespace
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

BATCH = 64
TEMPERATURE, ALPHA = 4.0, 0.9
FOR_EVER = 10_000  # epochs; the parent ends its children


@dataclass
class Material:
    """Images, normalised, labels, the teacher's logits, and the networks, on the device."""

    images: Tensor
    labels: Tensor
    taught: Tensor
    held_out_images: Tensor
    held_out_labels: Tensor
    student: nn.Module
    teacher: nn.Module


class BareLoop:
    """A plain loop over tensors in memory."""

    def __init__(self, material: Material, options: Namespace) -> None:
        self.material, self.options = material, options
        self.device = torch.device(options.device)
        self.network = material.student
        self.optimizer = torch.optim.SGD(
            self.network.parameters(), lr=0.05, momentum=0.9, weight_decay=5e-4
        )
        self.schedule = torch.optim.lr_scheduler.CosineAnnealingLR(self.optimizer, FOR_EVER)

    def autocast(self) -> Any:
        """Return the context of a forward pass."""
        half = self.options.precision == "bfloat16"
        return torch.autocast(self.device.type, torch.bfloat16, enabled=half)

    def loss(self, images: Tensor, labels: Tensor, taught: Tensor) -> Tensor:
        """Return the loss of a batch."""
        with self.autocast():
            logits = self.network(images)
        logits = logits.float()
        soft = functional.kl_div(
            functional.log_softmax(logits / TEMPERATURE, dim=1),
            functional.softmax(taught / TEMPERATURE, dim=1),
            reduction="batchmean",
        )
        hard = functional.cross_entropy(logits, labels)
        return (1 - ALPHA) * hard + ALPHA * TEMPERATURE**2 * soft

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients."""
        loss.backward()  # type: ignore[no-untyped-call]

    def train_epoch(self) -> float:
        """Train an epoch, and return the mean loss."""
        material = self.material
        self.network.train()
        order = torch.randperm(len(material.labels), device=self.device)
        steps = len(order) // BATCH
        total = torch.zeros((), device=self.device)
        for index in torch.split(order[: steps * BATCH], BATCH):
            loss = self.loss(material.images[index], material.labels[index], material.taught[index])
            self.optimizer.zero_grad()
            self.backward(loss)
            self.optimizer.step()
            total += loss.detach()
        self.schedule.step()
        return total.item() / steps

    @torch.no_grad()
    def evaluate(self) -> float:
        """Return the accuracy on the validation part."""
        material, right = self.material, torch.zeros((), device=self.device)
        self.network.eval()
        for images, labels in zip(
            torch.split(material.held_out_images, BATCH),
            torch.split(material.held_out_labels, BATCH),
            strict=True,
        ):
            with self.autocast():
                right += (self.network(images).argmax(dim=1) == labels).sum()
        return right.item() / len(material.held_out_labels)

    def save(self, file: Path) -> None:
        """Write the checkpoint."""
        states = {"network": self.network.state_dict(), "optimizer": self.optimizer.state_dict()}
        torch.save(states, file)


class CompiledLoop(BareLoop):
    """The bare loop with network and loss compiled; with CUDA graphs on a GPU."""

    def __init__(self, material: Material, options: Namespace) -> None:
        super().__init__(material, options)
        mode = "reduce-overhead" if options.device == "cuda" else "default"
        self.loss = torch.compile(self.loss, mode=mode)  # type: ignore[method-assign]


class FabricLoop(BareLoop):
    """The bare loop under Lightning Fabric."""

    def __init__(self, material: Material, options: Namespace) -> None:
        from lightning.fabric import Fabric  # type: ignore[import-not-found]

        super().__init__(material, options)
        precision = "bf16-mixed" if options.precision == "bfloat16" else "32-true"
        self.fabric = Fabric(accelerator=options.device, devices=1, precision=precision)
        self.network, self.optimizer = self.fabric.setup(self.network, self.optimizer)

    def autocast(self) -> Any:
        """Return the context of Fabric's precision."""
        return self.fabric.autocast()

    def backward(self, loss: Tensor) -> None:
        """Compute the gradients as Fabric does."""
        self.fabric.backward(loss)

    def save(self, file: Path) -> None:
        """Write the checkpoint as Fabric does."""
        self.fabric.save(file, {"network": self.network, "optimizer": self.optimizer})


class TimmLoop(BareLoop):
    """The bare loop with timm's task, whose teacher runs at every step."""

    def __init__(self, material: Material, options: Namespace) -> None:
        from timm.task import DistillationTeacher, LogitDistillationTask

        super().__init__(material, options)
        channels = material.images.shape[1]
        for network in (material.student, material.teacher):
            # timm reads both from its own networks; the images are normalised already
            network.pretrained_cfg = {"mean": (0.0,) * channels, "std": (1.0,) * channels}  # type: ignore[assignment]
        self.task = LogitDistillationTask(
            material.student,
            DistillationTeacher(material.teacher, device=self.device),
            criterion=nn.CrossEntropyLoss(),
            distill_loss_weight=ALPHA,
            task_loss_weight=1 - ALPHA,
            temperature=TEMPERATURE,
            device=self.device,
            verbose=False,
        )

    def loss(self, images: Tensor, labels: Tensor, taught: Tensor) -> Tensor:
        """Return the task's loss; it computes the teacher's logits itself."""
        with self.autocast():
            loss: Tensor = self.task(images, labels)["loss"]
        return loss


LOOPS = {"bare": BareLoop, "bare-compile": CompiledLoop, "fabric": FabricLoop, "timm": TimmLoop}
