"""Define the record of a teacher: its network, its data, and its quality."""

from typing import Annotated, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from orchestrator.store.record_file import STRICT, Plain, RecordSchema

CARD = "teacher.json"  # in the folder of a teacher; the folder of a sweep has a copy
WEIGHTS = "weights.safetensors"  # in the folder of a teacher
CARDS = "teacher-{}.json"  # the copies of several teachers, by number
Size = Annotated[int, Field(ge=1, le=10**6)]


@with_config(STRICT)
class TeacherCard(TypedDict):
    """The record of a teacher.

    Attributes:
        fingerprint: The fingerprint of the recipe.
        weights: The fingerprint of the resulting weights.
        network: The name and settings of the network.
        data: The name of the data.
        classes: The number of classes.
        shape: The shape of the inputs, (C, H, W).
        metrics: The metrics on the validation part.
    """

    fingerprint: NotRequired[str]
    weights: str
    network: dict[str, Plain]
    data: NotRequired[str]
    classes: Size
    shape: Annotated[list[Size], Field(min_length=3, max_length=3)]
    metrics: NotRequired[dict[str, float]]


TEACHER = RecordSchema[TeacherCard](TeacherCard, other_keys=True)
