"""Describe the students' gain from their teacher over plain training, on the test part."""

from methods import build_method
from orchestrator.config.trial import SEED, apply
from orchestrator.reporting.html._sweep_view import SweepView, measure
from orchestrator.reporting.statistics import difference
from orchestrator.store.records import Trial

PLAIN = "cross_entropy"
TESTED = "test/last/accuracy"


def teacher_gain(view: SweepView) -> str:
    """Return by how much the best method with a teacher is above plain training.

    If the same settings were trained with several seeds, it is the mean over these, with its 95 % t
    interval. The result is "" if one of the two was not trained.
    """
    best = [
        trial
        for trial in view.best_of_methods()
        if trial.state == "complete" and measure(trial, TESTED) is not None
    ]
    plain = next((trial for trial in best if view.method(trial) == PLAIN), None)
    distilled = next((trial for trial in best if _needs_teacher(view, trial)), None)
    if plain is None or distilled is None:
        return ""
    names = f"{view.method(distilled)} over {PLAIN}"
    if view.sweep.configuration.search.seeds:
        seeds = difference(_by_seed(view, distilled), _by_seed(view, plain))
    else:
        seeds = None
    if seeds is not None and seeds.low is not None and seeds.high is not None:
        verdict = "significant" if seeds.low > 0 or seeds.high < 0 else "not significant"
        return (
            f"{names}, test accuracy with the last weights, mean of {seeds.pairs} seeds: "
            f"{seeds.mean:+.4f}, 95 % interval [{seeds.low:+.4f}, {seeds.high:+.4f}]: {verdict}."
        )
    gain = (measure(distilled, TESTED) or 0.0) - (measure(plain, TESTED) or 0.0)
    return (
        f"{names}, test accuracy with the last weights: {gain:+.4f} (trial {distilled.number} with "
        f"{measure(distilled, TESTED):.4f}, trial "
        f"{plain.number} with {measure(plain, TESTED):.4f}). Each is one training: use "
        f"several seeds to test whether the difference is significant."
    )


def _needs_teacher(view: SweepView, trial: Trial) -> bool:
    method = apply(view.sweep.configuration, trial.settings).method
    needs = build_method(method.name, method.settings).needs
    return needs.teacher or needs.features


def _by_seed(view: SweepView, like: Trial) -> dict[int, float]:
    """Return the test accuracy, by seed, of the complete trials with the settings of a trial."""

    def without_seed(trial: Trial) -> dict[str, object]:
        return {name: value for name, value in trial.settings.items() if name != SEED}

    alike = [trial for trial in view.complete if without_seed(trial) == without_seed(like)]
    accuracies = {
        int(trial.settings[SEED]): measure(trial, TESTED)
        for trial in alike
        if SEED in trial.settings
    }
    return {seed: accuracy for seed, accuracy in accuracies.items() if accuracy is not None}
