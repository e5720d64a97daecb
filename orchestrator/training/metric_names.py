"""Describe every metric and every figure of a trial."""

import re

# Metric -> unit and description; `*` stands for one part of a name.
QUALITY = {
    "accuracy": ("share", "samples whose predicted class is the label"),
    "worst_class_accuracy": ("share", "accuracy of the class with the lowest one"),
    "class_gap": ("share", "accuracy of the best class minus that of the worst"),
    "nll": ("nats", "mean negative log-likelihood of the labels"),
    "ece": ("share", "expected calibration error over 15 bins (Guo et al. 2017)"),
    "entropy": ("nats", "mean entropy of the predicted distribution"),
    "agreement": ("share", "samples whose predicted class is the teacher's"),
}
METRICS: dict[str, tuple[str, str]] = {
    "train/loss": ("nats", "mean of the minimised objective"),
    "train/cross_entropy": ("nats", "mean cross entropy with the labels"),
    "train/distillation": ("nats", "mean soft term; factors as the method's page states"),
    "train/alpha": ("share", "mean weight of the soft term"),
    "train/cam": ("nats", "objective of AKD's Context-Aware Module"),
    "train/picd": ("nats", "IC-KD: term of similar samples of the same class"),
    "train/nicd": ("nats", "IC-KD: contrast with similar samples of other classes"),
    "train/peer": ("nats", "divergence from the other students, before its weight"),
    "train/power_sum": ("", "WTTM: mean power sum of the teacher's distribution"),
    "train/uncertainty": ("share", "mean entropy of the teacher over log K"),
    "train/weight": ("", "mean weight of the samples of a batch"),
    "train/learning_rate": ("", "learning rate at the end of the epoch"),
    "train/images_per_second": (
        "1/s",
        "training samples per second, without evaluation and report",
    ),
    **{f"validation/{name}": value for name, value in QUALITY.items()},
    **{f"test/best/{name}": value for name, value in QUALITY.items()},
    **{f"test/last/{name}": value for name, value in QUALITY.items()},
    "best_epoch": ("epochs", "epoch with the highest validation accuracy"),
    "parameters": ("", "number of parameters of the student; of several students the sum"),
    "pair/agreement": (
        "share",
        "validation samples on which all students of a trial predict the same class",
    ),
    "method/peer_weight": ("", "weight of the term of the other students"),
    "method/retrieved_right": ("share", "retrieved samples whose label is the one sought"),
    "method/target_entropy": ("nats", "mean entropy of the targets made of retrieved samples"),
    "method/own_entropy": ("nats", "mean entropy of the samples' own outputs in the bank"),
    "method/recall": ("share", "recall of the approximate retrieval"),
    "influence/weight_std": ("", "standard deviation of the sample weights in force"),
    "influence/weight_noisy": (
        "",
        "mean weight of the samples with a wrong label (`data.label_noise`)",
    ),
    "influence/weight_clean": (
        "",
        "mean weight of the samples with a right label (`data.label_noise`)",
    ),
    "influence/auc_noisy": ("", "area under the ROC curve of wrong labels by influence"),
    "influence/labelled_loss": (
        "nats",
        "student's mean cross entropy on labelled training samples",
    ),
    "influence/weighed": ("samples", "samples that received a weight"),
    "influence/iterations": ("", "iterations of the solver"),
    "influence/residual": ("", "relative residual of the solver"),
    "influence/waited": ("s", "wait of the trainer for weights"),
    "influence/seconds": ("s", "wall time of computing the weights"),
    "influence/cpu_seconds": ("s", "CPU time of computing the weights"),
    "influence/gpu_seconds": ("s", "wall time of computing the weights on a GPU"),
    "influence/teacher_accuracy": (
        "share",
        "validation accuracy of a teacher that the method updates",
    ),
    "seconds/setup": ("s", "data, networks and process groups, before the first epoch"),
    "seconds/teacher": ("s", "teacher: forward passes, or reads of the cache"),
    "seconds/retrieval": ("s", "retrieval of similar samples, before the first epoch"),
    "seconds/bank": ("s", "updates of a bank that students fill"),
    "seconds/influence": ("s", "copies and waits for sample weights"),
    "seconds/teaching": ("s", "updates of the teacher by the method"),
    "seconds/data": ("s", "reading and augmenting batches"),
    "seconds/student": ("s", "steps of the student"),
    "seconds/exchange": ("s", "wait for the outputs of other students"),
    "seconds/evaluation": (
        "s",
        "evaluation on the validation part, and on the test part at the end",
    ),
    "seconds/report": ("s", "checkpoint and report of the epoch before"),
    "seconds/epoch": ("s", "whole epoch"),
    "seconds/total": ("s", "wall time of the trial so far, summed over its processes"),
    "seconds/cpu_total": ("s", "CPU time of the trial so far, summed over its processes"),
    "seconds/gpu_total": ("s", "wall time of the processes that have a GPU"),
    "cache/hits": ("views", "views whose teacher outputs were in the cache"),
    "cache/misses": ("views", "views whose teacher outputs were computed"),
}
FIGURES: dict[str, str] = {
    "terms": "terms of the loss, and alpha, over the steps",
    "agreement": "share of the validation samples on which all students agree, per epoch",
    "alpha_per_sample": "distribution of alpha over the samples, per epoch",
    "uncertainty": "distribution of the teacher's normalised entropy, per epoch",
    "weights": "distribution of the sample weights, per epoch",
    "influence": "the most harmful and the most helpful training samples",
    "retrieved": "a few samples with what was retrieved for them",
    "class_accuracy": "validation accuracy of each class, per epoch",
    "class_weights": "factors of the teacher's classes (AKD's Context-Aware Module)",
    "distributions": "predicted distributions of a few samples",
}
LETTER = re.compile(r"^[a-h]/")


def is_described(name: str) -> bool:
    """Return whether the table has a metric; the metrics of student b are `b/...`."""
    return LETTER.sub("", name) in METRICS
