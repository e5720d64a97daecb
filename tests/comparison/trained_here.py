"""Run a sweep in this process, one trial after another, without Ray and MLflow."""

import json
from pathlib import Path
from typing import Any

from orchestrator.cluster.local_backend import LocalDispatcher
from orchestrator.config.schema import Configuration
from orchestrator.config.trial import Folders, TrialSpec
from orchestrator.core.context import TrialContext
from orchestrator.store.records import Sweep
from orchestrator.store.store import Store
from orchestrator.sweep._reconcile import reconcile
from orchestrator.sweep._study import open_study
from orchestrator.sweep._tune_search import StudySearch
from orchestrator.sweep.events import Events
from orchestrator.teacher.access import TeacherAccess
from orchestrator.teacher.acquire import acquire_teacher
from orchestrator.training._trainer import train

SHARED_GROUPS = ("a dispatcher that is not used", len)


class Here:
    """Replacement of `run_sweep` that interrupts the sweep `interrupted_in` after one trial."""

    def __init__(self, interrupted_in: str = "") -> None:
        self.interrupted_in = interrupted_in
        self.conducted: list[tuple[str, bool]] = []  # names of the sweeps, and their `resume` flags
        self.trained: list[str] = []

    def conduct(
        self,
        sweep: Sweep,
        store: Store,
        data: Path,
        teacher_access: TeacherAccess | None,
        show: Any,
        resume: bool = False,
        shared_groups: Any = None,
    ) -> None:
        """Run the sweep to its end or its interruption."""
        assert teacher_access is not None and shared_groups == SHARED_GROUPS
        self.conducted.append((sweep.name, resume))
        teacher, _, _ = acquire_teacher(
            store, sweep.configuration, data, LocalDispatcher(), show.teacher_epoch
        )
        folders = Folders(sweep.folder / "trials", data, teacher, teacher_access.folder)
        study = open_study(sweep.folder, sweep.configuration, resume)
        reconcile(study, sweep)
        unfinished = [trial for trial in sweep.trials.values() if not trial.ended]
        searcher = StudySearch(study, sweep.configuration, Events(sweep, []), unfinished)
        sweep.state = "interrupted"
        for _ in range(
            sweep.configuration.search.trials - sum(trial.ended for trial in sweep.trials.values())
        ):
            if sweep.name == self.interrupted_in and sweep.trials:
                self.interrupted_in = ""
                sweep.save()
                return
            self._train(searcher, folders)
            self.trained.append(sweep.name)
        sweep.state = "finished" if sweep.ranked() else "failed"
        sweep.save()

    @staticmethod
    def _train(searcher: StudySearch, folders: Folders) -> None:
        config = searcher.suggest("only")
        records: list[Any] = []
        if "configuration" not in config:
            searcher.on_trial_complete("only", {"failed": config["error"]})
            return
        configuration = Configuration.model_validate_json(config["configuration"])
        train(
            TrialSpec.numbered(config["number"], configuration, folders),
            TrialContext(report=records.append),
        )
        results = [
            {"epoch": record.epoch, "metrics": json.dumps(record.metrics)} for record in records
        ]
        for result in results[:-1]:
            searcher.on_trial_result("only", result)
        searcher.on_trial_complete("only", {**results[-1], "done": True})
