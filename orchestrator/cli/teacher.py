"""Fit, load or precompute the teacher."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orchestrator.cli._options import cluster_address
from orchestrator.cli._run import console, print_note
from orchestrator.config.loader import load
from orchestrator.config.renamed import refuse_renamed
from orchestrator.config.schema import Configuration
from orchestrator.core import errors
from orchestrator.core.errors import ConfigurationError
from orchestrator.reporting.terminal.lines import print_line
from orchestrator.store.store import Store
from orchestrator.sweep.runs import ray_in_background


def teacher(
    config: Path,
    pairs: list[str],
    store: Path | str,
    seed: int | None,
    precompute: bool,
    local: bool,
    dry_run: bool,
    address: str | None = None,
    fill: bool = False,
) -> int:
    """Fit the teacher, or load and check a given one; return the exit code.

    Args:
        config: Configuration file.
        pairs: `KEY=VALUE` settings of `--set`.
        store: Folder or URI of the store.
        seed: Seed of the run.
        precompute: Fill the teacher's cache afterwards.
        local: Compute in this process, without Ray.
        dry_run: Show the plan and stop.
        address: Address of a running cluster.
        fill: Former name of `precompute`, which is refused with the new name.

    Raises:
        ConfigurationError: The configuration has no teacher, or `precompute` is given for a teacher
            without a cache.
    """
    if fill:
        refuse_renamed("--fill", fill)
    opened = Store.open(store)
    configuration = load(config, pairs, cluster_address(address, local), seed=seed)
    if not configuration.named_teachers:
        raise ConfigurationError(
            "teacher is null: set teacher.network.name, or choose another --config"
        ).with_details("teacher", None, "teacher.network.name")
    if dry_run:
        from orchestrator.sweep.preflight.preflight import show_plan

        show_plan(opened, configuration, "teacher", local, console)
        return errors.OK
    with ray_in_background(configuration, local):
        _prepare_and_print(opened, configuration, precompute, local)
    return errors.OK


def _prepare_and_print(
    store: Store, configuration: Configuration, precompute: bool, local: bool
) -> None:
    """Check the run, fit or load all teachers, precompute outputs on request, and print them."""
    from orchestrator.reporting.terminal.teacher import TeacherDisplay
    from orchestrator.sweep.preflight.preflight import prepare_run
    from orchestrator.sweep.teacher_run import prepare_teacher

    prepared = prepare_run(store, configuration, "teacher", local, print_note)
    if precompute and prepared.teacher_access and not prepared.teacher_access.folder:
        raise ConfigurationError(
            f"--precompute: the teacher is {prepared.teacher_access.words}: "
            f"{_cache_advice(configuration)}"
        ).with_details("--precompute", True, _cache_advice(configuration))
    with TeacherDisplay(console) as display:
        precompute_display = display if precompute else None
        teachers = prepare_teacher(
            store,
            prepared.configuration,
            prepared.data,
            display,
            local,
            prepared.teacher_access,
            precompute_display,
        )
        if precompute:
            display.end()
    for teacher in teachers:
        _print_card(teacher.card, teacher.folder, teacher.seconds)


def _print_card(card: Mapping[str, Any], folder: Path, cost_s: float) -> None:
    name = card["network"]["name"]
    print_line(console, f"teacher {name} on {card['data']}: {folder} ({cost_s:.1f} s)")
    for key in ("validation/accuracy", "test/last/accuracy"):
        if key in card["metrics"]:
            console.print(f"  {key} {card['metrics'][key]:.4f}", highlight=False)


def _cache_advice(configuration: Configuration) -> str:
    key, teacher = next(iter(configuration.named_teachers.items()))
    if teacher.mode == "online":
        return f"set {key}.mode=cached"
    return f"raise {key}.cache_gib, lower data.views, or name another folder with {key}.cache"
