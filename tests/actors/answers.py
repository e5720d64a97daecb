"""Read the next answer of a dispatcher, which has the expected type."""

from orchestrator.cluster._dispatcher import Dispatcher
from orchestrator.core.reports import EpochRecord, TrialFailure

LONG_S = 30.0  # never reached: the awaited report exists


async def next_record(dispatcher: Dispatcher, name: str = "a") -> EpochRecord:
    """Return the next record of a trial."""
    answer = await dispatcher.next_report(name, LONG_S)
    assert isinstance(answer, EpochRecord), answer
    return answer


async def next_failure(dispatcher: Dispatcher, name: str = "a") -> TrialFailure:
    """Return the failure of a trial."""
    answer = await dispatcher.next_report(name, LONG_S)
    assert isinstance(answer, TrialFailure), answer
    return answer
