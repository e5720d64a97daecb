"""Sampler without a state: draws depend only on seed, trial number, parameter and study.

The result does not depend on interruptions and resumes, even in the middle of a draw. Optuna's own
samplers draw from one stream of random numbers, whose position is lost when the process dies. They
do not avoid earlier settings either, except `BruteForceSampler`, which has no continuous parameters
and does not use earlier results.
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

from orchestrator.config.distinct import BranchDomains, allowed_values, has_untried_settings
from orchestrator.config.schema import Search

UNTRIED = 1  # separates the draw of a replacement from the draw of the value


class StatelessSampler(BaseSampler):
    """Sampler that rebuilds the configured one for each trial, and for each parameter drawn alone.

    Some branches of the `space` may have finitely many settings. A value that leads only to
    settings of earlier trials is then replaced by one that leads to new settings. Trials are drawn
    in the order of their numbers, so that this does not depend on when a trial ends.
    """

    def __init__(self, search: Search, seed: int, space: Sequence[BranchDomains] = ()) -> None:
        self.search, self.seed = search, seed
        self.space = space if any(None not in way.values() for way in space) else ()
        self.joint: BaseSampler = RandomSampler()
        # by number and name: the last joint draw
        self.joint_draws: dict[tuple[int, str], tuple[BaseDistribution, Any]] = {}

    def infer_relative_search_space(
        self, study: optuna.Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """Return the distributions that are drawn jointly."""
        self.joint = self._build_sampler(trial.number)
        return dict(self.joint.infer_relative_search_space(study, trial))

    def sample_relative(
        self, study: optuna.Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """Return jointly drawn values.

        Optuna calls it right after `infer_relative_search_space`.
        """
        drawn = dict(self.joint.sample_relative(study, trial, search_space))
        self.joint_draws = {
            (trial.number, name): (search_space[name], value) for name, value in drawn.items()
        }
        return {} if self.space else drawn  # `sample_independent` checks each of them

    def sample_independent(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Return the value of one parameter."""
        distribution, value = self.joint_draws.get((trial.number, param_name), (None, None))
        if not self.space or distribution != param_distribution:
            alone = self._build_sampler(trial.number, zlib.crc32(param_name.encode()))
            value = alone.sample_independent(study, trial, param_name, param_distribution)
        return self._replace_if_tried(study, trial, param_name, value) if self.space else value

    def _replace_if_tried(
        self, study: optuna.Study, trial: FrozenTrial, name: str, value: Any
    ) -> Any:
        """Return the value, or another one if all settings with it were tried.

        If all settings were tried, return the value.
        """
        tried = [
            other.params
            for other in study.get_trials(deepcopy=False)
            if other.number < trial.number
        ]
        if has_untried_settings(self.space, {**trial.params, name: value}, tried):
            return value
        draw = np.random.default_rng([self.seed, trial.number, zlib.crc32(name.encode()), UNTRIED])
        candidates = allowed_values(self.space, trial.params, name)
        for index in draw.permutation(len(candidates)):
            if has_untried_settings(self.space, {**trial.params, name: candidates[index]}, tried):
                return candidates[index]
        return value

    def after_trial(
        self,
        study: optuna.Study,
        trial: FrozenTrial,
        state: TrialState,
        values: Sequence[float] | None,
    ) -> None:
        """Do nothing: the sampler has no state."""

    def _build_sampler(self, *entropy: int) -> BaseSampler:
        seed = int(np.random.SeedSequence([self.seed, *entropy]).generate_state(1)[0])
        if self.search.sampler == "random":
            return RandomSampler(seed=seed)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return TPESampler(multivariate=True, group=True, constant_liar=True, seed=seed)
