"""What this machine has, before Ray is asked. Knows no trials."""

import os

import torch


def local_resources() -> dict[str, float]:
    """CPUs that this process may use, and GPUs, under Ray's names."""
    return {"CPU": float(len(os.sched_getaffinity(0))), "GPU": float(torch.cuda.device_count())}
