"""Test that the code in a registered model gives the student's logits, for all network families."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from orchestrator.export.formats import FORMATS
from orchestrator.store.store import write_json
from tests.families import SMALL, trained


@pytest.mark.parametrize("name", SMALL)
def test_what_is_served_gives_the_logits_of_the_student(name: str, tmp_path: Path) -> None:
    from orchestrator.tracking._pyfunc_model import Student

    shape, settings = SMALL[name]
    network, mean, std = trained(name, shape, settings), [0.4] * shape[0], [0.2] * shape[0]
    FORMATS["torchexport"].write(network, shape, tmp_path / "model.pt2")
    write_json(tmp_path / "settings.json", {"input": {"mean": mean, "std": std}})
    served: Any = Student()
    places = {"program": str(tmp_path / "model.pt2"), "settings": str(tmp_path / "settings.json")}
    served.load_context(SimpleNamespace(artifacts=places))
    images = np.random.default_rng(0).random((5, *shape), np.float32)
    with torch.no_grad():
        expected = network((torch.from_numpy(images) - 0.4) / 0.2).logits.numpy()
    assert (
        np.abs(served.predict(None, images) - expected).max()
        <= FORMATS["torchexport"].tolerance * np.abs(expected).max()
    )
