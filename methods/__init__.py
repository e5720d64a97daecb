"""List the distillation methods and export their contract."""

from collections.abc import Mapping
from typing import Any

from methods.akd import AKD
from methods.attention_transfer import AttentionTransfer
from methods.batch import Batch, Mix, Output
from methods.capabilities import LookAhead, check_capabilities
from methods.crd import CRD
from methods.cross_entropy import CrossEntropy
from methods.dist import DIST
from methods.dkd import DKD
from methods.dml import DML
from methods.dual_student import DualStudent
from methods.fitnet import FitNet
from methods.ic_kd import ICKD
from methods.kd import KD
from methods.kd_aif import KDAIF
from methods.method import Knowledge, Method, Needs, Objective, ParameterGroup, Progress, Task
from methods.mlkd import MLKD
from methods.review_kd import ReviewKD
from methods.settings import (
    Settings,
    SettingsError,
    allowed_values,
    describe_allowed,
    format_default,
    is_allowed,
    list_choices,
)
from methods.tf_kd import TfKD
from methods.ttm import TTM, WTTM

METHODS: dict[str, type[Method]] = {
    "cross_entropy": CrossEntropy,
    "kd": KD,
    "ttm": TTM,
    "wttm": WTTM,
    "akd": AKD,
    "dml": DML,
    "dual_student": DualStudent,
    "kd_aif": KDAIF,
    "ic_kd": ICKD,
    "tf_kd": TfKD,
    "fitnet": FitNet,
    "attention_transfer": AttentionTransfer,
    "crd": CRD,
    "review_kd": ReviewKD,
    "dkd": DKD,
    "dist": DIST,
    "mlkd": MLKD,
}


def build_method(name: str, settings: Mapping[str, Any]) -> Method:
    """Build the method `name` with `settings`; other settings keep their defaults.

    Args:
        name: A key of `METHODS`.
        settings: Plain values by setting name.

    Raises:
        SettingsError: A setting is unknown or its value is not allowed.
        TypeError: The method implements a part of a capability.
    """
    kind = METHODS[name]
    check_capabilities(kind)  # type: ignore[arg-type]  # classes are hashable
    return kind(kind.Settings.build(settings))


__all__ = [
    "AKD",
    "CRD",
    "DIST",
    "DKD",
    "DML",
    "ICKD",
    "KD",
    "KDAIF",
    "METHODS",
    "MLKD",
    "TTM",
    "WTTM",
    "AttentionTransfer",
    "Batch",
    "CrossEntropy",
    "DualStudent",
    "FitNet",
    "Knowledge",
    "LookAhead",
    "Method",
    "Mix",
    "Needs",
    "Objective",
    "Output",
    "ParameterGroup",
    "Progress",
    "ReviewKD",
    "Settings",
    "SettingsError",
    "Task",
    "TfKD",
    "allowed_values",
    "build_method",
    "describe_allowed",
    "format_default",
    "is_allowed",
    "list_choices",
]
