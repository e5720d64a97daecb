"""Define the section `tracking` of the configuration."""

from typing import Literal

from pydantic import Field, field_validator

from orchestrator.config.fields import Section
from orchestrator.config.uris import require_tracking


class Tracking(Section):
    """MLflow tracking. Do not put secrets here: the configuration is stored with every run."""

    uri: str | None = Field(
        None,
        description="URI of the MLflow server or database, without credentials; set "
        "MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, in the "
        "environment. Null is a SQLite database in the store.",
    )
    figures: Literal["kept", "all", "none"] = Field(
        "kept",
        description="Trials of a sweep whose figures MLflow gets. kept: complete trials whose "
        "weights are kept (`search.keep_checkpoints`) when the figures are drawn, soon after "
        "their end; all: every trial, also those that were stopped early; none: no trial. A "
        "single training has figures unless this is none.",
    )
    test_each_epoch: bool = Field(
        False,
        description="Also evaluate the students on the test part after every epoch, and record the "
        "accuracy and its maximum, for comparison with publications that report the best test "
        "epoch; nothing is chosen by it.",
    )

    @field_validator("uri")
    @classmethod
    def _check_uri(cls, uri: str | None) -> str | None:
        if uri is not None:
            require_tracking(uri)
        return uri
