"""Set the environment variables of the memory allocator for training processes.

The variables take effect only if they are set before the process starts.
"""

import os

# glibc returns a step's activations to the system at its end and faults them in again at the
# next step, which costs up to 20 % of a step.
ALLOCATOR = {"MALLOC_TRIM_THRESHOLD_": str(2**34), "MALLOC_MMAP_THRESHOLD_": str(2**34)}


def allocator() -> dict[str, str]:
    """Return the allocator variables for a worker's environment; the user's own values stay."""
    return {name: os.environ.get(name, value) for name, value in ALLOCATOR.items()}
