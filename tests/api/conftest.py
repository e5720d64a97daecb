"""Data, networks and a store for the tests of the Python interface."""

from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from torch import Tensor, nn

from orchestrator import api as od

Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]


class TwoLayers(nn.Module):
    """A network of the tests."""

    def __init__(self, classes: int, width: int) -> None:
        super().__init__()
        self.hidden = nn.Linear(64, width)
        self.fc = nn.Linear(width, classes)

    def forward(self, inputs: Tensor) -> Tensor:
        output: Tensor = self.fc(torch.relu(self.hidden(inputs.flatten(1))))
        return output


@pytest.fixture(scope="session")
def arrays() -> Arrays:
    """Return 300 digits and their labels."""
    digits = load_digits()
    images = np.rint(digits.images[:300] * (255 / 16)).astype(np.uint8)
    return images, digits.target[:300].astype(np.int64)


@pytest.fixture(scope="session")
def data(arrays: Arrays) -> od.Data:
    """Return data of 200 training and 100 test images."""
    images, labels = arrays
    return od.data((images[:200], labels[:200]), (images[200:], labels[200:]), classes=10)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    """Return the folder of a store."""
    return tmp_path / "runs"
