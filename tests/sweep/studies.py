"""Open a sweep with its study and its searcher, new or resumed, without Ray."""

from pathlib import Path

from orchestrator.config.loader import load
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep._reconcile import reconcile
from orchestrator.sweep._study import open_study
from orchestrator.sweep._tune_search import StudySearch
from orchestrator.sweep.events import Events


def begin(folder: Path, *pairs: str) -> tuple[Sweep, StudySearch]:
    """Return a new KD sweep and its searcher."""
    configuration = load(None, ["method.name=kd", *pairs])
    sweep = Sweep.create(Store.open(folder).sweep("mine"), configuration, "sweep")
    study = open_study(sweep.folder, configuration, resume=False)
    return sweep, StudySearch(study, configuration, Events(sweep, []), [])


def resumed(sweep: Sweep) -> tuple[Sweep, StudySearch]:
    """Return the sweep and its searcher as another process opens them."""
    found = Sweep.open(Store(sweep.folder.parent.parent), sweep.name)
    study = open_study(found.folder, found.configuration, resume=True)
    reconcile(study, found)
    unfinished = [trial for trial in found.trials.values() if not trial.ended]
    return found, StudySearch(study, found.configuration, Events(found, []), unfinished)
