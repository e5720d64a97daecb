"""Test KD-AIF against KD, autograd and counts: losses, declared objective, time of weighting."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from methods import METHODS, Batch, Output, SettingsError
from methods.influence import Solution
from methods.influence_weighting import ESTIMATORS, InfluenceWeighting
from methods.kd_aif import KDAIF
from methods.sample_weighting import Part, StudentSurvey, SurveyedNetwork
from tests.refusal import refused

SAMPLES, CLASSES, FEATURES, HELD_OUT = 40, 4, 5, 24


def method(**settings: Any) -> KDAIF:
    return KDAIF(KDAIF.Settings.build(settings))


def batch(seed: int = 0, unlabelled: bool = False) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    student, teacher = (
        2 * torch.randn(SAMPLES, CLASSES, generator=generator, dtype=torch.float64)
        for _ in range(2)
    )
    labels = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    if unlabelled:
        labels[::3] = -1
    features = torch.randn(SAMPLES, FEATURES, generator=generator, dtype=torch.float64)
    weights = torch.rand(SAMPLES, generator=generator, dtype=torch.float64) + 0.1
    return Batch(
        torch.arange(SAMPLES),
        features,
        labels,
        Output(student.requires_grad_(), features),
        Output(teacher, features),
        weights=weights / weights.mean(),
    )


def survey(
    batch: Batch, weights: Tensor | None = None, before: dict[str, float] | None = None
) -> StudentSurvey:
    """Return a survey of the student with the batch as the whole training part."""
    generator = torch.Generator().manual_seed(9)
    student_logits = torch.randn(HELD_OUT, CLASSES, generator=generator, dtype=torch.float64)
    held_out = Part(
        student_logits,
        torch.randn(HELD_OUT, FEATURES, generator=generator, dtype=torch.float64),
        torch.arange(HELD_OUT) % CLASSES,
    )
    assert batch.teacher is not None
    return StudentSurvey(
        training=Part(batch.student.logits.detach(), batch.student.features, batch.labels),
        held_out=held_out,
        teacher=batch.teacher.logits,
        weights=torch.ones(SAMPLES) if weights is None else weights,
        rates=torch.ones(SAMPLES),
        network=SurveyedNetwork(
            {}, lambda parameters, inputs: inputs, lambda: iter(()), lambda: iter(())
        ),
        limit_bytes=2**20,
        seed=3,
        before=before or {},
    )


@pytest.mark.parametrize("unlabelled", [False, True])
def test_equal_weights_equal_kd(unlabelled: bool) -> None:
    seen = batch(unlabelled=unlabelled)
    ours = method(alpha=0.7, temperature=3.0)(
        replace(seen, weights=torch.ones(SAMPLES, dtype=torch.float64))
    )
    kind = METHODS["kd"]
    theirs = kind(kind.Settings.build({"alpha": 0.7, "temperature": 3.0}))
    theirs.train()
    reference = theirs(seen)
    torch.testing.assert_close(ours.loss, reference.loss)
    torch.testing.assert_close(ours.terms["cross_entropy"], reference.terms["cross_entropy"])
    torch.testing.assert_close(ours.terms["distillation"], reference.terms["distillation"])


def test_a_weight_multiplies_its_sample() -> None:
    seen = batch()
    whole = method(alpha=0.6, temperature=2.0)(seen).loss
    alone = torch.zeros((), dtype=torch.float64)
    for i in range(SAMPLES):
        z, v = seen.student.logits[i], seen.teacher_logits[i]
        p, q = (v / 2).softmax(0), (z / 2).softmax(0)
        divergence = (p * (p.log() - q.log())).sum()
        assert seen.weights is not None
        alone += (
            seen.weights[i]
            * (0.4 * -z.log_softmax(0)[seen.labels[i]] + 0.6 * 4 * divergence)
            / SAMPLES
        )
    torch.testing.assert_close(whole, alone)


def test_teacher_only_leaves_the_student_its_equal_weights() -> None:
    seen = batch()
    equal = replace(seen, weights=torch.ones(SAMPLES, dtype=torch.float64))
    torch.testing.assert_close(method(update="teacher_only")(seen).loss, method()(equal).loss)
    assert method(update="teacher_only").teacher_lr == method(update="both").teacher_lr == 0.01
    assert method().teacher_lr == method(update="ssl").teacher_lr == 0
    assert method(update="ssl", feedback=0.5, teacher_learning_rate=0.2).teacher_lr == 0.2


@pytest.mark.parametrize("unlabelled", [False, True])
@pytest.mark.parametrize(
    "settings",
    [
        {"alpha": 0.7, "temperature": 3.0},
        {"update": "ssl", "unlabelled_weight": 2.0},
        {"update": "ssl", "pseudo": "hard", "threshold": 0.6, "unlabelled_weight": 0.5},
    ],
    ids=["supervised", "soft", "hard"],
)
def test_weighted_objective_equals_the_loss(settings: dict[str, Any], unlabelled: bool) -> None:
    """The closed-form gradient of the weighted mean against autograd through a step's loss."""
    seen, tested = batch(unlabelled=unlabelled), method(**settings)
    assert seen.weights is not None
    objective, _, counted = tested.weighted_objective(survey(seen))
    weights = torch.where(counted, seen.weights, 1.0)
    (found,) = torch.autograd.grad(tested(replace(seen, weights=weights)).loss, seen.student.logits)
    closed = (
        weights[:, None] * objective.gradients(seen.student.logits.detach(), slice(None)) / SAMPLES
    )
    torch.testing.assert_close(closed, found)


def test_semi_supervised_weighs_the_unlabelled_alone() -> None:
    seen = batch(unlabelled=True)
    tested = method(update="ssl", temperature=2.0, unlabelled_weight=3.0)
    assert seen.weights is not None
    unlabelled = seen.labels == -1
    log_p, log_q = (
        each.div(2).log_softmax(1) for each in (seen.teacher_logits, seen.student.logits)
    )
    divergence = 4 * functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)
    weighed = (seen.weights * divergence)[unlabelled].mean()
    labelled = functional.cross_entropy(seen.student.logits[~unlabelled], seen.labels[~unlabelled])
    torch.testing.assert_close(tested(seen).loss, labelled + 3 * weighed)
    changed = torch.where(unlabelled, seen.weights, 100 * seen.weights)
    torch.testing.assert_close(tested(replace(seen, weights=changed)).loss, tested(seen).loss)


def test_hard_pseudo_labels_count_where_the_teacher_is_sure() -> None:
    seen = batch(unlabelled=True)
    sure, classes = seen.teacher_logits.softmax(1).max(1)
    unlabelled = seen.labels == -1
    used = unlabelled & (sure >= 0.6)
    assert 0 < used.sum() < unlabelled.sum()
    equal = torch.ones(SAMPLES, dtype=torch.float64)
    found = method(update="ssl", pseudo="hard", threshold=0.6)(replace(seen, weights=equal)).loss
    each = (
        functional.cross_entropy(seen.student.logits[used], classes[used], reduction="sum")
        / unlabelled.sum()
    )
    torch.testing.assert_close(
        found, each + functional.cross_entropy(seen.student.logits, seen.labels, ignore_index=-1)
    )


def test_the_teacher_learns_with_the_weights() -> None:
    seen = batch()
    assert seen.weights is not None
    each = functional.cross_entropy(seen.student.logits, seen.labels, reduction="none")
    torch.testing.assert_close(
        method(update="both").teacher_loss(seen, 0.3), (seen.weights * each).mean()
    )


@pytest.mark.parametrize("threshold", [0.0, 0.6])
def test_feedback_repeats_pseudo_labels_that_helped(threshold: float) -> None:
    """The teacher becomes surer of its prediction if the student improved, less sure otherwise."""
    seen = batch(unlabelled=True)
    sure, pseudo = seen.teacher_logits.softmax(1).max(1)
    unlabelled = (seen.labels == -1) & (sure >= threshold)
    tested = method(
        update="ssl",
        feedback=2.0,
        pseudo="hard" if threshold else "soft",
        threshold=threshold or 0.95,
    )
    for progress in (0.5, -0.5):
        loss = tested.teacher_loss(seen, progress)
        hard = functional.cross_entropy(seen.student.logits, seen.labels, ignore_index=-1)
        torch.testing.assert_close(
            loss,
            hard
            + 2
            * progress
            * functional.cross_entropy(seen.student.logits[unlabelled], pseudo[unlabelled]),
        )
        (slope,) = torch.autograd.grad(loss, seen.student.logits)
        assert (
            torch.sign(slope[unlabelled, pseudo[unlabelled]]) == -torch.sign(torch.tensor(progress))
        ).all()


@pytest.mark.parametrize(
    ("settings", "epochs", "due"),
    [
        ({"warmup": 0.25, "every": 2, "lag": 1}, 12, [3, 5, 7, 9]),
        ({"warmup": 0.25, "every": 2, "lag": 0}, 12, [3, 5, 7, 9, 11]),
        ({"warmup": 0.0, "every": 3, "lag": 3}, 12, [1, 4, 7]),
        ({"update": "static", "lag": 1}, 9, [4]),
        ({"update": "both", "every": 5}, 10, [2, 7]),
        ({"warmup": 0.5, "lag": 0}, 2, [1]),
    ],
)
def test_samples_are_weighed_while_an_epoch_is_left(
    settings: dict[str, Any], epochs: int, due: list[int]
) -> None:
    weighting_plan = method(**settings).weighting_plan(epochs)
    assert [epoch for epoch in range(epochs + 1) if weighting_plan.is_due(epoch)] == due
    assert weighting_plan.restarts_after == (due[0] if settings.get("update") == "static" else None)
    assert weighting_plan.lag == (
        0 if settings.get("update") == "static" else settings.get("lag", 1)
    )


@pytest.mark.parametrize(
    ("settings", "epochs"), [({"update": "static"}, 1), ({}, 1), ({"warmup": 1.0}, 20)]
)
def test_weights_that_would_never_come_are_refused(settings: dict[str, Any], epochs: int) -> None:
    with refused(
        "update",
        settings.get("update", "iterative"),
        "training.epochs of 2 or more",
        error=SettingsError,
    ):
        method(**settings).weighting_plan(epochs)


@pytest.mark.parametrize(("epochs", "lag"), [(2, 0), (3, 1), (4, 2), (9, 2)])
def test_a_lag_leaves_an_epoch_for_the_weights(epochs: int, lag: int) -> None:
    weighting_plan = method(warmup=0.1, lag=2).weighting_plan(epochs)
    assert (
        weighting_plan.lag == lag and weighting_plan.is_due(1) and not weighting_plan.is_due(epochs)
    )


def test_a_lag_beyond_the_next_weighing_is_refused() -> None:
    with refused("lag", 3, (0, 2), error=SettingsError):
        method(lag=3, every=2)


def appraisal(**settings: Any) -> InfluenceWeighting:
    return method(**settings).weighting_plan(20)


@pytest.mark.parametrize("by", ["influence", "loss", "random"])
@pytest.mark.parametrize("unlabelled", [False, True])
def test_weights_have_mean_one_and_keep_a_share_of_those_in_force(
    by: str, unlabelled: bool
) -> None:
    seen = batch(unlabelled=True)
    update = "ssl" if unlabelled else "iterative"
    counted = seen.labels == -1 if unlabelled else torch.ones(SAMPLES, dtype=torch.bool)
    in_force = torch.where(counted, torch.linspace(0.5, 1.5, SAMPLES), 1.0)
    in_force[counted] /= in_force[counted].mean()
    new = appraisal(update=update, weigh_by=by, momentum=0.0).weigh(survey(seen, in_force)).weights
    mixed = (
        appraisal(update=update, weigh_by=by, momentum=0.8).weigh(survey(seen, in_force)).weights
    )
    torch.testing.assert_close(mixed, (0.8 * in_force + 0.2 * new).float())
    assert new[counted].mean() == pytest.approx(1) and new.dtype == torch.float32
    assert (new[~counted] == 1).all() and new[counted].std() > 0.01
    static = appraisal(update="static", weigh_by=by, momentum=0.8)
    if not unlabelled:
        torch.testing.assert_close(static.weigh(survey(seen, in_force)).weights, new)


def test_random_weights_are_those_of_influence_shuffled() -> None:
    seen = batch()
    by = {
        name: appraisal(weigh_by=name, momentum=0.0).weigh(survey(seen))
        for name in ("influence", "random")
    }
    torch.testing.assert_close(
        by["influence"].weights.sort().values, by["random"].weights.sort().values
    )
    assert (by["influence"].weights != by["random"].weights).float().mean() > 0.5
    again = appraisal(weigh_by="random", momentum=0.0).weigh(survey(seen))
    torch.testing.assert_close(again.weights, by["random"].weights)


def test_weights_by_loss_fall_with_the_loss() -> None:
    seen = batch()
    weighed = appraisal(weigh_by="loss", momentum=0.0, clip=0.0).weigh(survey(seen))
    each = functional.cross_entropy(seen.student.logits, seen.labels, reduction="none").detach()
    assert (weighed.weights[each.argsort()].diff() <= 0).all()
    assert weighed.weights[each.argmax()] < weighed.weights[each.argmin()]


def test_influence_lowers_the_loss_of_the_clean_samples() -> None:
    """A step on the weighted objective from its stationary point lowers the held-out loss.

    This fixes the sign of phi.
    """
    generator = torch.Generator().manual_seed(4)
    features = torch.randn(200, FEATURES, generator=generator, dtype=torch.float64)
    truth = torch.randn(FEATURES + 1, CLASSES, generator=generator, dtype=torch.float64)
    padded = functional.pad(features, (0, 1), value=1.0)
    labels = (2 * padded @ truth).argmax(1)
    noisy = labels.clone()
    noisy[:40] = (noisy[:40] + 1) % CLASSES
    layer = torch.zeros(FEATURES + 1, CLASSES, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([layer], max_iter=200, tolerance_grad=1e-10)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = (
            functional.cross_entropy(padded[:120] @ layer, noisy[:120])
            + 0.005 * layer.square().sum()
        )
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    student_logits = (padded @ layer).detach()
    network = SurveyedNetwork(
        {}, lambda parameters, inputs: inputs, lambda: iter(()), lambda: iter(())
    )
    parts = (
        Part(student_logits[:120], features[:120], noisy[:120]),
        Part(student_logits[120:], features[120:], labels[120:]),
    )
    seen = StudentSurvey(
        *parts, student_logits[:120], torch.ones(120), torch.ones(120), network, 2**20, 0
    )
    weights = appraisal(alpha=0.0, momentum=0.0).weigh(seen).weights
    assert weights[:40].mean() < 0.8 * weights[40:].mean()
    released = appraisal(alpha=0.0, momentum=0.0, sign="released").weigh(seen).weights
    assert released[:40].mean() > released[40:].mean()

    def after(weights: Tensor) -> float:
        (slope,) = torch.autograd.grad(
            (
                weights
                * functional.cross_entropy(padded[:120] @ layer, noisy[:120], reduction="none")
            ).mean(),
            layer,
        )
        stepped = layer.detach() - 0.5 * (slope + 0.01 * layer.detach())
        return float(functional.cross_entropy(padded[120:] @ stepped, labels[120:]))

    assert (
        after(weights.double())
        < after(torch.ones(120, dtype=torch.float64))
        < after(released.double())
    )


def test_all_alike_is_a_baseline_too() -> None:
    seen = batch()
    weighed = appraisal(weigh_by="none", momentum=0.0).weigh(
        survey(seen, torch.linspace(0.5, 1.5, SAMPLES))
    )
    assert (weighed.weights == 1).all() and weighed.scores.isnan().all() and not weighed.notes


def test_unlabelled_sample_is_scored_by_its_excess_loss() -> None:
    seen = batch(unlabelled=True)
    unlabelled = seen.labels == -1
    scores = (
        appraisal(update="ssl", weigh_by="loss", temperature=2.0)
        .weigh(survey(seen))
        .scores[unlabelled]
    )
    log_p, log_q = (
        each.detach().div(2).log_softmax(1) for each in (seen.teacher_logits, seen.student.logits)
    )
    divergence = functional.kl_div(log_q, log_p, reduction="none", log_target=True).sum(1)[
        unlabelled
    ]
    torch.testing.assert_close(
        scores / scores.std(), ((divergence - divergence.mean()) / divergence.std()).float()
    )


def test_weights_of_hard_pseudo_labels_have_mean_one_over_those_that_are_used() -> None:
    seen = batch(unlabelled=True)
    used = (seen.labels == -1) & (seen.teacher_logits.softmax(1).max(1).values >= 0.6)
    weighed = appraisal(update="ssl", pseudo="hard", threshold=0.6, momentum=0.0).weigh(
        survey(seen)
    )
    assert weighed.weights[used].mean() == pytest.approx(1) and (weighed.weights[~used] == 1).all()
    assert weighed.tracked["weighed"] == used.sum() and weighed.scores[~used].isnan().all()


def test_teacher_below_threshold_gives_a_note() -> None:
    weighed = appraisal(update="ssl", pseudo="hard", threshold=1.0).weigh(
        survey(batch(unlabelled=True))
    )
    assert (weighed.weights == 1).all() and "no samples are weighted" in weighed.notes[0]


def test_unconverged_influence_gives_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(
        ESTIMATORS, "last_layer", lambda problem, gradient, damping: Solution(gradient, 7, 0.3)
    )
    (note,) = appraisal().weigh(survey(batch())).notes
    assert "residual is 0.3 after 7 iterations; raise method.damping" in note


def test_samples_that_are_drawn_more_often_have_more_of_the_objective() -> None:
    """The mean of the batches' losses in an epoch with every labelled sample three times."""
    seen, tested = batch(unlabelled=True), method(alpha=0.7, temperature=3.0)
    labelled = (seen.labels != -1).nonzero().flatten()
    index = torch.cat([torch.arange(SAMPLES), labelled, labelled])
    assert seen.teacher is not None and seen.weights is not None
    epoch = replace(
        seen,
        index=index,
        labels=seen.labels[index],
        student=Output(seen.student.logits[index], seen.student.features[index]),
        teacher=Output(seen.teacher.logits[index], seen.teacher.features[index]),
        weights=seen.weights[index],
    )
    rates = torch.where(seen.labels != -1, 3.0, 1.0).double()
    rates /= rates.mean()
    objective, weights, _ = tested.weighted_objective(
        replace(survey(seen, seen.weights), rates=rates)
    )
    (found,) = torch.autograd.grad(tested(epoch).loss, seen.student.logits)
    closed = (
        weights[:, None] * objective.gradients(seen.student.logits.detach(), slice(None)) / SAMPLES
    )
    torch.testing.assert_close(closed, found)
    mean = appraisal().weigh(replace(survey(seen), rates=rates)).weights
    assert float((rates * mean).sum() / rates.sum()) == pytest.approx(1)


def test_the_student_of_a_teacher_that_is_weighed_has_equal_weights() -> None:
    seen = survey(batch(), torch.linspace(0.5, 1.5, SAMPLES))
    assert (method(update="teacher_only").weighted_objective(seen).weights == 1).all()
    assert method(update="both").weighted_objective(seen).weights is seen.weights


def test_few_clean_samples_are_few() -> None:
    seen = survey(batch())
    few = appraisal(clean_samples=8)._clean_part(seen)
    assert (few.labels != -1).sum() == 8 and (
        (few.labels == -1) | (few.labels == seen.held_out.labels)
    ).all()
    assert appraisal(clean_samples=0)._clean_part(seen) is seen.held_out
    assert appraisal(clean_samples=HELD_OUT)._clean_part(seen) is seen.held_out


def test_progress_is_the_fall_of_the_loss_on_labels() -> None:
    seen = batch()
    loss = float(functional.cross_entropy(seen.student.logits.detach(), seen.labels))
    first = appraisal().weigh(survey(seen))
    assert first.noted == pytest.approx({"labelled_loss": loss, "progress": 0.0})
    second = appraisal().weigh(survey(seen, before={"labelled_loss": loss + 0.25}))
    assert second.noted["progress"] == pytest.approx(0.25)
