"""Explain the values of settings that were left to the program (`auto` or null).

Augmentation, cache and groups have their own lines.
"""

from orchestrator.config import sizes
from orchestrator.config.schema import Configuration, Network, Training
from orchestrator.training.process_cache import channels_last


def explain_automatic(
    configuration: Configuration, kind: str, augmentation: str, gpu: bool, retrieval: str
) -> str:
    """Return `key = value (reason)` for each of these settings, separated by semicolons.

    Args:
        configuration: Of a run of `kind` sweep, train or teacher.
        kind: A teacher has no students.
        augmentation: The policy that applies.
        gpu: Whether the first worker of a group has a GPU.
        retrieval: The plan's line on it; empty where no method retrieves similar samples.
    """
    chosen = [
        *_precisions(configuration, kind, gpu),
        *_layout(configuration, kind),
        *_data(configuration, augmentation, gpu),
    ]
    if configuration.peers and configuration.resources.peer_placement is None and kind != "teacher":
        form = "colocated" if configuration.colocated else "actors"
        chosen.append(
            f"resources.peer_placement = {form} (resources.workers = "
            f"{configuration.resources.workers})"
        )
    if retrieval and configuration.resources.retrieval == "auto":
        how = "approximate" if retrieval.startswith("approximate") else "exact"
        chosen.append(
            f"resources.retrieval = {how} (approximate beyond {sizes.EXACT_SAMPLES} samples on "
            f"a CPU)"
        )
    if configuration.tracking.uri is None and kind != "teacher":
        chosen.append("tracking.uri = SQLite in the store")
    return "; ".join(chosen)


def _precisions(configuration: Configuration, kind: str, gpu: bool) -> list[str]:
    left = (
        ["training.precision"]
        if kind != "teacher" and configuration.training.precision == "auto"
        else []
    )
    if configuration.teacher:
        left += (
            ["teacher.training.precision"]
            if configuration.teacher.training.precision == "auto"
            else []
        )
        left += ["teacher.precision"] if configuration.teacher.precision == "auto" else []
    value = "bfloat16 (where the GPU supports it, else float32)" if gpu else "float32 (no GPU)"
    return [f"{' = '.join(left)} = {value}"] if left else []


def _layout(configuration: Configuration, kind: str) -> list[str]:
    teacher, found = configuration.teacher, {}
    if kind != "teacher":
        found["training.channels_last"] = (
            configuration.training,
            [each.network for each in configuration.students.values()],
        )
    if teacher:
        found["teacher.training.channels_last"] = teacher.training, [teacher.network]
    return [
        f"{key} = {', '.join(dict.fromkeys(_layout_of(recipe, network) for network in networks))}"
        for key, (recipe, networks) in found.items()
        if recipe.channels_last is None
    ]


def _layout_of(recipe: Training, network: Network) -> str:
    return f"{'true' if channels_last(recipe, network) else 'false'} for {network.name}"


def _data(configuration: Configuration, augmentation: str, gpu: bool) -> list[str]:
    data, found = configuration.data, []
    if data.views is None:
        vary = sizes.varies(configuration, augmentation)
        views = (
            f"{sizes.views(configuration)} (one for each epoch)"
            if vary
            else "1 (images do not vary)"
        )
        found.append(f"data.views = {views}")
    if data.on_device is None and gpu:
        found.append(
            "data.on_device = true (where the images take a quarter of the GPU's free memory "
            "at most)"
        )
    return found
