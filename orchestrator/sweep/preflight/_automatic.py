"""Explain the resolved values of settings that are `auto` or null.

Augmentation, cache and worker groups have their own lines.
"""

from orchestrator.config import sizes
from orchestrator.config.schema import Configuration, Network, Training
from orchestrator.training.process_cache import channels_last


def explain_automatic(
    configuration: Configuration, kind: str, augmentation: str, gpu: bool, retrieval: str
) -> str:
    """Return `key = value (reason)` for each of these settings, separated by semicolons.

    Args:
        configuration: Configuration of the run.
        kind: Kind of the run: sweep, train or teacher, which has no students.
        augmentation: Resolved augmentation policy.
        gpu: Whether the first worker of a group has a GPU.
        retrieval: The plan's line about retrieval; empty if no method retrieves samples.
    """
    lines = [
        *_precisions(configuration, kind, gpu),
        *_layout(configuration, kind),
        *_data(configuration, augmentation, gpu),
    ]
    if configuration.peers and configuration.resources.peer_placement is None and kind != "teacher":
        placement = "colocated" if configuration.colocated else "actors"
        lines.append(
            f"resources.peer_placement = {placement} (resources.workers = "
            f"{configuration.resources.workers})"
        )
    if retrieval and configuration.resources.retrieval == "auto":
        search = "approximate" if retrieval.startswith("approximate") else "exact"
        lines.append(
            f"resources.retrieval = {search} (approximate beyond {sizes.EXACT_SAMPLES} samples on "
            f"a CPU)"
        )
    if configuration.tracking.uri is None and kind != "teacher":
        lines.append("tracking.uri = SQLite in the store")
    return "; ".join(lines)


def _precisions(configuration: Configuration, kind: str, gpu: bool) -> list[str]:
    if kind != "teacher" and configuration.training.precision == "auto":
        keys = ["training.precision"]
    else:
        keys = []
    for key, teacher in configuration.named_teachers.items():
        keys += [f"{key}.training.precision"] if teacher.training.precision == "auto" else []
        keys += [f"{key}.precision"] if teacher.precision == "auto" else []
    value = "bfloat16 (where the GPU supports it, else float32)" if gpu else "float32 (no GPU)"
    return [f"{' = '.join(keys)} = {value}"] if keys else []


def _layout(configuration: Configuration, kind: str) -> list[str]:
    recipes = {}
    if kind != "teacher":
        recipes["training.channels_last"] = (
            configuration.training,
            [each.network for each in configuration.students.values()],
        )
    for key, teacher in configuration.named_teachers.items():
        recipes[f"{key}.training.channels_last"] = teacher.training, [teacher.network]
    return [
        f"{key} = {', '.join(dict.fromkeys(_describe_layout(recipe, each) for each in networks))}"
        for key, (recipe, networks) in recipes.items()
        if recipe.channels_last is None
    ]


def _describe_layout(recipe: Training, network: Network) -> str:
    return f"{'true' if channels_last(recipe, network) else 'false'} for {network.name}"


def _data(configuration: Configuration, augmentation: str, gpu: bool) -> list[str]:
    data, lines = configuration.data, []
    if data.views is None:
        vary = sizes.varies(configuration, augmentation)
        if vary:
            views = f"{sizes.views(configuration)} (one for each epoch)"
        else:
            views = "1 (images do not vary)"
        lines.append(f"data.views = {views}")
    if data.on_device is None and gpu:
        lines.append(
            "data.on_device = true (if the images take at most a quarter of the GPU's free memory)"
        )
    return lines
