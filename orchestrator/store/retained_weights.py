"""Find the trials whose weights a sweep keeps."""

from orchestrator.store.records import Sweep, Trial


def trials_with_weights(sweep: Sweep) -> set[int]:
    """Return the numbers of the trials whose weights are kept.

    These are the best trials, the Pareto front, the unfinished trials, and the sources of pending
    weight transfers. May be called from any thread.
    """
    trials, search = list(sweep.trials.values()), sweep.configuration.search
    best = sweep.ranked()[: search.keep_checkpoints]
    front = sweep.front() if search.objectives else []
    return {
        trial.number for trial in (*best, *front, *(trial for trial in trials if not trial.ended))
    } | _donors(trials)


def _donors(trials: list[Trial]) -> set[int]:
    """Return the source trials of weight transfers that are not completed."""
    unfinished = [trial for trial in trials if trial.changes and not trial.ended]
    return {
        trial.changes[-1]["source"]
        for trial in unfinished
        if trial.changes[-1]["epoch"] >= trial.epochs
    }
