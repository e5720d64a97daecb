"""Refuse invalid runs before anything expensive starts, and print the plan of `--dry-run`."""

from collections.abc import Callable
from dataclasses import asdict
from math import prod
from pathlib import Path

from rich.console import Console

from methods.capabilities import UsesFeatureMaps
from orchestrator.config import plan
from orchestrator.config import sizes as byte_sizes
from orchestrator.config.capacity import Sizes, require_cores, require_memory
from orchestrator.config.changed_space import list_searched_keys
from orchestrator.config.checkpoints import count_kept_checkpoints
from orchestrator.config.distinct import count_settings, limit_trials
from orchestrator.config.extra_space import alone
from orchestrator.config.influence_actors import count_influence_actors
from orchestrator.config.method_variants import build_all_variants
from orchestrator.config.objectives import describe_objective, goals
from orchestrator.config.resources import (
    cluster_address,
    local_memory,
    local_resources,
    require_answer,
    require_short_sockets,
)
from orchestrator.config.schema import Configuration
from orchestrator.config.search_space import peer_rates
from orchestrator.config.trial import network_key
from orchestrator.config.yielding import describe_yielded
from orchestrator.core.errors import ConfigurationError
from orchestrator.core.paths import read_file
from orchestrator.core.privacy import sanitize
from orchestrator.data.dataset import Dataset, DataSummary
from orchestrator.data.prepare import describe, list_notes, prepare
from orchestrator.data.preprocessing import explain, resolve_augmentation
from orchestrator.data.shared_memory import describe_shortage
from orchestrator.extensions.record import explain_code
from orchestrator.models.build import build_for_data
from orchestrator.models.weight_files import is_file_name
from orchestrator.models.weights import load_weights
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.store.staging import publish
from orchestrator.store.store import SPARE_BYTES, Store
from orchestrator.sweep.preflight._automatic import explain_automatic
from orchestrator.sweep.preflight._batch_norm import check_batch_norm
from orchestrator.sweep.preflight._data import check_batches
from orchestrator.sweep.preflight._given_weights import check_given_weights
from orchestrator.sweep.preflight._local import check_local, describe_processes
from orchestrator.sweep.preflight._search_space import describe_excluded_points, describe_space
from orchestrator.sweep.preflight._several_teachers import check_several_teachers
from orchestrator.sweep.preflight._teacher_lines import describe_network, teacher_lines
from orchestrator.sweep.preflight.configuration import (
    check_network,
    check_search,
    check_students,
    check_train,
    describe_size,
    feature_width,
    require_copies,
)
from orchestrator.sweep.preflight.prepared import Prepared as Prepared
from orchestrator.sweep.run_facts import find_facts
from orchestrator.teacher.access import TeacherAccess, decide_access
from orchestrator.teacher.acquire import check_weights
from orchestrator.tracking.schema import schema_problem
from orchestrator.training.capabilities.feature_maps_checks import (
    Maps,
    check_feature_maps,
    maps_line,
    select_cached_maps,
)
from orchestrator.training.capabilities.memory_bank_checks import (
    check_retrieval,
    clean_bytes,
    retrieval_line,
)
from orchestrator.training.capabilities.sample_weights_checks import check_memory
from orchestrator.training.metrics import check_user_metrics


def prepare_run(
    store: Store,
    configuration: Configuration,
    kind: str,
    local_processes: int,
    note: Callable[[str], None] = lambda _: None,
) -> Prepared:
    """Check a run and prepare its data, and decide on the teacher's cache.

    Afterwards the teacher's pretrained weights are in the store. The configuration has the resolved
    teacher mode instead of `auto`, so that a resume does not decide again.

    Args:
        kind: Sweep, train or teacher.
        local_processes: Number of processes that train without Ray, 1 for this one; 0 with Ray.
        note: Receives messages about unexpected properties of the data.
    """
    require_copies(store.uri, configuration, kind)
    configuration, reduced = _resolve_configuration(configuration, kind)
    _, gpu, groups = _check(configuration, kind, local_processes)
    folder = prepare(configuration.data, store.root, configuration.data.seed, note)
    summary = describe(configuration.data, store.root, configuration.data.seed)
    for name, line in list_notes(configuration.data, summary).items():
        note(f"{name}: {line}")
    teacher_access, *_ = _check_with_data(
        store, configuration, kind, local_processes, summary, gpu, groups
    )
    if kind != "teacher" and (problem := schema_problem(store, configuration)):
        note(problem)
    for line in describe_excluded_points(configuration) if kind == "sweep" else ():
        note(line)
    check_weights(store, configuration, folder)
    publish(store, folder, "data.json")
    _download_students_weights(configuration, folder)
    augmentation = resolve_augmentation(configuration.data)
    data = configuration.data.model_copy(update={"augmentation": augmentation})
    configuration = configuration.model_copy(update={"data": data})
    if teacher_access:
        teachers = teacher_access.resolve(configuration.named_teachers)
        configuration = configuration.with_teachers(teachers)
    facts = None if kind == "teacher" else find_facts(store, configuration, kind, folder)
    return Prepared(folder, teacher_access, configuration, reduced, facts)


def show_plan(
    store: Store, configuration: Configuration, kind: str, local_processes: int, console: Console
) -> None:
    """Print the plan of a run: data, teacher, worker groups, trials, rungs and disk space.

    Nothing is prepared.
    """
    require_copies(store.uri, configuration, kind)
    configuration, note = _resolve_configuration(configuration, kind)
    words, gpu, groups = _check(configuration, kind, local_processes)
    summary = describe(configuration.data, store.root, configuration.data.seed)
    teacher_access, checkpoint_bytes, kept_trials, variants = _check_with_data(
        store, configuration, kind, local_processes, summary, gpu, groups
    )
    lines = {
        "data": _data_line(summary)
        + (f", {configuration.data.mixing}" if configuration.data.mixing != "none" else "")
    }
    if code := explain_code(configuration):
        lines["code"] = code
    lines |= (
        list_notes(configuration.data, summary)
        | explain(configuration.data, summary)
        | _student_lines(configuration, kind, summary)
    )
    if teacher_access:
        lines |= teacher_lines(store, configuration, kind == "sweep", summary)
        lines["cache"] = f"the teacher's outputs are {teacher_access.words}"
    cached = teacher_access is not None and teacher_access.folder is not None
    if kind != "teacher" and (
        retrieval := retrieval_line(configuration, kind == "sweep", summary, gpu, cached)
    ):
        lines["retrieval"] = retrieval
    if kind != "teacher":
        lines |= _maps_lines(configuration, kind == "sweep", summary, variants, cached)
    if configuration.data.is_decoded_each_epoch and (
        local_processes or not cluster_address(configuration.resources)
    ):
        lines["loader"] = _loader_line(configuration, summary, groups)
    lines["groups"] = words
    lines |= (
        _search_lines(configuration)
        if kind == "sweep"
        else {"epochs": _describe_epochs(configuration)}
    )
    if automatic := explain_automatic(
        configuration, kind, summary.augmentation, gpu, lines.get("retrieval", "")
    ):
        lines["automatic"] = automatic
    if kind != "teacher" and (problem := schema_problem(store, configuration)):
        lines["tracking"] = problem
    lines["store"] = (
        f"{store.uri or store.root}; checkpoints take at most {checkpoint_bytes / 2**20:.1f} "
        f"MiB: {kept_trials}"
    )
    lines |= {
        f"changed {index}": sentence
        for index, sentence in enumerate(describe_yielded(configuration, kind), 1)
    }
    if note:
        print_line(console, sanitize(note))
    width = max(map(len, lines)) + 2
    for name, line in lines.items():
        print_line(console, sanitize(f"{name:{width}}{line}"))


def require_weights(configuration: Configuration) -> None:
    """Raise ConfigurationError if a file with a network's weights is missing or cannot be read."""
    networks = {
        network_key(letter): student.network for letter, student in configuration.students.items()
    }
    networks |= {
        f"{key}.network": teacher.network for key, teacher in configuration.named_teachers.items()
    }
    for key, network in networks.items():
        if network.weights and is_file_name(network.weights):  # else the name of published weights
            read_file(
                network.weights,
                f"{key}.weights",
                "give a .safetensors file with weights of this network",
            )


def _resolve_configuration(configuration: Configuration, kind: str) -> tuple[Configuration, str]:
    """Return the configuration, checked without data, and a note about fewer trials.

    A sweep gets at most as many trials as it has settings; the note explains it.
    """
    if kind != "sweep":
        check_train(configuration)
        return configuration, ""
    check_search(configuration)
    return limit_trials(configuration)


def _check(configuration: Configuration, kind: str, local_processes: int) -> tuple[str, bool, int]:
    """Check everything that needs no data, and plan the worker groups.

    Returns:
        A description of the groups, whether their first worker has a GPU, and their number.
    """
    require_weights(configuration)
    trials = configuration.search.trials if kind == "sweep" else 1
    if local_processes:
        require_cores(configuration, [local_resources()])
        check_local(configuration, kind)
        return describe_processes(min(local_processes, trials))
    address = cluster_address(configuration.resources)
    if address is None:
        require_short_sockets()
    available, nodes, free = _available(address)
    require_cores(configuration, nodes)
    groups = plan.plan_groups(
        configuration,
        available,
        trials,
        nodes,
        count_influence_actors(configuration, kind),
        free,
        elastic=bool(address),
    )
    shown_values = _describe_resources(configuration, available, nodes)
    words = (
        f"{groups.groups} x {groups.workers} workers{shown_values}; {groups.arithmetic} fit, "
        f"{trials} trials"
    )
    return words, groups.bundles[0].get("GPU", 0) > 0, groups.groups


def _describe_resources(
    configuration: Configuration, available: dict[str, float], nodes: list[dict[str, float]]
) -> str:
    """Return the resources of a worker, and which student it trains if there are several."""
    each = {
        role.letter: f"{role.needs['CPU']:g} CPU and {role.needs.get('GPU', 0):g} GPU"
        for role in plan.worker_roles(configuration, available, nodes)
    }
    if len(each) == 1:
        return f" of {each['a']}" + (
            f" for students {', '.join(configuration.students)}" if configuration.peers else ""
        )
    return ", " + ", ".join(
        f"{configuration.replicas} for student {letter} of {shown_values}"
        for letter, shown_values in each.items()
    )


def _available(
    address: str | None,
) -> tuple[dict[str, float], list[dict[str, float]], list[dict[str, float]]]:
    """Return the free resources, the resources of each node, and the free ones of each node."""
    if address is None:
        return local_resources(), [local_resources()], [local_resources()]
    from orchestrator.cluster.connect import connect_to_ray, free_nodes, list_nodes

    require_answer(address)
    with connect_to_ray(address) as available:
        return dict(available), list_nodes(), free_nodes()


def _download_students_weights(configuration: Configuration, data: Path) -> None:
    """Download the published weights of students once, before workers need them.

    Raise ConfigurationError if that fails. Weight files are read by `check_given_weights`.
    """
    for letter, (network, _) in configuration.students.items():
        if network.weights and not is_file_name(network.weights):
            dataset = Dataset.open(data)
            student = build_for_data(network, dataset)
            try:
                load_weights(student, network.weights)
            except ConfigurationError as error:
                key = f"{network_key(letter)}.weights"
                raise ConfigurationError(f"{key}: {error}").with_details(
                    key, network.weights, error.allowed
                ) from error


def _check_with_data(
    store: Store,
    configuration: Configuration,
    kind: str,
    local_processes: int,
    summary: DataSummary,
    gpu: bool,
    groups: int = 1,
) -> tuple[TeacherAccess | None, int, str, list[Maps]]:
    """Check networks, batches and free space against the data.

    Returns:
        The access to the teacher, the size of the checkpoints (bytes), and the trials that keep
        them, and the feature maps that each variant of a method uses.
    """
    classes = len(summary.classes)
    searching = kind == "sweep"
    samples = summary.sizes.train
    parameters = check_students(configuration, searching, classes, summary.shape)
    check_user_metrics(classes, summary.sizes.validation)
    clean_view_bytes = teacher_parameters = 0
    variants: list[Maps] = []
    for key, teacher in configuration.named_teachers.items():
        teacher_parameters += check_network(
            teacher.network, f"{key}.network", classes, summary.shape
        )
    check_several_teachers(configuration, searching)
    if configuration.teacher:
        width = feature_width(configuration.teacher.network, classes, summary.shape)
        clean_view_bytes = clean_bytes(configuration, searching, samples, width)
        variants = check_feature_maps(configuration, searching, classes, summary.shape)
        maps = select_cached_maps(configuration, variants, samples, summary.augmentation)
        clean_view_bytes += byte_sizes.map_bytes(configuration.teacher, samples, maps.values())
    check_given_weights(configuration, classes, summary.shape)
    for each in (configuration, *(alone(configuration) if searching else ())):
        check_batches(each, searching, summary)
        check_batch_norm(each, searching, summary.shape)
    if local_processes or cluster_address(configuration.resources) is None:
        sizes = Sizes(parameters, teacher_parameters, prod(summary.shape))
        require_memory(configuration, sizes, local_memory())
    check_memory(configuration, searching, samples, classes, summary.shape)
    if kind != "teacher":
        check_retrieval(configuration, searching, summary, gpu)
    copies, kept_trials = (
        count_kept_checkpoints(configuration.search, groups)
        if searching
        else (2, "of one training: the current and the previous one")
    )
    checkpoint_bytes = byte_sizes.checkpoint_bytes(parameters, copies)
    store.require_space(checkpoint_bytes + SPARE_BYTES)
    reserved = checkpoint_bytes + SPARE_BYTES
    teacher_access = (
        decide_access(
            store, configuration, summary, bool(local_processes), reserved, clean_view_bytes
        )
        if configuration.named_teachers
        else None
    )
    return teacher_access, checkpoint_bytes, kept_trials, variants


def _maps_lines(
    configuration: Configuration,
    searching: bool,
    summary: DataSummary,
    variants: list[Maps],
    cached: bool,
) -> dict[str, str]:
    """Return the lines about feature maps, and about a cache that no method can use."""
    samples, augmentation = summary.sizes.train, summary.augmentation
    line = maps_line(configuration, variants, samples, augmentation, cached)
    lines = {"feature maps": line} if line else {}
    in_cache = select_cached_maps(configuration, variants, samples, augmentation)
    varies = byte_sizes.varies(configuration, augmentation)
    taught = [each for each in build_all_variants(configuration, searching) if each.needs.teacher]
    alone = [isinstance(each, UsesFeatureMaps) or each.needs.features & varies for each in taught]
    if cached and not in_cache and alone and all(alone):
        lines["cache"] = "not used: the teacher runs at every step"
    return lines


def _data_line(summary: DataSummary) -> str:
    size_texts = {name: str(size) for name, size in asdict(summary.sizes).items()}
    if summary.labelled is not None:
        size_texts["train"] = f"{summary.labelled} labelled of {size_texts['train']}"
    if summary.validation_in_training:
        size_texts["train"] += " with the validation part"
    sizes = ", ".join(f"{name} {size}" for name, size in size_texts.items())
    shape = "x".join(str(side) for side in summary.shape)
    return f"{summary.name}: {sizes}; {len(summary.classes)} classes, {shape}"


def _student_lines(configuration: Configuration, kind: str, summary: DataSummary) -> dict[str, str]:
    """Return each student's network and its own training settings, without searched values."""
    if kind == "sweep":
        searched = {*peer_rates(configuration), *list_searched_keys(configuration)}
    else:
        searched = set()
    lines = {}
    for letter, (network, _) in configuration.students.items():
        if letter in configuration.peers:
            recipe_values = configuration.peers[letter].training.model_dump(exclude_none=True)
        else:
            recipe_values = {}
        shown_values = {
            key: value
            for key, value in recipe_values.items()
            if f"peers.{letter}.training.{key}" not in searched
        }
        recipe = "".join(f", {key} {value}" for key, value in shown_values.items())
        name = f"student {letter}" if configuration.peers else "student"
        size = describe_size(network, len(summary.classes), summary.shape)
        lines[name] = describe_network(network.model_dump(exclude_none=True)) + size + recipe
    return lines


def _loader_line(configuration: Configuration, summary: DataSummary, groups: int) -> str:
    """Return how this machine decodes images, and a warning if its shared memory is too small."""
    workers = configuration.data.loader_workers
    share = configuration.training.batch_size // configuration.replicas
    if not workers:
        return "images are decoded in the training process"
    batch_bytes = prod(summary.shape) * share * (1 if configuration.data.mixing == "none" else 2)
    shortage = describe_shortage(batch_bytes, workers, groups * configuration.resources.workers)
    return f"{workers} processes decode images for each worker" + (
        f"; {shortage}" if shortage else ""
    )


def _describe_epochs(configuration: Configuration) -> str:
    epochs, patience = configuration.training.epochs, configuration.training.patience
    if patience is None:
        return str(epochs)
    return f"at most {epochs}, ended after {patience} without a higher validation accuracy"


def _search_lines(configuration: Configuration) -> dict[str, str]:
    search = configuration.search
    methods = ", ".join(search.methods or (configuration.method.name,))
    budget = f", at most {search.time_budget:g} s" if search.time_budget else ""
    objective_texts = ", ".join(
        f"{goal.direction} {describe_objective(configuration, goal.name)}" for goal in goals(search)
    )
    settings = count_settings(configuration)
    if settings is not None and not search.configurations:
        num_settings = f" ({settings} different setting{'s' * (settings != 1)})"
    else:
        num_settings = ""
    space_lines = {
        f"space {index}": line for index, line in enumerate(describe_space(configuration), 1)
    }
    return {
        "trials": f"{search.trials} of {methods}{num_settings}{budget}; {objective_texts}",
        "epochs": f"{_describe_epochs(configuration)}; "
        f"{plan.describe_comparisons(search, configuration.training.epochs)}",
    } | space_lines
