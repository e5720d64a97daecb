"""Open the Optuna study of a sweep."""

from pathlib import Path

import optuna
from optuna.storages import JournalStorage

from orchestrator.config.distinct import list_branch_domains
from orchestrator.config.objectives import goals
from orchestrator.config.schema import Configuration, Search
from orchestrator.config.search_space import list_initial_points
from orchestrator.core.errors import ConfigurationError
from orchestrator.store.study_file import (
    JOURNAL,
    StudyFile,
    convert_damage_errors,
    load_valid_trials,
    repair,
)
from orchestrator.sweep._stateless_sampler import StatelessSampler


def open_study(folder: Path, configuration: Configuration, resume: bool) -> optuna.Study:
    """Open or create the study in the sweep's folder.

    The study has the folder's name. Its first trials are the initial points of its spaces. Only the
    process that holds the sweep's lock may call this function.

    Raises:
        ConfigurationError: The study is damaged, or has other objectives or directions.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    search, file = configuration.search, folder / JOURNAL
    repair(file)
    journal = StudyFile(str(file))
    sampler = StatelessSampler(
        search,
        configuration.seed,
        () if search.configurations else list_branch_domains(configuration),
    )
    with convert_damage_errors(journal, file):
        storage = JournalStorage(journal)
        if resume and folder.name in optuna.get_all_study_names(storage):
            study = optuna.load_study(study_name=folder.name, storage=storage, sampler=sampler)
            _require_directions(study, search)
        else:
            directions = [goal.direction for goal in goals(search)]
            study = optuna.create_study(
                study_name=folder.name, storage=storage, sampler=sampler, directions=directions
            )
        load_valid_trials(study)
    for point in list_initial_points(configuration)[
        len(study.get_trials(deepcopy=False)) : search.trials
    ]:
        # the first trials are the points, also when the driver died in between
        study.enqueue_trial(point)
    return study


def _require_directions(study: optuna.Study, search: Search) -> None:
    study_directions = [direction.name.lower() for direction in study.directions]
    if study_directions == [goal.direction for goal in goals(search)]:
        return
    if search.objectives or len(study_directions) > 1:
        requested = list(search.objectives) or search.objective
        raise ConfigurationError(
            f"search.objectives = {requested} does not match the study of "
            f"{study.study_name!r}, which has the directions {', '.join(study_directions)}: "
            f"restore its objectives, or start another sweep under a new --name"
        ).with_details("search.objectives", requested, tuple(study_directions))
    raise ConfigurationError(
        f"search.direction = {search.direction!r} does not match the study of "
        f"{study.study_name!r}, which has the direction {study_directions[0]}: restore it, or "
        f"start another sweep under a new --name"
    ).with_details("search.direction", search.direction, tuple(study_directions))
