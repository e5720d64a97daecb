"""Files of user code for tests: networks, a method, a data set, a transform and a metric."""

import sys
from pathlib import Path

from orchestrator.extensions import loading
from orchestrator.extensions.registry import ENTRIES, unregister

NETWORKS = '''"""Networks."""

from typing import Annotated

from pydantic import Field
from torch import nn

import orchestrator as od


@od.network("tiny")
def tiny(classes, shape, width: Annotated[int, Field(ge=1, le=64)] = 8):
    """Build two layers.

    Args:
        classes: K.
        shape: (C, H, W).
        width: Units of the hidden layer.
    """
    pixels = shape[0] * shape[1] * shape[2]
    layers = [nn.Linear(pixels, width), nn.ReLU(), nn.Linear(width, classes)]
    return nn.Sequential(nn.Flatten(), *layers)
'''
OTHERS = '''"""Everything else, on top of the file of networks."""

import numpy as np
from networks import tiny
from pydantic import Field

import orchestrator as od
from methods import Method, Objective, Settings


class LabelsSettings(Settings):
    """Settings of the method."""

    smoothing: float = Field(0.1, ge=0, le=0.5, description="Label smoothing of the loss.")


def draw(trial):
    trial.suggest_float("smoothing", 0.0, 0.2)


@od.method("labels", space=draw, points=[{"smoothing": 0.05}])
class Labels(Method):
    """Cross entropy."""

    Settings = LabelsSettings
    provenance = "none"

    def forward(self, batch):
        loss = batch.cross_entropy(self.settings.smoothing)
        return Objective(loss, {"cross_entropy": loss.detach()})


@od.dataset("noise")
def noise(samples: int = 60):
    """Return noise.

    Args:
        samples: Images of each part.
    """
    images = np.random.default_rng(0).integers(0, 256, (samples, 8, 8), np.uint8)
    labels = np.arange(samples) % 3
    return {"train": (images, labels), "test": (images, labels), "classes": ["a", "b", "c"]}


@od.transform("negative")
def negative(image, generator):
    return 255 - image if generator.random() < 0.5 else image


@od.metric("top2", direction="maximize")
def top2(logits, labels):
    """Accuracy of the two likeliest classes."""
    return (logits.topk(2).indices == labels[:, None]).any(dim=1).float().mean()


@od.metric("accuracy")
def accuracy(logits, labels):
    """Accuracy."""
    return (logits.argmax(dim=1) == labels).double().mean()
'''


def write_code(folder: Path) -> list[Path]:
    """Write `networks.py` and `others.py` to a folder, and return them in this order."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / "networks.py", folder / "others.py"]
    for file, text in zip(files, (NETWORKS, OTHERS), strict=True):
        file.write_text(text)
    return files


def unload_all() -> None:
    """Forget all files and plugins, and unregister what they and other code have registered."""
    for entry in list(ENTRIES.values()):
        unregister(entry)
    for module in loading._files:
        sys.modules.pop(module, None)
    loading._files.clear()
    loading._plugins.clear()
