"""Submit trials to a dispatcher, and read its next answer, which has the expected type."""

from pathlib import Path
from typing import Any

from orchestrator.cluster._dispatcher import Dispatcher
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import TrialSpec
from orchestrator.core.reports import EpochRecord, TrialFailure

LONG_S = 30.0  # never reached: the awaited report exists


def spec(name: str, **more: Any) -> TrialSpec:
    """Return the specification of a trial that is not trained."""
    folders: dict[str, Any] = {"folder": Path("folder"), "data": Path("data")}
    return TrialSpec(name=name, configuration=Configuration(), **folders, **more)


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
