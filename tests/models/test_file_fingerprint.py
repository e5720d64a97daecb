"""Test that a file of weights and its loaded tensors have the same fingerprint."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import _TYPES, load_file, save_file

from orchestrator.models.file_fingerprint import TYPES, fingerprint_file
from orchestrator.models.weights import network_fingerprint


def test_every_type_of_the_format_has_a_name() -> None:
    assert {name: f"torch.{kind}" for name, kind in TYPES.items()} == {
        name: str(kind) for name, kind in _TYPES.items()
    }


@pytest.mark.parametrize("kind", _TYPES.values(), ids=str)
def test_a_file_has_the_fingerprint_of_its_tensors(kind: torch.dtype, tmp_path: Path) -> None:
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(0, 100, (3, 4), generator=generator).to(kind)
    state = {
        "layer.weight": random,
        "a": random[0, 0].clone(),
        "empty": random[:0].clone(),
        "z.counts": torch.arange(5),
    }
    file = tmp_path / "weights.safetensors"
    save_file(state, file, metadata={"origin": "test"})
    assert fingerprint_file(file) == network_fingerprint(load_file(file))
    state["layer.weight"] = random.reshape(4, 3)
    save_file(state, file)
    assert fingerprint_file(file) == network_fingerprint(state)
