"""Train one student with given settings."""

from pathlib import Path

from orchestrator.cli._options import cluster_address
from orchestrator.cli._run import start_run
from orchestrator.config.loader import load
from orchestrator.store.store import Store


def train(
    config: Path,
    pairs: list[str],
    store: Path | str,
    name: str | None,
    seed: int | None,
    dry_run: bool,
    local: bool,
    address: str | None = None,
) -> int:
    """Train one trial with the given settings; return the exit code."""
    return start_run(
        Store.open(store),
        load(config, pairs, cluster_address(address, local), seed=seed),
        "train",
        name,
        dry_run,
        local,
    )
