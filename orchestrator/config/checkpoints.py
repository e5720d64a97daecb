"""Count the checkpoints that a sweep keeps at a time."""

from orchestrator.config.schema import PAUSING, Search


def count_kept_checkpoints(search: Search, groups: int) -> tuple[int, str]:
    """Return the largest number of checkpoints at a time, and a description of their trials.

    The number includes the kept ones, and for each group its checkpoint and the one it is writing.
    It also includes that of a trial that has just ended.
    """
    if search.scheduler in PAUSING:
        return 3 * search.trials, "of every trial, with two snapshots each, until it ends"
    if search.objectives:
        return search.trials + groups, "of every trial: any may be on the Pareto front"
    kept = search.keep_checkpoints + 2 * groups + 1
    if kept < search.trials + groups:
        return kept, f"of the best {search.keep_checkpoints}, and of those in training"
    return search.trials + groups, "of every trial"
