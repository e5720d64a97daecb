"""Networks by name and their weights. Knows no data set, no method and no trainer."""

from orchestrator.models.batch_norm import synchronise
from orchestrator.models.build import MODELS, Builder, build
from orchestrator.models.network import Network, Shape, with_exact_head
from orchestrator.models.weights import load_weights, network_fingerprint, require_weights, save_weights

__all__ = [
    "MODELS",
    "Builder",
    "Network",
    "Shape",
    "build",
    "load_weights",
    "network_fingerprint",
    "require_weights",
    "save_weights",
    "synchronise",
    "with_exact_head",
]
