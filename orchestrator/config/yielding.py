"""Resolve conflicts between values by their origin, and report each change.

A value overrides a conflicting value of lower precedence: defaults < file < command line.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from orchestrator.config.objectives import BETTER
from orchestrator.config.schema import Configuration, Teacher, Training
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.program import program_name

DEFAULT, FILE, COMMAND_LINE = range(3)


@dataclass
class Origin:
    """Origin of the values: the file's values by dotted keys, and the keys of the command line."""

    file: dict[str, Any]
    name: str
    typed: set[str] = field(default_factory=set)

    def rank(self, key: str) -> int:
        """Return the precedence of a key: COMMAND_LINE, FILE or DEFAULT."""
        if any(
            key == typed or key.startswith(f"{typed}.") or typed.startswith(f"{key}.")
            for typed in self.typed
        ):
            return COMMAND_LINE
        if any(key == known or known.startswith(f"{key}.") for known in self.file):
            return FILE
        return DEFAULT

    def yields(self, key: str, *other_keys: str) -> bool:
        """Return whether a key has lower precedence than at least one of `other_keys`."""
        return self.rank(key) < max(map(self.rank, other_keys))

    def describe_source(self, key: str) -> str:
        """Describe the source of a value that yields."""
        return f"from {self.name}" if self.rank(key) == FILE else "the default"


def keep_schedules(values: dict[str, Any], origin: Origin) -> dict[str, str]:
    """Scale, in place, a warm-up and milestones that lie beyond the epochs of the command line.

    They keep their share of the epochs.

    Args:
        values: The plain values of the configuration.
        origin: The origin of the values.

    Returns:
        A sentence for each key that was changed.
    """
    messages: dict[str, str] = {}
    peers = values.get("peers")
    recipes = {"training": Training(), "teacher.training": Teacher().training}
    recipes |= {
        f"peers.{letter}.training": Training()
        for letter in (peers if isinstance(peers, dict) else ())
    }
    for section, default in recipes.items():
        epochs_key = f"{'teacher.' * section.startswith('teacher')}training.epochs"
        epochs, planned = _value(values, epochs_key), origin.file.get(epochs_key, default.epochs)
        if not (_positive(epochs) and _positive(planned) and epochs < planned):
            continue
        inherited = (
            f"{section}.milestones",
            *(("training.milestones",) if section.startswith("peers") else ()),
        )
        for name, (change, reason) in CHANGES.items():
            key = f"{section}.{name}"
            before = _value(values, key)
            after = change(before, epochs, planned)
            keys = (key, *inherited) if name == "schedule" else (key,)
            if after is not None and all(origin.yields(one, epochs_key) for one in keys):
                _value(values, section)[name] = after
                changed = (
                    f"{key} = {_plain(after)} (not {_plain(before)}, {origin.describe_source(key)})"
                )
                messages[key] = f"{changed}, {reason} {epochs_key} = {epochs:g}"
    return messages


def drop_other_teachers(values: dict[str, Any], origin: Origin) -> dict[str, str]:
    """Remove, in place, that of `teacher` and `teachers` which has lower precedence.

    `teachers` yields only to a teacher whose network is given, with the weights in `ensemble`.

    Args:
        values: The plain values of the configuration.
        origin: The origin of the values.

    Returns:
        A sentence by key if one was removed.
    """
    if not values.get("teacher") or not values.get("teachers"):
        return {}
    if origin.yields("teacher", "teachers"):
        values["teacher"] = None
        source = origin.describe_source("teacher")
        return {"teacher": f"teacher = null (not the one {source}), because teachers is given"}
    if not origin.yields("teachers", "teacher.network"):
        return {}
    dropped = [key for key in ("teachers", "ensemble") if origin.yields(key, "teacher.network")]
    changes = {}
    for key in dropped:
        if values.pop(key, None):
            source = origin.describe_source(key)
            changes[key] = f"{key} = null (not the one {source}), because teacher is given"
    return changes


def _shorter_warmup(before: Any, epochs: float, planned: float) -> float | None:
    if _positive(before) and epochs <= before < planned:
        return float(f"{before / planned * epochs:.4g}")
    return None


def _earlier_milestones(before: Any, epochs: float, planned: float) -> list[int] | None:
    """Return whole epochs below `epochs`, each once.

    Return None if all milestones are already below, or one is beyond the planned epochs.
    """
    if not (
        isinstance(before, list)
        and before
        and all(map(_positive, before))
        and epochs <= max(before) < planned
        and epochs > 1
    ):
        return None
    return sorted(
        {min(max(round(epoch / planned * epochs), 1), int(epochs) - 1) for epoch in before}
    )


def _constant(before: Any, epochs: float, planned: float) -> str | None:
    return "constant" if before == "multi_step" and epochs == 1 else None


CHANGES: dict[str, tuple[Callable[[Any, float, float], Any], str]] = {
    "warmup_epochs": (_shorter_warmup, "scaled to"),
    "milestones": (_earlier_milestones, "scaled to"),
    "schedule": (_constant, "because there is no milestone within"),
}


def require_milestones(configuration: Configuration) -> None:
    """Require that every training reaches all milestones of its recipe.

    Raises:
        ConfigurationError: A milestone is not below the epochs of the training.
    """
    recipes = {"training": configuration.training}
    recipes |= {
        f"{key}.training": teacher.training for key, teacher in configuration.named_teachers.items()
    }
    recipes |= {
        f"peers.{letter}.training": configuration.students[letter].training
        for letter in configuration.peers
    }
    for section, recipe in recipes.items():
        if recipe.schedule == "multi_step" and max(recipe.milestones) >= recipe.epochs:
            own = section.removesuffix("training") if section.startswith("teacher") else ""
            epochs_key = f"{own}training.epochs"
            raise ConfigurationError(
                f"{section}.milestones = {list(recipe.milestones)} is not allowed with "
                f"{epochs_key} = {recipe.epochs}: give milestones less than the epochs, or "
                f"another {section}.schedule"
            ).with_details(
                f"{section}.milestones",
                recipe.milestones,
                (1, recipe.epochs - 1) if recipe.epochs > 1 else None,
            )


def _positive(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value > 0


def _value(values: Any, path: str) -> Any:
    for part in path.split("."):
        values = values.get(part) if isinstance(values, dict) else None
    return values


def require_searched_method(configuration: Configuration, origin: Origin) -> None:
    """Require that a method is among the methods of the search, if both were typed.

    Otherwise one of the two would be ignored.

    Raises:
        ConfigurationError: The command line gives a method and a list of methods without it.
    """
    name, methods = configuration.method.name, configuration.search.methods
    if (
        name not in methods
        and methods
        and origin.rank("search.methods") == origin.rank("method") == COMMAND_LINE
    ):
        typed = origin.rank("method.name") == COMMAND_LINE
        if typed:
            subject = f"method.name = {name} is"
        else:
            subject = f"the settings under method belong to {name}, which is"
        raise ConfigurationError(
            f"{subject} not in search.methods = {list(methods)}: add it to the list, or give only "
            f"one of the two; `{program_name()} methods` lists all methods"
        ).with_details("method.name", name, methods)


def with_yielding_values(
    configuration: Configuration, origin: Origin, messages: dict[str, str]
) -> Configuration:
    """Return the configuration in which values of lower precedence yield.

    Args:
        configuration: The validated configuration.
        origin: The origin of its values.
        messages: Sentences about earlier changes, by key.

    Returns:
        The configuration; its `yielded` has `messages` and a sentence for each change.
    """
    sentences = dict(messages)
    for key, value, reason in _changes(configuration, origin):
        name = key.rpartition(".")[2]
        before = getattr(configuration.search, name)
        search = configuration.search.model_copy(update={name: value})
        configuration = configuration.model_copy(update={"search": search})
        source = origin.describe_source(key)
        sentences[key] = f"{key} = {_plain(value)} (not {_plain(before)}, {source}), {reason}"
    return configuration.with_yielded(sentences)


def describe_yielded(configuration: Configuration, kind: str) -> list[str]:
    """Return the sentences of `yielded` that concern a kind of run.

    Keys of `search` concern a sweep only.
    """
    return [
        text
        for key, text in configuration.yielded.items()
        if kind == "sweep" or not key.startswith("search.")
    ]


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:g}"
    return list(value) if isinstance(value, tuple) else value


def _changes(configuration: Configuration, origin: Origin) -> Iterator[tuple[str, Any, str]]:
    """Yield the keys of `search` that yield, each with its new value and the reason."""
    search, epochs = configuration.search, configuration.training.epochs
    if (
        origin.yields("search.methods", "method.name")
        and search.methods
        and configuration.method.name not in search.methods
    ):
        yield "search.methods", (), f"because method.name = {configuration.method.name}"
    if (
        search.objectives
        and search.scheduler != "none"
        and origin.yields("search.scheduler", "search.objectives")
    ):
        yield (
            "search.scheduler",
            "none",
            "because no other scheduler supports several search.objectives",
        )
    elif search.scheduler in ("asha", "median") and search.grace_epochs > epochs:
        if origin.yields("search.grace_epochs", "training.epochs"):
            yield "search.grace_epochs", epochs, f"because training.epochs = {epochs}"
    elif (
        search.scheduler == "pbt"
        and search.perturb_epochs >= epochs > 1
        and origin.yields("search.perturb_epochs", "training.epochs", "search.scheduler")
    ):
        yield "search.perturb_epochs", max(1, epochs // 3), f"because training.epochs = {epochs}"
    better = BETTER.get(search.objective, ())
    if (
        better
        and search.direction not in better
        and origin.yields("search.direction", "search.objective")
    ):
        yield "search.direction", better[0], f"because search.objective = {search.objective}"
    trials = len(search.configurations) * max(len(search.seeds), 1)
    if (
        search.configurations
        and search.trials != trials
        and origin.yields("search.trials", "search.configurations", "search.seeds")
    ):
        yield "search.trials", trials, "the number given by search.configurations and search.seeds"
