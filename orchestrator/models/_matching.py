"""Match the tensors of a file with those of a network, by their names or by their order."""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import SequenceMatcher
from itertools import zip_longest

import torch
from torch import Tensor

from orchestrator.models._misfits import Misfit, describe_tensor, find_misfits

# Prefixes that wrappers of a network add: DataParallel, torch.compile, and common attributes.
PREFIXES = ("module", "_orig_mod", "backbone", "model", "net", "network", "encoder")
CLASSIFIERS = ("fc", "classifier", "head", "heads", "linear", "last_linear", "output")
COUNTER = "num_batches_tracked"  # of batch normalisation; files of PyTorch before 0.4.1 lack it
# Counters of torch.optim.swa_utils and of the package thop, which are no weights.
BOOKKEEPING = ("n_averaged", "total_ops", "total_params")


@dataclass(frozen=True)
class Match:
    """The tensors of a file under the names of a network.

    Attributes:
        state: The tensors by the names of the network; a tensor that fits no name keeps its own.
        names: The name in the file for each name of the network.
        filled: The names of the network that the file lacks, with tensors of zeros.
        left_out: The names in the file that are no weights.
        misfits: Everything that does not fit.
    """

    state: dict[str, Tensor]
    names: dict[str, str]
    filled: tuple[str, ...]
    left_out: tuple[str, ...]
    misfits: tuple[Misfit, ...]

    @property
    def renamed(self) -> dict[str, str]:
        """Return the names in the file that differ from those of the network."""
        return {own: name for name, own in self.names.items() if own != name}


def match_by_name(needed: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Match:
    """Match tensors by their names, without prefixes and with the network's name of a classifier.

    Of all ways to remove prefixes, the one with the most fitting tensors is used, and the one that
    changes the least if several are equal.

    Args:
        needed: The state of the network; it may be on the meta device.
        tensors: The tensors of the file.
    """
    weights, left_out = _without_bookkeeping(needed, tensors)

    def count_fitting(names: Mapping[str, str]) -> tuple[int, int]:
        pairs = [(new, own) for own, new in names.items() if new in needed]
        return sum(needed[new].shape == weights[own].shape for new, own in pairs), len(pairs)

    names = max(_list_renamings(needed, weights), key=count_fitting)
    chosen: dict[str, str] = {}
    for own, new in names.items():
        if new in needed:
            chosen.setdefault(new, own)
    state = {new: weights[own] for new, own in chosen.items()}
    for own in weights:
        if own not in chosen.values():
            state[f"{own} (of the file)" if own in needed else own] = weights[own]
    return _complete(needed, state, chosen, left_out)


def match_by_order(needed: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> Match:
    """Match tensors by their order: each pair has the same kind and shape, and nothing is left.

    The kind is the last part of the name, such as `weight` or `running_mean`.

    Args:
        needed: The state of the network; it may be on the meta device.
        tensors: The tensors of the file, in the order of the file.
    """
    weights, left_out = _without_bookkeeping(needed, tensors)
    has_counters = any(_kind(own) == COUNTER for own in weights)
    targets = [name for name in needed if has_counters or _kind(name) != COUNTER]
    sources = list(weights)
    pairs = SequenceMatcher(  # which finds the missing tensor instead of a shift by one
        None,
        [(_kind(name), needed[name].shape) for name in targets],
        [(_kind(name), weights[name].shape) for name in sources],
        autojunk=False,
    ).get_opcodes()
    misfits, names = list[Misfit](), dict[str, str]()
    for tag, start, end, source_start, source_end in pairs:
        for new, own in zip_longest(targets[start:end], sources[source_start:source_end]):
            if tag == "equal":
                names[new] = own
            elif new is None:
                misfits.append(
                    Misfit(own, describe_tensor(weights[own]), "not part of the network")
                )
            else:
                given_text = f"{own} {describe_tensor(weights[own])}" if own else "missing"
                misfits.append(Misfit(new, given_text, describe_tensor(needed[new])))
    if misfits:
        return Match({}, names, (), left_out, tuple(misfits))
    return _complete(needed, {new: weights[own] for new, own in names.items()}, names, left_out)


def _complete(
    needed: Mapping[str, Tensor],
    state: dict[str, Tensor],
    names: dict[str, str],
    left_out: tuple[str, ...],
) -> Match:
    """Return the match with missing counters filled, and with everything that does not fit."""
    filled = tuple(name for name in needed if name not in state and _kind(name) == COUNTER)
    complete = state | {
        name: torch.zeros(needed[name].shape, dtype=needed[name].dtype) for name in filled
    }
    return Match(complete, names, filled, left_out, tuple(find_misfits(needed, complete)))


def _list_renamings(
    needed: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> Iterator[dict[str, str]]:
    """Yield mappings from the names of the file to names of the network, the simplest first.

    A name gets the network's own prefix, such as `body`, where the network has no such name.
    """
    own_prefix = _most_common_prefix(needed)
    target = find_classifier(needed, "head")
    short = {name: name for name in tensors}
    while True:
        source = find_classifier({short[name]: tensors[name] for name in tensors})
        for classifier in ("", source) if source else ("",):
            yield {
                own: _rename(name, needed, own_prefix, classifier, target)
                for own, name in short.items()
            }
        shorter = _strip_prefixes(short)
        if shorter == short:
            return
        short = shorter


def _rename(
    name: str, needed: Mapping[str, Tensor], own_prefix: str, classifier: str, target: str
) -> str:
    module, _, kind = name.rpartition(".")
    if classifier and module == classifier and f"{target}.{kind}" in needed:
        return f"{target}.{kind}"
    with_prefix = f"{own_prefix}.{name}"
    return with_prefix if name not in needed and with_prefix in needed else name


def _strip_prefixes(short: Mapping[str, str]) -> dict[str, str]:
    """Return names without their first part if all have the same, else without known prefixes."""
    firsts = {name.partition(".")[0] for name in short.values()}
    if len(firsts) == 1 and all("." in name for name in short.values()):
        return {own: name.partition(".")[2] for own, name in short.items()}
    return {
        own: name.partition(".")[2] or name if name.partition(".")[0] in PREFIXES else name
        for own, name in short.items()
    }


def _most_common_prefix(names: Mapping[str, Tensor]) -> str:
    return Counter(name.partition(".")[0] for name in names).most_common(1)[0][0]


def find_classifier(state: Mapping[str, Tensor], preferred: str = "") -> str:
    """Return the module of the classifier: `preferred`, or the last linear one of a usual name.

    Without one of a usual name, it is the last linear one; "" if there is none.
    """
    if f"{preferred}.weight" in state:
        return preferred
    weights = {
        name.removesuffix(".weight"): tensor
        for name, tensor in state.items()
        if name.endswith(".weight")
    }
    linear = [module for module, tensor in weights.items() if tensor.dim() == 2]
    usual = [
        module
        for module, tensor in weights.items()
        if tensor.shape[2:].numel() == 1  # a 1x1 convolution too
        and tensor.dim() in (2, 4)
        and set(module.split(".")) & set(CLASSIFIERS)
    ]
    return next(reversed(usual or linear), "")


def _without_bookkeeping(
    needed: Mapping[str, Tensor], tensors: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    left_out = tuple(name for name in tensors if _kind(name) in BOOKKEEPING and name not in needed)
    return {name: tensors[name] for name in tensors if name not in left_out}, left_out


def _kind(name: str) -> str:
    return name.rpartition(".")[2]
