"""Define the errors that a user sees, each one sentence, and the exit codes of the command line."""

import difflib
from collections.abc import Iterable
from typing import Self

from orchestrator.core.redact import without_secrets

OK, NO_USABLE_TRIAL, BAD_CONFIGURATION, UNFIT_ENVIRONMENT, INTERRUPTED = 0, 1, 2, 3, 130
LONGEST_REASON = 300  # characters
UNEXPECTED = 1  # an error in the program itself, as in Python


class _Refusal(Exception):
    """Error with the field, its value and the allowed values."""

    field: str | None = None
    value: object = None
    allowed: object = None

    def with_details(self, field: str | None, value: object = None, allowed: object = None) -> Self:
        """Set the attributes and return the error, as `with_traceback` does."""
        self.field, self.value, self.allowed = field, without_secrets(value), allowed
        return self

    @classmethod
    def from_error(cls, error: Exception, message: str, below: str = "") -> Self:
        """Return an error with a new message that keeps the attributes of `error`.

        Args:
            error: An error of any class; attributes that it lacks become None.
            message: The new message, one sentence.
            below: The key of the section that contains the field of `error`.
        """
        field = ".".join(part for part in (below, getattr(error, "field", None)) if part)
        value, allowed = getattr(error, "value", None), getattr(error, "allowed", None)
        return cls(message).with_details(field or None, value, allowed)


class UserError(_Refusal):
    """Error that the user can correct.

    The message may change; programs and tests read the attributes.

    Args:
        message: One sentence: the field, its value, what is allowed, and the next step.
        field: The setting (`training.epochs`), option (`--store`), environment variable or file.
        value: The refused value; a text without its secrets if it contains any.
        allowed: The allowed values: a tuple of names, a pair of bounds, a type, or a short text.
    """

    exit_code = NO_USABLE_TRIAL


class FieldError(_Refusal, ValueError):
    """Value that a configuration section refuses; `field` is relative to the section."""


class ConfigurationError(UserError):
    """Setting, file or data that cannot be used as given."""

    exit_code = BAD_CONFIGURATION


class PreflightError(UserError):
    """Missing capability of this machine or cluster: disk, permissions, resources, ports."""

    exit_code = UNFIT_ENVIRONMENT


class DispatcherTimeoutError(PreflightError):
    """Timeout of the trial dispatcher: Ray or the dispatcher's node is faulty."""


class LoaderError(PreflightError):
    """Failure of the image decoding processes of one training process.

    They have ended or return no batch; those of other ranks may still work.
    """


class TrialError(UserError):
    """Failure of one trial (diverged, bad setting); the sweep continues."""


def short_reason(error: BaseException) -> str:
    """Return the class and the message of an error in one short line."""
    text = " ".join(str(error).split()) or "no message"
    return f"{type(error).__name__}: {text}"[:LONGEST_REASON]


def suggest_name(name: str, known: Iterable[str]) -> str:
    """Return `did you mean 'kd'? Available: ...` for an unknown name.

    Names `my/NAME` are those of user code, which `--code` loads.
    """
    names = sorted(known)
    if name.startswith("my/") or "/my/" in name:
        return f"give the file that registers it with --code FILE.py; available: {', '.join(names)}"
    with_prefix = [known for known in names if name and known.startswith(name)]
    close = with_prefix or difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}Available: {', '.join(names)}" if hint else f"available: {', '.join(names)}"
