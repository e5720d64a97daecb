"""Keep the teacher of a run after its data moved."""

import shutil
from pathlib import Path

from orchestrator.config.schema import Configuration
from orchestrator.core.errors import ConfigurationError
from orchestrator.data.dataset import Dataset, read_summary
from orchestrator.data.preprocessing import resolve_augmentation
from orchestrator.store.store import Store, replacing
from orchestrator.teacher import fit
from orchestrator.teacher.card import CARD, TEACHER


def carry_teacher_over(store: Store, sweep: Path, configuration: Configuration, data: Path) -> None:
    """Copy the teachers of a sweep to the fingerprints that they have with `data`.

    The data were prepared again from another path; the caller has verified that they are the same.
    A teacher is not copied if its fingerprint has not changed, if it was not fitted yet, or if its
    weights were given.

    Args:
        store: The store of the sweep.
        sweep: The folder of the sweep, which keeps a summary of its data.
        configuration: The configuration of the sweep, with the new path.
        data: The folder of the data as they are prepared now.
    """
    fitted = [
        single
        for single in configuration.of_each_teacher().values()
        if single.teacher and not single.teacher.network.weights
    ]
    try:
        before = read_summary(sweep).fingerprint if fitted else ""
    except (ConfigurationError, KeyError):
        return  # the sweep was interrupted before it wrote a summary
    for single in fitted:
        _carry_over(store, single, before, data)


def _carry_over(store: Store, configuration: Configuration, before: str, data: Path) -> None:
    dataset = Dataset.open(data)
    policy = resolve_augmentation(configuration.data, name=dataset.name)
    old, new = (
        store.teachers / fit.fingerprint(configuration, each, policy)
        for each in (before, dataset.fingerprint)
    )
    known = fit.card(old)
    if old == new or known is None or fit.card(new):
        return
    with replacing(new) as temporary:
        shutil.copytree(old, temporary)
        TEACHER.write(temporary / CARD, known | {"fingerprint": new.name})
