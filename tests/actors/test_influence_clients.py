"""Test which trials get an influence client, and the device of an influence actor."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from orchestrator.cluster import _influence_actor as influence_actor
from orchestrator.cluster import _worker as worker
from orchestrator.config.loader import load
from orchestrator.config.trial import TrialSpec
from orchestrator.core.context import TrialContext

Specify = Callable[..., TrialSpec]


@pytest.mark.parametrize(
    ("pairs", "role", "has_one"),
    [
        ((), "student", True),
        (("resources.influence_backend=inline",), "student", False),
        ((), "teacher", False),
        ((), "fill", False),
    ],
)
def test_which_trials_get_an_influence_client(
    pairs: tuple[str, ...], role: str, has_one: bool, tmp_path: Path
) -> None:
    spec = TrialSpec.model_validate(
        {
            "name": "one",
            "role": role,
            "configuration": load(None, list(pairs)),
            "folder": tmp_path,
            "data": tmp_path,
        }
    )
    with influence_actor.influence_clients(spec) as create_client:
        assert (create_client is not None) is has_one


def test_a_worker_passes_the_client_to_its_trial(
    monkeypatch: pytest.MonkeyPatch, specify: Specify
) -> None:
    """The client is created on request only: no Ray runs here."""
    contexts: list[TrialContext] = []
    monkeypatch.setattr(worker, "execute", lambda spec, context: contexts.append(context))
    for pairs in ((), ("resources.influence_backend=inline",)):
        connection: Any = worker._DispatcherConnection(None, 0, 0)
        connection.open_trial = connection.report = lambda *values: None
        connection.has_lost_dispatcher = lambda: False
        connection.release_trial = lambda: None
        worker._train(
            specify("teacher=null", "method.name=cross_entropy", *pairs),
            connection,
            TrialContext(),
            "",
        )
    assert [context.influence_client is not None for context in contexts] == [True, False]


@pytest.mark.parametrize(("ids", "device"), [([], "cpu"), (["3"], "cuda:0")])
def test_an_actor_without_a_gpu_uses_the_cpu(
    ids: list[str], device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ray.get_gpu_ids", lambda: ids)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert influence_actor._device() == torch.device(device)
