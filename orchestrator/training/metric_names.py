"""Describe every metric and every figure of a trial."""

import re

STOPPED_EPOCH = "stopped_epoch"
WEIGHT_RANGE = 4.0  # bins of a weight histogram cover [0, this]; the last one counts all above, too
TEST_EPOCH, TEST_HIGHEST = "test/epoch/accuracy", "test/highest/accuracy"
# Metric -> unit and description; `*` stands for one part of a name.
QUALITY = {
    "accuracy": ("share", "samples with a correctly predicted class"),
    "worst_class_accuracy": ("share", "lowest accuracy of any class"),
    "class_gap": ("share", "highest minus lowest accuracy of the classes"),
    "nll": ("nats", "mean negative log-likelihood of the labels"),
    "ece": ("share", "expected calibration error over 15 bins (Guo et al. 2017)"),
    "entropy": ("nats", "mean entropy of the predicted distribution"),
    "agreement": ("share", "samples for which student and teacher predict the same class"),
}
METRICS: dict[str, tuple[str, str]] = {
    "train/loss": ("nats", "mean of the minimised objective"),
    "train/cross_entropy": ("nats", "mean cross entropy with the labels"),
    "train/distillation": (
        "nats",
        "mean soft term, with the factors given on the page of the method",
    ),
    "train/alpha": ("share", "mean weight of the soft term"),
    "train/cam": ("nats", "objective of AKD's Context-Aware Module"),
    "train/target": ("nats", "DKD: T^2 times TCKD, of the target class and the others"),
    "train/non_target": ("nats", "DKD: T^2 times NCKD, of the other classes among themselves"),
    "train/inter_class": ("", "DIST: 1 - mean correlation with the teacher over the classes"),
    "train/intra_class": ("", "DIST: 1 - mean correlation with the teacher over the samples"),
    "train/instance": ("nats", "MLKD: t^2 D, summed over the temperatures t"),
    "train/batch_level": ("", "MLKD: difference of the similarities between samples"),
    "train/class_level": ("", "MLKD: difference of the correlations between classes"),
    "train/picd": ("nats", "IC-KD: term of similar samples of the same class"),
    "train/nicd": ("nats", "IC-KD: contrastive term of similar samples of other classes"),
    "train/peer": ("nats", "divergence from the other students, unweighted"),
    "train/power_sum": ("", "WTTM: mean power sum of the teacher's distribution"),
    "train/uncertainty": ("share", "mean entropy of the teacher's distribution, divided by log K"),
    "train/weight": ("", "mean weight of the samples of a batch"),
    "train/learning_rate": ("", "learning rate at the end of the epoch"),
    "train/images_per_second": (
        "1/s",
        "training samples per second, excluding evaluation and reporting",
    ),
    **{f"validation/{name}": value for name, value in QUALITY.items()},
    **{f"test/best/{name}": value for name, value in QUALITY.items()},
    **{f"test/last/{name}": value for name, value in QUALITY.items()},
    TEST_EPOCH: (
        "share",
        "accuracy after this epoch (`tracking.test_each_epoch`); nothing is chosen by it",
    ),
    TEST_HIGHEST: (
        "share",
        "highest `test/epoch/accuracy`; the test part chose the epoch, so it is too high",
    ),
    "best_epoch": ("epochs", "epoch with the highest validation accuracy"),
    STOPPED_EPOCH: ("epochs", "epoch after which `training.patience` ended the trial"),
    "parameters": ("", "number of parameters of the student; the sum for several students"),
    "pair/agreement": ("share", "validation samples for which all students predict the same class"),
    "method/peer_weight": ("", "weight of the peer term"),
    "method/beta": ("", "ReviewKD: weight of the feature term in the epoch"),
    "method/warmup": ("share", "DKD: warm-up, the factor of the teacher's terms"),
    "method/retrieved_right": ("share", "retrieved samples with the requested label"),
    "method/target_entropy": (
        "nats",
        "mean entropy of the targets that are aggregated from retrieved samples",
    ),
    "method/own_entropy": ("nats", "mean entropy of the samples' own distributions in the bank"),
    "method/recall": ("share", "recall of the approximate retrieval"),
    "influence/weight_std": ("", "standard deviation of the current sample weights"),
    "influence/weight_noisy": (
        "",
        "mean weight of the samples with a wrong label (`data.label_noise`)",
    ),
    "influence/weight_clean": (
        "",
        "mean weight of the samples with a correct label (`data.label_noise`)",
    ),
    "influence/auc_noisy": ("", "area under the ROC curve for detecting wrong labels by influence"),
    "influence/labelled_loss": (
        "nats",
        "student's mean cross entropy on labelled training samples",
    ),
    "influence/weighed": ("samples", "samples that received a weight"),
    "influence/iterations": ("", "iterations of the solver"),
    "influence/residual": ("", "relative residual of the solver"),
    "influence/waited": ("s", "time that the trainer waits for weights"),
    "influence/seconds": ("s", "wall time of computing the weights"),
    "influence/cpu_seconds": ("s", "CPU time of computing the weights"),
    "influence/gpu_seconds": ("s", "wall time of computing the weights, on a GPU"),
    "influence/teacher_accuracy": ("share", "validation accuracy of the updated teacher"),
    "ensemble/accuracy": ("share", "validation accuracy of the averaged logits of the teachers"),
    "ensemble/weight_N": ("share", "mean weight of teacher N in the epoch, from 0"),
    "seconds/setup": ("s", "setup of data, networks and process groups, before the first epoch"),
    "seconds/teacher": ("s", "forward passes of the teacher, or reads of its cached outputs"),
    "seconds/retrieval": ("s", "retrieval of similar samples, before the first epoch"),
    "seconds/bank": ("s", "updates of the students' banks"),
    "seconds/influence": ("s", "copying snapshots and waiting for sample weights"),
    "seconds/teaching": ("s", "updates of the teacher by the method"),
    "seconds/data": ("s", "reading and augmenting batches"),
    "seconds/student": ("s", "training steps of the student"),
    "seconds/exchange": ("s", "waiting for the outputs of other students"),
    "seconds/evaluation": (
        "s",
        "evaluation on the validation part; in the last epoch also on the test part",
    ),
    "seconds/report": ("s", "waiting for checkpoint and report of the previous epoch"),
    "seconds/epoch": ("s", "total time of the epoch"),
    "seconds/total": ("s", "wall time of the trial so far, summed over its processes"),
    "seconds/cpu_total": ("s", "CPU time of the trial so far, summed over its processes"),
    "seconds/gpu_total": (
        "s",
        "wall time of the trial so far, summed over its processes with a GPU",
    ),
    "cache/hits": ("views", "views whose teacher outputs were in the cache"),
    "cache/misses": ("views", "views whose teacher outputs were computed"),
}
FIGURES: dict[str, str] = {
    "terms": "terms of the loss, and alpha, over the steps",
    "agreement": "share of validation samples with the same prediction by all students, per epoch",
    "alpha_per_sample": "distribution of alpha over the samples, per epoch",
    "uncertainty": "distribution of the teacher's normalised entropy, per epoch",
    "weights": "distribution of the sample weights, per epoch",
    "influence": "the most harmful and the most helpful training samples",
    "retrieved": "a few training samples with their retrieved neighbours",
    "class_accuracy": "validation accuracy of each class, per epoch",
    "class_weights": "weights of the teacher's classes (AKD's Context-Aware Module)",
    "distributions": "predicted distributions for a few validation samples",
}
LETTER = re.compile(r"^[a-h]/")
TEACHER = re.compile(r"(?<=^ensemble/weight_)\d$")


def is_described(name: str) -> bool:
    """Return whether the table describes a metric; those of student b are named `b/...`."""
    return TEACHER.sub("N", LETTER.sub("", name)) in METRICS
