"""Define the record of a teacher: its network, its data, and how good it is."""

from typing import Annotated, NotRequired

from pydantic import Field, with_config
from typing_extensions import TypedDict

from orchestrator.store.record_file import STRICT, Plain, RecordSchema

CARD = "teacher.json"  # in the folder of a teacher, and a copy in the folder of a sweep
Size = Annotated[int, Field(ge=1, le=10**6)]


@with_config(STRICT)
class TeacherCard(TypedDict):
    """What is known of a teacher: `fingerprint` is of the recipe, `weights` of what came out, `shape` is that of its inputs."""

    fingerprint: NotRequired[str]
    weights: str
    network: dict[str, Plain]
    data: NotRequired[str]
    classes: Size
    shape: Annotated[list[Size], Field(min_length=3, max_length=3)]
    metrics: NotRequired[dict[str, float]]


TEACHER = RecordSchema[TeacherCard](TeacherCard, other_keys=True)
