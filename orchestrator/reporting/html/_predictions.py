"""Recompute the best student's predictions on held-out samples from its stored weights."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file

from orchestrator.config.schema import Configuration
from orchestrator.config.trial import apply, student_folder
from orchestrator.core.errors import UserError
from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset, DataSummary
from orchestrator.data.views import Views
from orchestrator.models.build import build_for_data
from orchestrator.models.network import Network
from orchestrator.store.checkpoint_storage import checkpoint_storage
from orchestrator.store.records import Sweep, Trial
from orchestrator.store.store import Store
from orchestrator.training.metrics import BINS

WEIGHTS = "best.safetensors"  # the weights that `export` uses
SAMPLES = 10_000  # largest number of samples
PIXELS = 60_000_000  # of all samples together, so that fewer large images are used
BATCH = 256
Part = Literal["validation", "test"]


class Bin(NamedTuple):
    """A confidence bin from `low`: number of samples, mean confidence, and accuracy."""

    low: float
    samples: int
    confidence: float
    accuracy: float


@dataclass(frozen=True)
class Predictions:
    """Predictions of a student for S samples of a `part` that has `whole` samples.

    `labels` (S,) are the true classes, `predicted` (S,) the predicted ones, and `confidence` (S,)
    their probabilities.
    """

    letter: str
    part: Part
    whole: int
    classes: tuple[str, ...]
    labels: NDArray[np.int64]
    predicted: NDArray[np.int64]
    confidence: NDArray[np.float64]

    @property
    def accuracy(self) -> float:
        """Return the share of correct predictions."""
        return float((self.labels == self.predicted).mean())

    @property
    def confusion(self) -> NDArray[np.int64]:
        """Return the confusion matrix (K, K).

        It counts samples by true class (row) and predicted class (column).
        """
        count = len(self.classes)
        return np.bincount(self.labels * count + self.predicted, minlength=count * count).reshape(
            count, count
        )

    @property
    def bins(self) -> list[Bin]:
        """Return confidence bins of equal width, without empty ones (Guo et al. 2017)."""
        places = np.minimum((self.confidence * BINS).astype(int), BINS - 1)
        right = self.labels == self.predicted
        return [
            Bin(
                place / BINS,
                int(among.sum()),
                float(self.confidence[among].mean()),
                float(right[among].mean()),
            )
            for place in range(BINS)
            if (among := places == place).any()
        ]

    @property
    def calibration_error(self) -> float:
        """Return the expected calibration error."""
        return sum(each.samples * abs(each.confidence - each.accuracy) for each in self.bins) / len(
            self.labels
        )


def predict_held_out(
    store: Store, sweep: Sweep, trial: Trial, letter: str, data: DataSummary | None
) -> Predictions | str:
    """Return the predictions of a student of a trial, or why there are none.

    The samples are of the test part for a complete trial, because training has read that part, else
    of the validation part.

    Args:
        store: The store of the sweep.
        sweep: The sweep.
        trial: The trial.
        letter: The letter of the student.
        data: The summary of the sweep's data, None if it cannot be read.
    """
    folder = store.root / "data" / (data.fingerprint if data else "")
    if not data or not (folder / "data.json").is_file():
        return "the prepared data were removed from the store"
    storage = checkpoint_storage(store, sweep.trial_folder(trial.number))
    part: Part = "test" if trial.state == "complete" else "validation"
    try:
        storage.download()
        files = [folder / student_folder(letter) / WEIGHTS for folder in storage.folders]
        file = next((file for file in files if file.is_file()), None)
        if file is None:
            return "its weights are not in the store: they were removed, or were not written yet"
        return _predict(
            apply(sweep.configuration, trial.settings), letter, file, Dataset.open(folder), part
        )
    # RuntimeError: tensors of another network
    except (OSError, SafetensorError, RuntimeError, ValueError, UserError) as error:
        return f"the predictions could not be computed ({' '.join(str(error).split())[:300]})"


@torch.no_grad()
def _predict(
    configuration: Configuration, letter: str, file: Path, dataset: Dataset, part: Part
) -> Predictions:
    chosen = configuration.students[letter].network
    network: Network = build_for_data(chosen, dataset)
    network.load_state_dict(load_file(file))
    network.eval()
    views = Views.from_config(dataset, configuration.data, configuration.seed)
    batches = Batches(dataset, views, min(BATCH, len(dataset.train)), configuration.seed)
    labels, predicted, confidence = [], [], []
    for inputs in batches.spaced_samples(
        part, min(SAMPLES, max(1, PIXELS // math.prod(dataset.shape[1:])))
    ):
        probability, predicted_class = (
            network(inputs.inputs).logits.double().softmax(dim=1).max(dim=1)
        )
        labels.append(inputs.labels.numpy())
        predicted.append(predicted_class.numpy())
        confidence.append(np.nan_to_num(probability.numpy()))
    batches.close()
    joined = (np.concatenate(each) for each in (labels, predicted, confidence))
    return Predictions(letter, part, len(dataset.split(part)), dataset.classes, *joined)
