"""A sampler that forgets: what it draws follows from the seed, the trial's number, the parameter, and what the study knows.

So it does not matter how often the search was ended and gone on with, nor whether a trial was asked about in one go. Optuna's own
samplers draw from one stream of random numbers, of which nobody knows after a death how far it had come.
"""

import warnings
import zlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial, TrialState

from orchestrator.config import Search


class ForgetfulSampler(BaseSampler):
    """Makes the configured sampler anew for every trial, and for every parameter that is drawn on its own."""

    def __init__(self, search: Search, seed: int) -> None:
        self.search, self.seed = search, seed
        self.joint: BaseSampler = RandomSampler()

    def infer_relative_search_space(self, study: optuna.Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        """What is drawn together."""
        self.joint = self._made(trial.number)
        return dict(self.joint.infer_relative_search_space(study, trial))

    def sample_relative(self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]) -> dict[str, Any]:
        """Values of what is drawn together; Optuna calls it right after `infer_relative_search_space`."""
        return dict(self.joint.sample_relative(study, trial, search_space))

    def sample_independent(
        self, study: optuna.Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        """The value of one parameter."""
        alone = self._made(trial.number, zlib.crc32(param_name.encode()))
        return alone.sample_independent(study, trial, param_name, param_distribution)

    def after_trial(self, study: optuna.Study, trial: FrozenTrial, state: TrialState, values: Sequence[float] | None) -> None:
        """Nothing is remembered."""

    def _made(self, *of: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self.seed, *of]).generate_state(1)[0])
        if self.search.sampler == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
