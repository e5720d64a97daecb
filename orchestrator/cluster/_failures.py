"""Classify training errors as the trial's own or as faults of its environment.

The trial's own fault fails it at once, because it would recur. Any other fault counts as a death of
the trial, which resumes from its checkpoint. Ray's errors are recognized by their module's name
alone.
"""

import errno
import re
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch

from methods import SettingsError
from orchestrator.config.trial import recipe_key
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
        own: The trial itself caused the failure.
        message: The cause, in a sentence.
        together: All ranks raise the error, or none does.
        clean: The process may train another trial.
    """

    own: bool
    message: str
    together: bool = False
    clean: bool = True


def classify_failure(
    error: Exception, specification: Mapping[str, Any], device: torch.device
) -> Failure:
    """Return the cause of an error that training raised.

    Args:
        error: The error.
        specification: Plain specification of the trial.
        device: Device on which the trial was trained.
    """
    text = " ".join(str(error).split())[:CHARACTERS]
    named, lower, on_host = f"{type(error).__name__}: {text}", text.lower(), device.type != "cuda"
    if isinstance(error, DispatcherTimeoutError | LoaderError):
        return Failure(False, text, clean=False)
    if isinstance(error, PreflightError):
        return Failure(False, text, together=True)
    if isinstance(error, UserError | SettingsError):  # one rank alone may read a damaged image
        return Failure(True, text, together=isinstance(error, TrialError | SettingsError))
    if _of_memory(error, lower):
        return Failure(True, _memory(text, specification, device), clean=on_host)
    if isinstance(error, torch.distributed.DistError) or any(word in lower for word in COLLECTIVE):
        return Failure(False, named, clean=False)
    if isinstance(error, OSError) or any(
        kind.__module__.startswith("ray.") for kind in type(error).__mro__
    ):
        return Failure(False, named, clean=False)
    if any(word in lower for word in DEVICE) and "device-side assert" not in lower:
        return Failure(False, named, clean=False)
    return Failure(True, named, clean=on_host)  # an error of the code that the settings led to


def _of_memory(error: Exception, lower: str) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    known = isinstance(error, torch.OutOfMemoryError | MemoryError)
    return known or (isinstance(error, RuntimeError) and any(word in lower for word in MEMORY))


def _memory(text: str, specification: Mapping[str, Any], device: torch.device) -> str:
    recipe = recipe_key(str(specification.get("role")))
    size = specification["configuration"]["training"]["batch_size"]
    tried = re.search(r"[Tt]ried to allocate ([\d.]+ ?\w+)", text)
    wanted = f" ({tried[1]} more were asked for)" if tried else ""
    return (
        f"out of memory on {device}{wanted} with {recipe}.batch_size = {size}: lower "
        f"{recipe}.batch_size, take a smaller network, "
        "or let fewer groups share the device (resources.groups)"
    )
