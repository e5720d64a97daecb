"""What can be wrong with a configuration beyond its types: names, settings, needs. Cheap; nothing is started or written."""

from collections.abc import Sequence

import torch

from methods import METHODS, SettingsError
from orchestrator.config import Configuration, Network
from orchestrator.errors import ConfigurationError, nearest
from orchestrator.models import build
from orchestrator.peers import check_peers
from orchestrator.sweep.branches import branches
from orchestrator.sweep.space import held, key_value, searched
from search_spaces import SPACES

BETTER = {  # the metrics of every epoch that can be an objective, with the directions that make sense
    "validation/accuracy": ("maximize",),
    "validation/agreement": ("maximize",),
    "validation/nll": ("minimize",),
    "validation/ece": ("minimize",),
    "validation/entropy": ("minimize", "maximize"),
    "train/loss": ("minimize",),
}


def check_settings(configuration: Configuration, name: str, field: str) -> None:
    """ConfigurationError when a method does not exist or cannot have its settings."""
    if name not in METHODS:
        raise ConfigurationError(f"{field} = {name!r} is no method: {nearest(name, METHODS)}; see `python run.py methods`")
    method = METHODS[name]
    given = configuration.method.settings if name == configuration.method.name else {}
    try:
        method.Settings.build(given)
    except SettingsError as error:
        known = f"; {nearest(error.field, method.Settings.__dataclass_fields__)}" if error.unknown and error.field else ""
        raise ConfigurationError(f"method {name}: {error}{known}; see `python run.py methods`") from error


def check_method(configuration: Configuration, name: str, field: str) -> None:
    """ConfigurationError when a method that is to be trained does not exist, cannot have its settings, or misses its teacher."""
    check_settings(configuration, name, field)
    needs = METHODS[name].needs
    if configuration.teacher is None and (needs.teacher or needs.features):
        raise ConfigurationError(f"{field} = {name!r} needs a teacher and `teacher` is null: configure one, or take cross_entropy")


def check_network(network: Network, field: str, classes: int, shape: Sequence[int]) -> int:
    """The parameters of a network; ConfigurationError when it does not exist or cannot have its settings."""
    channels, height, width = shape
    try:
        with torch.device("meta"):  # shapes alone, no memory
            built = build(network.name, classes, (channels, height, width), network.settings)
            return sum(value.numel() for value in built.state_dict().values())
    except ConfigurationError as error:
        raise ConfigurationError(f"{field}: {error}") from error


def check_networks(configuration: Configuration) -> None:
    """ConfigurationError when a network does not exist or cannot have its settings, whatever the data."""
    check_network(configuration.student, "student", 10, (3, 32, 32))
    if configuration.teacher:
        check_network(configuration.teacher.network, "teacher.network", 10, (3, 32, 32))


def check_objective(configuration: Configuration) -> None:
    """ConfigurationError when no epoch reports the objective, or the direction looks for the worst."""
    search = configuration.search
    known = [name for name in BETTER if name != "validation/agreement" or configuration.teacher]
    if search.objective not in known:
        raise ConfigurationError(f"search.objective = {search.objective!r} is not reported: {nearest(search.objective, known)}")
    if search.direction not in BETTER[search.objective]:
        raise ConfigurationError(
            f"search.direction = {search.direction!r} looks for the worst {search.objective}: set {BETTER[search.objective][0]}"
        )


def check_train(configuration: Configuration) -> None:
    """Everything about a single training that can be checked without the data."""
    check_peers(configuration)
    check_networks(configuration)
    check_method(configuration, configuration.method.name, "method.name")
    check_objective(configuration)


def check_search(configuration: Configuration) -> None:
    """Everything about a search that can be checked without the data: methods, held keys, objective, rungs."""
    check_peers(configuration)
    check_networks(configuration)
    search, chosen = configuration.search, configuration.method
    check_settings(configuration, chosen.name, "method.name")
    if chosen.settings and chosen.name not in searched(configuration):
        raise ConfigurationError(
            f"the settings under method are those of {chosen.name}, which is not among search.methods = {list(search.methods)}: "
            "add it there, or leave them out"
        )
    for key in search.hold:
        try:
            key_value(configuration, key)
        except (KeyError, TypeError) as error:
            raise ConfigurationError(
                f"search.hold = {key!r} is no key of the configuration: write for example training.learning_rate"
            ) from error
    for name in searched(configuration):
        check_method(configuration, name, "search.methods" if search.methods else "method.name")
        if name not in SPACES:
            raise ConfigurationError(f"search.methods = {name!r} has no search space: {nearest(name, SPACES)}")
        check_held(configuration, name)
    if len(set(search.methods)) != len(search.methods):
        raise ConfigurationError(f"search.methods = {list(search.methods)} names a method twice: name each once")
    check_objective(configuration)
    if search.scheduler == "pbt":
        check_population(configuration)
    if search.grace_epochs > configuration.training.epochs and search.scheduler in ("asha", "median"):
        raise ConfigurationError(
            f"search.grace_epochs = {search.grace_epochs} is more than training.epochs = {configuration.training.epochs}: "
            f"give at most {configuration.training.epochs}"
        )


def check_population(configuration: Configuration) -> None:
    """ConfigurationError when population based training would have nobody to compare, no time to, or nothing to vary."""
    search, epochs = configuration.search, configuration.training.epochs
    if search.trials < 2:
        raise ConfigurationError(
            f"search.trials = {search.trials} is no population for search.scheduler = 'pbt': give at least 2, better 4 or more"
        )
    if search.perturb_epochs >= epochs:
        raise ConfigurationError(
            f"search.perturb_epochs = {search.perturb_epochs} leaves no epoch after a comparison, as training.epochs = {epochs}: "
            + (f"give at most {epochs - 1}" if epochs > 1 else "raise training.epochs")
        )
    if not any(branch.continuous for name in searched(configuration) for branch in branches(name, held(configuration, name))):
        raise ConfigurationError(
            "search.scheduler = 'pbt' varies continuous settings, and all of them are held: leave one out of search.hold "
            "or of the settings under method, or take another scheduler"
        )


def check_held(configuration: Configuration, name: str) -> None:
    """ConfigurationError when what is held cannot go with something that the search would choose."""
    kept, keys = held(configuration, name), configuration.search.hold
    for branch in branches(name, kept):
        values = kept | branch.values
        try:
            METHODS[name].Settings.build({key: values[key] for key in values if "." not in key and key not in keys})
        except SettingsError as error:
            chosen = ", ".join(f"{key} = {value}" for key, value in branch.answers.items())
            raise ConfigurationError(
                f"method {name}: the search would choose {chosen or 'other settings'} beside what is held, and {error}; "
                "hold what has to go with it, or leave it to the search"
            ) from error
