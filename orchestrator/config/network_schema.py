"""Define the section of a network in the configuration."""

from typing import Annotated, Any

from pydantic import Field, SerializerFunctionWrapHandler, model_serializer, model_validator

from orchestrator.config.fields import Choice as Choice
from orchestrator.config.fields import Deviation, Mean, PathText, require_mean_with_std

INPUT_KEYS = ("input_size", "mean", "std")  # as in orchestrator/models/input_adapter.py


class Network(Choice):
    """Network, selected by `name`, with the settings of that network."""

    weights: PathText | None = Field(
        None,
        description="Initial weights: a .safetensors file, the name of torchvision weights, or "
        "pretrained for timm/NAME and hf/FOLDER.",
    )
    input_size: Annotated[int, Field(ge=4, le=4096)] | None = Field(
        None,
        json_schema_extra={"unit": "pixels"},
        description="Side of the square images that the network receives; it resizes the images "
        "of the data. Null is the size of the data or, for a name with a prefix, that of its "
        "published weights.",
    )
    mean: Mean | None = Field(
        None,
        description="Mean of each channel, in 0..1, of the normalisation that the network expects. "
        "Null is that of the data or, for a name with a prefix, that of its published weights.",
    )
    std: Deviation | None = Field(
        None, description="Standard deviation of each channel; required if mean is given."
    )

    @property
    def settings(self) -> dict[str, Any]:
        """Return the given settings of the network and of its input."""
        inputs = {key: getattr(self, key) for key in INPUT_KEYS}
        return super().settings | {key: value for key, value in inputs.items() if value is not None}

    @model_validator(mode="after")
    def _mean_goes_with_std(self) -> "Network":
        require_mean_with_std(self.mean, self.std)
        return self

    @model_serializer(mode="wrap")
    def _omit_unset_inputs(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Omit what is null, so that the records of networks without these keys stay the same."""
        values: dict[str, Any] = handler(self)
        return {
            key: value
            for key, value in values.items()
            if key not in INPUT_KEYS or value is not None
        }
