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
    """Return the only new record of a trial."""
    (record,) = await next_records(dispatcher, name)
    return record


async def next_records(dispatcher: Dispatcher, name: str = "a") -> list[EpochRecord]:
    """Return the new records of a trial."""
    answer = await dispatcher.next_reports(name, LONG_S)
    assert isinstance(answer, tuple), answer
    records = [report for report in answer if isinstance(report, EpochRecord)]
    assert len(records) == len(answer), answer
    return records


async def next_failure(dispatcher: Dispatcher, name: str = "a") -> TrialFailure:
    """Return the failure of a trial."""
    answer = await dispatcher.next_reports(name, LONG_S)
    assert isinstance(answer, tuple), answer
    (failure,) = answer
    assert isinstance(failure, TrialFailure), answer
    return failure
