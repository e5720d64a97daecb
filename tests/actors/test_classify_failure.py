"""Test the classification of failures: one case of each kind, on the host and on a device."""

import errno
from typing import Any

import pytest
import ray
import torch

from methods import SettingsError
from orchestrator.cluster._failures import classify_failure
from orchestrator.core.errors import (
    ConfigurationError,
    DispatcherTimeoutError,
    LoaderError,
    PreflightError,
    TrialError,
)
from tests.actors.answers import spec

HOST, DEVICE = torch.device("cpu"), torch.device("cuda", 0)
TRIAL = spec("trial")
NVIDIA = "CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has a total capacity of 79.10 GiB"


class Kind(tuple[bool, bool, bool]):
    """Attributes of a failure: from_trial, on_all_ranks, process_reusable."""


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (TrialError("the loss is not finite"), Kind((True, True, True))),
        (SettingsError("alpha = 2"), Kind((True, True, True))),
        (ConfigurationError("cat.png cannot be decoded"), Kind((True, False, True))),
        (ValueError("a bug of a method"), Kind((True, False, True))),
        (MemoryError(), Kind((True, False, True))),
        (
            RuntimeError(
                "DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes."
            ),
            Kind((True, False, True)),
        ),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), Kind((True, False, True))),
        (PreflightError("locked"), Kind((False, True, True))),
        (LoaderError("no batch came"), Kind((False, False, False))),
        (DispatcherTimeoutError("no answer"), Kind((False, False, False))),
        (OSError(errno.ESTALE, "Stale file handle"), Kind((False, False, False))),
        (PermissionError(errno.EACCES, "Permission denied"), Kind((False, False, False))),
        (TimeoutError("too long"), Kind((False, False, False))),
        (
            RuntimeError("[/gloo/pair.cc:534] Connection closed by peer [127.0.0.1]"),
            Kind((False, False, False)),
        ),
        (
            torch.distributed.DistBackendError("NCCL error: unhandled system error"),
            Kind((False, False, False)),
        ),
        (ray.exceptions.ActorDiedError(), Kind((False, False, False))),
        (ray.exceptions.WorkerCrashedError(), Kind((False, False, False))),
    ],
)
def test_classification_on_the_host(error: Exception, kind: Kind) -> None:
    failure = classify_failure(error, TRIAL, HOST)
    assert (failure.from_trial, failure.on_all_ranks, failure.process_reusable) == kind


@pytest.mark.parametrize(
    ("error", "from_trial", "process_reusable"),
    [
        (torch.OutOfMemoryError(NVIDIA), True, False),
        (RuntimeError("CUDNN_STATUS_ALLOC_FAILED"), True, False),
        (RuntimeError("CUDA error: device-side assert triggered"), True, False),
        (RuntimeError("CUDA error: uncorrectable ECC error encountered"), False, False),
        (RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED when calling cublasSgemm"), False, False),
        (TypeError("a bug of a method"), True, False),
        (TrialError("the loss is not finite"), True, True),
    ],
)
def test_classification_on_a_device(
    error: Exception, from_trial: bool, process_reusable: bool
) -> None:
    failure = classify_failure(error, TRIAL, DEVICE)
    assert (failure.from_trial, failure.process_reusable) == (from_trial, process_reusable), (
        "a process is restarted after an error on a device"
    )


@pytest.mark.parametrize(
    ("error", "role", "start"),
    [
        (
            torch.OutOfMemoryError(NVIDIA),
            "student",
            "out of memory on cuda:0 (2.50 GiB requested) with training.batch",
        ),
        (
            MemoryError(),
            "teacher",
            "out of memory on cuda:0 with teacher.training.batch_size = 64: lower "
            "teacher.training.batch",
        ),
    ],
)
def test_an_out_of_memory_message_names_the_setting_to_lower(
    error: Exception, role: str, start: str
) -> None:
    message = classify_failure(error, spec("trial", role=role), DEVICE).message
    assert message.startswith(start) and message.endswith(
        "or let fewer groups share the device (resources.groups)"
    )
    assert "\n" not in message


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (TrialError("one sentence"), "one sentence"),
        (ValueError("two\n lines"), "ValueError: two lines"),
    ],
)
def test_an_unexpected_error_is_reported_with_its_type(error: Exception, message: str) -> None:
    assert classify_failure(error, TRIAL, HOST).message == message


def test_a_real_failed_allocation_is_out_of_memory() -> None:
    with pytest.raises((RuntimeError, MemoryError)) as caught:
        torch.empty(2**62, dtype=torch.uint8)
    failure: Any = classify_failure(caught.value, TRIAL, HOST)
    assert failure.from_trial and failure.message.startswith("out of memory on cpu")
