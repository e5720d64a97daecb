"""What there is to run on, before Ray is asked. Knows no trials."""

import os
import socket

import torch

from orchestrator.errors import EnvironmentUnfitError

ANSWER_S = 5.0


def local_resources() -> dict[str, float]:
    """CPUs that this process may use, and GPUs, under Ray's names."""
    return {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(torch.cuda.device_count())}


def require_answer(address: str) -> None:
    """EnvironmentUnfitError when nobody listens at `host:port`; Ray itself would try for minutes."""
    if address == "auto":
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=ANSWER_S).close()
    except (OSError, ValueError) as error:
        raise EnvironmentUnfitError(
            f"resources.address = {address!r}: nobody answers there ({error}): give the host:port of a running Ray cluster, "
            "or leave the address out to start Ray here"
        ) from error
