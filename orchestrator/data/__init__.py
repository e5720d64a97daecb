"""Data: named sets prepared once, deterministic views of them, and batches. Knows no models, no Ray and no tracking."""

from orchestrator.data.batches import Batches
from orchestrator.data.dataset import Dataset, Split
from orchestrator.data.datasets import DATASETS, Source
from orchestrator.data.memory import fits_resident
from orchestrator.data.passes import Inputs
from orchestrator.data.prepare import describe, list_notes, prepare
from orchestrator.data.preprocessing import explain, resolve_augmentation
from orchestrator.data.views import Views

__all__ = [
    "DATASETS",
    "Batches",
    "Dataset",
    "Inputs",
    "Source",
    "Split",
    "Views",
    "describe",
    "explain",
    "fits_resident",
    "list_notes",
    "prepare",
    "resolve_augmentation",
]
