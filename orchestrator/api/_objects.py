"""Register the objects of a run while it runs, and protect the state of the process."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

import torch

from orchestrator.api._networks import Function, GivenNetwork, require_same_code
from orchestrator.api._space import register_spaces
from orchestrator.config.schema import Configuration
from orchestrator.core.privacy import private_files
from orchestrator.core.proxies import direct_loopback
from orchestrator.core.signals import stoppable
from orchestrator.data.dataset import read_summary
from orchestrator.data.prepare import prepare
from orchestrator.extensions.decorators import network, update_identities
from orchestrator.extensions.registry import ENTRIES, Entry, register, registering_from, unregister
from orchestrator.models.input_adapter import adapted_shape
from orchestrator.models.weights import network_fingerprint, save_weights
from orchestrator.models.wrapped import as_network
from orchestrator.store.store import Store
from search_spaces import Space


@dataclass(frozen=True)
class Objects:
    """Networks, data and search spaces of a run that exist in this process alone."""

    functions: tuple[Function, ...] = ()
    data: Entry | None = None
    spaces: Mapping[str, Space] = field(default_factory=dict)

    @contextlib.contextmanager
    def registered(self) -> Iterator[None]:
        """Register the objects within the block."""
        before, restore = set(ENTRIES), register_spaces(self.spaces)
        try:
            if self.data is not None and (self.data.kind, self.data.name) not in before:
                register(self.data)
            for function in self.functions:
                if ("network", function.name) not in before:
                    with registering_from(function.origin, function.location):
                        network(function.name)(function.build)
            yield
        finally:
            for key in set(ENTRIES) - before:
                unregister(ENTRIES[key])
            restore()


@contextlib.contextmanager
def open_session(objects: Objects) -> Iterator[None]:
    """Run a block as a command does, with the objects registered.

    Files are private and the first Ctrl-C ends the block in order. Afterwards random numbers and
    the number of threads of torch are those of before.
    """
    update_identities()
    threads = torch.get_num_threads()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with (
            private_files(),
            direct_loopback(),
            torch.random.fork_rng(devices),
            objects.registered(),
            stoppable(),
        ):
            yield
    finally:
        torch.set_num_threads(threads)


@contextlib.contextmanager
def reopen_session(objects: Objects) -> Iterator[None]:
    """Run a block as `open_session` does, after a check that the networks are those of the run."""
    for function in objects.functions:
        require_same_code(function)
    with open_session(objects):
        yield


def keep_weights(
    store: Store, network: GivenNetwork, configuration: Configuration, note: Callable[[str], None]
) -> str:
    """Write the weights of a given module to the store, and return the file.

    The name of the file is the fingerprint of its tensors.
    """
    assert network.trained is not None
    folder = prepare(configuration.data, store.root, configuration.data.seed, note)
    summary = read_summary(folder)
    module, name = copy.deepcopy(network.trained), str(network.section["name"])
    inputs = configuration.teacher.network.settings if configuration.teacher else {}
    shape = adapted_shape(summary.shape, inputs)
    wrapped = as_network(module, name, len(summary.classes), shape)
    file = store.given_weights / f"{network_fingerprint(wrapped.state_dict())}.safetensors"
    if not file.exists():
        save_weights(wrapped, file)
    return str(file)
