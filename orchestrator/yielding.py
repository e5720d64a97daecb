"""Let a value that nobody typed give way to one that somebody did, where the two cannot go together, and say so."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestrator.config import Configuration, Teacher, Training
from orchestrator.objectives import BETTER

DEFAULT, FILE, COMMAND_LINE = range(3)


@dataclass
class Origin:
    """Where the values come from: those of the file by their dotted keys, and the keys that the command line gives."""

    file: dict[str, Any]
    name: str
    typed: set[str] = field(default_factory=set)

    def rank(self, key: str) -> int:
        """Return how close to the person a key was given: COMMAND_LINE, FILE or DEFAULT."""
        if any(key == typed or key.startswith(f"{typed}.") or typed.startswith(f"{key}.") for typed in self.typed):
            return COMMAND_LINE
        return FILE if any(key == known or known.startswith(f"{key}.") for known in self.file) else DEFAULT

    def yields(self, key: str, *others: str) -> bool:
        """Return whether a key gives way to the others: nobody typed it as close as one of them."""
        return self.rank(key) < max(map(self.rank, others))

    def said(self, key: str) -> str:
        """Return where the value of a key that gives way stood."""
        return f"of {self.name}" if self.rank(key) == FILE else "by default"


def keep_warmup(values: dict[str, Any], origin: Origin) -> dict[str, str]:
    """Shorten, in place, a warm-up that is longer than the epochs that were typed: it keeps its share of the epochs.

    Returns:
        A sentence for each key that was changed.
    """
    said: dict[str, str] = {}
    peers = values.get("peers")
    recipes = {"training": Training(), "teacher.training": Teacher().training}
    recipes |= {f"peers.{letter}.training": Training() for letter in (peers if isinstance(peers, dict) else ())}
    for section, default in recipes.items():
        key, epochs_key = f"{section}.warmup_epochs", f"{'teacher.' * section.startswith('teacher')}training.epochs"
        before, epochs = _value(values, key), _value(values, epochs_key)
        planned = origin.file.get(epochs_key, default.epochs)
        if not all(_positive(number) for number in (before, epochs, planned)) or not epochs <= before < planned:
            continue
        if origin.yields(key, epochs_key):
            shorter = float(f"{before / planned * epochs:.4g}")
            _value(values, section)["warmup_epochs"] = shorter
            said[key] = f"{key} = {shorter:g} (not {before:g}, {origin.said(key)}), its share of {epochs_key} = {epochs:g}"
    return said


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _value(values: Any, path: str) -> Any:
    for part in path.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def with_yielding_values(configuration: Configuration, origin: Origin, said: dict[str, str]) -> Configuration:
    """Return the configuration in which what nobody typed gives way; `yielded` holds `said` and a sentence for each change."""
    sentences = dict(said)
    for key, value, reason in _changes(configuration, origin):
        name = key.rpartition(".")[2]
        before = getattr(configuration.search, name)
        search = configuration.search.model_copy(update={name: value})
        configuration = configuration.model_copy(update={"search": search})
        sentences[key] = f"{key} = {_plain(value)} (not {_plain(before)}, {origin.said(key)}), {reason}"
    return configuration.noting(sentences)


def said_of(configuration: Configuration, kind: str) -> list[str]:
    """Return the sentences of `yielded` that matter to a run of a kind: a training searches nothing."""
    return [text for key, text in configuration.yielded.items() if kind == "sweep" or not key.startswith("search.")]


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _changes(configuration: Configuration, origin: Origin) -> Iterator[tuple[str, Any, str]]:
    """Yield the keys of `search` that give way, each with its new value and the reason."""
    search, epochs = configuration.search, configuration.training.epochs
    if origin.yields("search.methods", "method.name") and search.methods and configuration.method.name not in search.methods:
        yield "search.methods", (), f"as method.name = {configuration.method.name}"
    if search.objectives and search.scheduler != "none" and origin.yields("search.scheduler", "search.objectives"):
        yield "search.scheduler", "none", "as no other compares trials by several search.objectives"
    elif search.scheduler in ("asha", "median") and search.grace_epochs > epochs:
        if origin.yields("search.grace_epochs", "training.epochs"):
            yield "search.grace_epochs", epochs, f"as training.epochs = {epochs}"
    elif (
        search.scheduler == "pbt"
        and search.perturb_epochs >= epochs > 1
        and origin.yields("search.perturb_epochs", "training.epochs", "search.scheduler")
    ):
        yield "search.perturb_epochs", max(1, epochs // 3), f"as training.epochs = {epochs}"
    better = BETTER.get(search.objective, ())
    if better and search.direction not in better and origin.yields("search.direction", "search.objective"):
        yield "search.direction", better[0], f"as search.objective = {search.objective}"
    trials = len(search.fixed) * max(len(search.seeds), 1)
    if search.fixed and search.trials != trials and origin.yields("search.trials", "search.fixed", "search.seeds"):
        yield "search.trials", trials, "as search.fixed and search.seeds name so many"
