"""The environment of a process that trains. Knows variables alone; they count from the start of the process on."""

import os

# glibc gives a step's activations back to the system at its end and faults them in again at the next: up to 20 % of a step
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_MMAP_THRESHOLD_": str(2**34)}


def allocator() -> dict[str, str]:
    """What a worker's environment gets; what the user has set stays."""
    return {name: os.environ.get(name, value) for name, value in ALLOCATOR.items()}
