"""Classify training errors as caused by the trial or by its environment.

An error that the trial caused fails it at once, because it would recur. Any other error counts as a
death of the trial, which resumes from its checkpoint. Ray's errors are recognized by the name of
their module alone.
"""

import errno
import re
from typing import NamedTuple

import torch

from methods import SettingsError
from orchestrator.config.trial import TrialSpec, recipe_key
from orchestrator.core.errors import (
    DispatcherTimeoutError,
    LoaderError,
    PreflightError,
    TrialError,
    UserError,
)

MEMORY = ("out of memory", "can't allocate memory", "cannot allocate memory", "_alloc_failed")
COLLECTIVE = ("gloo", "nccl")  # gloo reports a lost peer as a RuntimeError with its own text
DEVICE = ("cuda error", "cudnn_status", "cublas_status")
CHARACTERS = 500  # limit of a message that was not written for users


class Failure(NamedTuple):
    """Cause of a failed training.

    Attributes:
        from_trial: The trial itself caused the failure.
        message: The cause, in a sentence.
        on_all_ranks: All ranks raise the error, or none does.
        process_reusable: The process may train another trial.
    """

    from_trial: bool
    message: str
    on_all_ranks: bool = False
    process_reusable: bool = True


def classify_failure(error: Exception, spec: TrialSpec, device: torch.device) -> Failure:
    """Return the cause of an error that training raised.

    Args:
        error: The error.
        spec: Specification of the trial.
        device: Device on which the trial was trained.
    """
    text = " ".join(str(error).split())[:CHARACTERS]
    named_message = f"{type(error).__name__}: {text}"
    lower_text, on_host = text.lower(), device.type != "cuda"
    if isinstance(error, DispatcherTimeoutError | LoaderError):
        return Failure(False, text, process_reusable=False)
    if isinstance(error, PreflightError):
        return Failure(False, text, on_all_ranks=True)
    if isinstance(error, UserError | SettingsError):  # one rank alone may read a damaged image
        return Failure(True, text, on_all_ranks=isinstance(error, TrialError | SettingsError))
    if _is_out_of_memory(error, lower_text):
        return Failure(True, _describe_out_of_memory(text, spec, device), process_reusable=on_host)
    if isinstance(error, torch.distributed.DistError) or any(
        word in lower_text for word in COLLECTIVE
    ):
        return Failure(False, named_message, process_reusable=False)
    if isinstance(error, OSError) or any(
        kind.__module__.startswith("ray.") for kind in type(error).__mro__
    ):
        return Failure(False, named_message, process_reusable=False)
    if any(word in lower_text for word in DEVICE) and "device-side assert" not in lower_text:
        return Failure(False, named_message, process_reusable=False)
    # an error in the code that these settings reach
    return Failure(True, named_message, process_reusable=on_host)


def _is_out_of_memory(error: Exception, lower_text: str) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    is_memory_error = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return is_memory_error or (
        isinstance(error, RuntimeError) and any(word in lower_text for word in MEMORY)
    )


def _describe_out_of_memory(text: str, spec: TrialSpec, device: torch.device) -> str:
    recipe = recipe_key(spec.role)
    size = spec.configuration.training.batch_size
    match = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", text)
    requested = f" ({match[1]} requested)" if match else ""
    return (
        f"out of memory on {device}{requested} with {recipe}.batch_size = {size}: lower "
        f"{recipe}.batch_size, use a smaller network, "
        "or let fewer groups share the device (resources.groups)"
    )
