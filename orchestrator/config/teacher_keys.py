"""Name the key of one of several teachers in an error about a single teacher."""

import contextlib
import re
from collections.abc import Iterator

from orchestrator.config.schema import Teacher
from orchestrator.core.errors import UserError

SINGLE = "teacher"
# not a part of a path, such as data/teacher.pt
KEY = re.compile(rf"(?<![\w./\\-]){SINGLE}\.(?=(?:{'|'.join(Teacher.model_fields)})\b)")


@contextlib.contextmanager
def naming_teacher(key: str) -> Iterator[None]:
    """Name `key`, such as `teachers.1`, instead of `teacher` in an error of the block.

    Raises:
        UserError: The error of the block, of the same class of `core.errors`.
    """
    try:
        yield
    except UserError as error:
        field, text = error.field, str(error)
        if key == SINGLE:
            raise
        if field is not None and field.split(".")[0] == SINGLE:
            field = key + field.removeprefix(SINGLE)
        named = KEY.sub(f"{key}.", text)
        message = named if named != text else f"{key}: {text}"
        kind = next(each for each in type(error).__mro__ if each.__module__ == UserError.__module__)
        raise kind(message).with_details(field, error.value, error.allowed) from error
