"""Check names, settings and needs of a configuration, without starting or writing anything."""

from collections.abc import Sequence

from methods import METHODS, SettingsError
from orchestrator.config.changed_space import list_searched_keys
from orchestrator.config.conditional_space import list_branches
from orchestrator.config.extra_space import check_keys, networks
from orchestrator.config.fields import MOST_TRIALS
from orchestrator.config.method_settings import check_settings
from orchestrator.config.network_schema import INPUT_KEYS
from orchestrator.config.objectives import BETTER, PARAMETERS, list_objective_names, unlettered
from orchestrator.config.schema import PAUSING, Configuration, Network
from orchestrator.config.search_space import (
    frozen_values,
    key_value,
    list_rate_branches,
    list_space_branches,
    peer_rate,
    searched_methods,
)
from orchestrator.config.trial import network_key
from orchestrator.core.errors import ConfigurationError, suggest_name
from orchestrator.models.build import all_settings, build_on_meta
from orchestrator.sweep.preflight._configurations import check_configurations
from orchestrator.sweep.preflight._data import check_data, check_searched_data
from orchestrator.sweep.preflight._needs import check_needs
from orchestrator.sweep.preflight._search_space import check_points, check_space
from orchestrator.sweep.preflight._students import check_peers
from orchestrator.training.capabilities.memory_bank_checks import check_bank
from orchestrator.training.capabilities.sample_weights_checks import check_sample_weights
from search_spaces import SPACES


def check_network(
    network: Network, field: str, classes: int, shape: Sequence[int], prefix: str = ""
) -> int:
    """Return the number of parameters of a network.

    Args:
        network: The network.
        field: Key of the network in the configuration.
        classes: Number of classes.
        shape: (channels, height, width) of the images.
        prefix: Start of an error message, instead of `field`.

    Raises:
        ConfigurationError: The network is unknown or its settings are invalid.
    """
    try:
        model = build_on_meta(network.name, classes, shape, network.settings)
        return sum(value.numel() for value in model.state_dict().values())
    except ConfigurationError as error:
        raise ConfigurationError.from_error(error, f"{prefix or field}: {error}", field) from error


def feature_width(network: Network, classes: int, shape: Sequence[int]) -> int:
    """Return D, the length of the features of a checked network."""
    return build_on_meta(network.name, classes, shape, network.settings).head.in_features


def describe_size(network: Network, classes: int, shape: Sequence[int]) -> str:
    """Return the number of parameters of a network with a prefix in words; "" for other networks.

    Networks without a prefix are described by their settings.
    """
    if "/" not in network.name:
        return ""
    model = build_on_meta(network.name, classes, shape, network.settings)
    return f", {sum(each.numel() for each in model.parameters()):,} parameters"


def check_students(
    configuration: Configuration, searched: bool, classes: int, shape: Sequence[int]
) -> int:
    """Return the number of parameters of all students together.

    Each student counts as the largest that the search may choose.

    Raises:
        ConfigurationError: As for `check_network`.
    """
    kinds = networks(configuration, searched)
    return sum(
        max(
            check_network(network, network_key(letter), classes, shape, prefix)
            for prefix, network in kind.items()
        )
        for letter, kind in kinds.items()
    )


def check_networks(configuration: Configuration, searched: bool) -> None:
    """Raise ConfigurationError if a network is unknown or its settings are invalid.

    The check does not depend on the data. Networks with a prefix may need images of a certain
    size, so they are not built here.
    """
    checked = [
        (network, network_key(letter), prefix)
        for letter, kind in networks(configuration, searched).items()
        for prefix, network in kind.items()
    ]
    checked += [
        (teacher.network, f"{key}.network", f"{key}.network")
        for key, teacher in configuration.named_teachers.items()
    ]
    for network, field, prefix in checked:
        if "/" in network.name:
            try:
                all_settings(network.name, network.settings)
            except ConfigurationError as error:
                message = f"{prefix}: {error}"
                raise ConfigurationError.from_error(error, message, field) from error
        else:
            without_input = network.model_copy(update=dict.fromkeys(INPUT_KEYS))
            check_network(without_input, field, 10, (3, 32, 32), prefix)


def check_objective(configuration: Configuration) -> None:
    """Raise ConfigurationError if an objective cannot be optimized.

    It must be reported, have the direction that improves it, and belong to an existing student.
    """
    search = configuration.search
    _check_evaluated_students(configuration)
    if search.objectives:
        _check_objectives(configuration)
        return
    known = [
        name for name in BETTER if name != "validation/agreement" or configuration.named_teachers
    ]
    if search.objective not in known:
        raise ConfigurationError(
            f"search.objective = {search.objective!r} {_objective_refusal(configuration, known)}"
        ).with_details("search.objective", search.objective, tuple(known))
    if search.direction not in BETTER[search.objective]:
        raise ConfigurationError(
            f"search.direction = {search.direction!r} would find the worst {search.objective}: "
            f"set search.direction={BETTER[search.objective][0]}"
        ).with_details("search.direction", search.direction, BETTER[search.objective])


def _objective_refusal(configuration: Configuration, known: Sequence[str]) -> str:
    """Return why `search.objective` is not allowed, and what to set instead."""
    objective = configuration.search.objective
    name, letter = unlettered(objective), objective.partition("/")[0]
    if name == PARAMETERS:
        return (
            f"is not allowed as the only objective: set "
            f"search.objectives=[validation/accuracy, {objective}]"
        )
    if name in known and configuration.peers and letter in configuration.students:
        return f"names one student: set search.objective={name} and search.students={letter}"
    return f"is not reported: {suggest_name(objective, known)}"


def _check_evaluated_students(configuration: Configuration) -> None:
    """Raise ConfigurationError if `search.students` is not mean, min or an existing student."""
    students = configuration.search.students
    if not configuration.peers and students != "mean":
        raise ConfigurationError(
            f"search.students = {students!r} is not allowed with one student: set "
            f"search.students=mean, or configure peers"
        ).with_details("search.students", students, ("mean",))
    if students not in ("mean", "min", *configuration.students):
        letters = ", ".join(configuration.students)
        raise ConfigurationError(
            f"search.students = {students!r} is not allowed: give mean, min, or a student "
            f"({letters})"
        ).with_details("search.students", students, ("mean", "min", *configuration.students))


def _check_objectives(configuration: Configuration) -> None:
    """Raise ConfigurationError if there are fewer than two objectives, or one is not allowed.

    Each must be reported and have one direction that improves it.
    """
    names, known = configuration.search.objectives, list_objective_names(configuration)
    if len(set(names)) < max(len(names), 2):
        raise ConfigurationError(
            f"search.objectives = {list(names)} is not allowed: give two or more different "
            f"objectives, or set search.objective for a single one"
        ).with_details("search.objectives", names, "two or more, each once")
    for name in names:
        if len(BETTER.get(unlettered(name), ())) > 1:
            raise ConfigurationError(
                f"search.objectives = {name!r} has no single direction that improves it: choose "
                f"another objective, or set search.objective and search.direction"
            ).with_details("search.objectives", name, tuple(known))
        if name not in known:
            raise ConfigurationError(
                f"search.objectives = {name!r} is not reported: {suggest_name(name, known)}"
            ).with_details("search.objectives", name, tuple(known))


def _check_sizes(configuration: Configuration) -> None:
    """Raise ConfigurationError if an objective is a model size that does not vary."""
    for name in configuration.search.objectives:
        letter = name.partition("/")[0]
        sections = [
            network_key(each) for each in configuration.students if letter in (each, PARAMETERS)
        ]
        if unlettered(name) == PARAMETERS and not any(
            key.rpartition(".")[0] in sections for key in list_searched_keys(configuration)
        ):
            raise ConfigurationError(
                f"search.objectives = {name!r} is the same in every trial, because the search does "
                f"not vary its network: add for example "
                f"search.extra_space.{sections[0]}.width=[8, 16, 32], or leave the objective out"
            ).with_details("search.objectives", name, f"with search.extra_space.{sections[0]}")


def check_train(configuration: Configuration) -> None:
    """Check everything about a single training that needs no data."""
    check_peers(configuration)
    check_networks(configuration, searched=False)
    name = configuration.method.name
    check_settings(configuration, name, "method.name")
    check_needs(configuration, name, "method.name", searching=False)
    check_sample_weights(configuration, name, searching=False)
    check_bank(configuration, name, searching=False)
    check_data(configuration, searching=False)
    check_objective(configuration)


def check_search(configuration: Configuration) -> None:
    """Check everything about a search that needs no data.

    This includes methods, frozen keys, choices, objectives and rungs.
    """
    check_peers(configuration)
    check_settings(configuration, configuration.method.name, "method.name")
    _check_method_is_searched(configuration)
    _check_frozen_keys(configuration)
    for name in searched_methods(configuration):
        _check_method_name(configuration, name)
    check_space(configuration)
    for name in searched_methods(configuration):
        _check_searched_method(configuration, name)
    check_searched_data(configuration)
    check_data(configuration, searching=True)
    check_extra_space(configuration)
    check_configurations(configuration)
    check_points(configuration)
    check_networks(configuration, searched=True)
    check_objective(configuration)
    _check_scheduler(configuration)
    _check_sizes(configuration)
    if configuration.search.scheduler == "pbt":
        check_population(configuration)


def _check_method_is_searched(configuration: Configuration) -> None:
    """Refuse settings of a method that is not searched, and a repeated method."""
    search, chosen = configuration.search, configuration.method
    if chosen.settings and chosen.name not in searched_methods(configuration):
        raise ConfigurationError(
            f"method.name = {chosen.name!r} has settings, but is not among search.methods = "
            f"{list(search.methods)}: add it there, or leave its settings out"
        ).with_details("method.name", chosen.name, search.methods)
    if len(set(search.methods)) != len(search.methods):
        raise ConfigurationError(
            f"search.methods = {list(search.methods)} contains a method twice: give each once"
        ).with_details("search.methods", search.methods, "each once")


def _check_frozen_keys(configuration: Configuration) -> None:
    """Refuse an unknown key in `search.freeze`."""
    for key in configuration.search.freeze:
        try:
            key_value(configuration, key)
        except (KeyError, TypeError) as error:
            raise ConfigurationError(
                f"search.freeze = {key!r} is not a key of the configuration: give for example "
                f"training.learning_rate"
            ).with_details("search.freeze", key, "keys of the configuration") from error


def _check_method_name(configuration: Configuration, name: str) -> None:
    """Check that a method of a search exists, accepts its settings and has a search space."""
    check_settings(configuration, name, _method_field(configuration))
    if name not in SPACES:
        raise ConfigurationError(
            f"search.methods = {name!r} has no search space: {suggest_name(name, SPACES)}"
        ).with_details("search.methods", name, tuple(SPACES))


def _method_field(configuration: Configuration) -> str:
    """Return the key that names the methods of a search."""
    return "search.methods" if configuration.search.methods else "method.name"


def _check_searched_method(configuration: Configuration, name: str) -> None:
    """Check the frozen values and the needs of one method of a search."""
    field = _method_field(configuration)
    check_frozen_values(configuration, name)
    check_needs(configuration, name, field, searching=True)
    check_sample_weights(configuration, name, searching=True)
    check_bank(configuration, name, searching=True)


def _check_scheduler(configuration: Configuration) -> None:
    """Refuse a scheduler with several objectives or patience, and rungs beyond the last epoch."""
    search, patience = configuration.search, configuration.training.patience
    if patience is not None and search.scheduler in PAUSING:
        raise ConfigurationError(
            f"training.patience = {patience} ends trials at different epochs, but search.scheduler "
            f"= {search.scheduler!r} compares all at the same: remove it, or set search.scheduler "
            f"to asha, median or none"
        ).with_details("training.patience", patience, None)
    if search.objectives and search.scheduler != "none":
        raise ConfigurationError(
            f"search.scheduler = {search.scheduler!r} compares trials by one objective, but "
            f"search.objectives has {len(search.objectives)}: set search.scheduler=none"
        ).with_details("search.scheduler", search.scheduler, ("none",))
    if search.grace_epochs > configuration.training.epochs and search.scheduler in (
        "asha",
        "median",
    ):
        raise ConfigurationError(
            f"search.grace_epochs = {search.grace_epochs} is more than training.epochs = "
            f"{configuration.training.epochs}: give at most {configuration.training.epochs}"
        ).with_details(
            "search.grace_epochs", search.grace_epochs, (1, configuration.training.epochs)
        )


def check_extra_space(configuration: Configuration) -> None:
    """Raise ConfigurationError if a key or a value of `search.extra_space` cannot be searched."""
    searched_keys = {peer_rate(letter) for letter in configuration.peers}
    for name in searched_methods(configuration):
        for branch in list_branches(name, {}):
            searched_keys |= {*branch.choices, *branch.ranges}
    searched_keys |= configuration.search.space.keys()
    check_keys(configuration, searched_keys)


def check_population(configuration: Configuration) -> None:
    """Raise ConfigurationError if population based training cannot work.

    It needs two trials, an epoch after the first comparison, and a setting to vary.
    """
    search, epochs = configuration.search, configuration.training.epochs
    if search.trials < 2:
        raise ConfigurationError(
            f"search.trials = {search.trials} is too few for search.scheduler = 'pbt': give at "
            f"least 2, preferably 4 or more"
        ).with_details("search.trials", search.trials, (2, MOST_TRIALS))
    if search.perturb_epochs >= epochs:
        raise ConfigurationError(
            f"search.perturb_epochs = {search.perturb_epochs} leaves no epoch after the first "
            f"comparison, because training.epochs = {epochs}: "
            + (f"give at most {epochs - 1}" if epochs > 1 else "raise training.epochs")
        ).with_details(
            "search.perturb_epochs", search.perturb_epochs, (1, epochs - 1) if epochs > 1 else None
        )
    branches = [
        branch
        for name in searched_methods(configuration)
        for branch in list_space_branches(configuration, name)
    ]
    branches += list_rate_branches(configuration).values()
    if not any(branch.continuous for branch in branches):
        raise ConfigurationError(
            "search.scheduler = 'pbt' varies continuous settings, but all of them are frozen: "
            "leave one out of search.freeze or of the settings under method, or choose another "
            "scheduler"
        ).with_details("search.scheduler", "pbt", "with a continuous setting that is searched")


def check_frozen_values(configuration: Configuration, name: str) -> None:
    """Raise ConfigurationError if a frozen value conflicts with a searched one."""
    frozen, keys = frozen_values(configuration, name), configuration.search.freeze
    for branch in list_space_branches(configuration, name):
        values = frozen | branch.values
        try:
            METHODS[name].Settings.build(
                {key: values[key] for key in values if "." not in key and key not in keys}
            )
        except SettingsError as error:
            chosen = ", ".join(f"{key} = {value}" for key, value in branch.chosen.items())
            message = (
                f"method {name}: the search would combine the frozen settings with "
                f"{chosen or 'others'}, but {error}; freeze the settings that depend on them "
                f"too, or leave all to the search"
            )
            raise ConfigurationError.from_error(error, message, "method") from error


def require_copies(uri: str, configuration: Configuration, kind: str) -> None:
    """Refuse a scheduler that copies checkpoint folders if the store is a URI."""
    scheduler = configuration.search.scheduler
    if uri and kind == "sweep" and scheduler in PAUSING:
        raise ConfigurationError(
            f"search.scheduler = {scheduler!r} copies checkpoint folders, but --store is a URI: "
            f"give a folder that all nodes share, or set search.scheduler to asha, median or none"
        ).with_details("search.scheduler", scheduler, ("asha", "median", "none"))
