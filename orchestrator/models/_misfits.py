"""Compare given tensors with a network's state: names, shapes, types and finite values.

All misfits are listed at once.
"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
INTEGERS = (torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)
MAX_ROWS = 60  # of a table; the message above it holds the total


class Misfit(NamedTuple):
    """A tensor that does not fit: its name, the actual value and the needed one."""

    name: str
    actual: str
    needed: str


def find_misfits(needed: Mapping[str, Tensor], tensors: Mapping[str, Tensor]) -> list[Misfit]:
    """Return all tensors that do not fit the state of a network.

    A tensor does not fit if it is missing, unexpected, of another shape or kind of type, not
    finite, or a negative variance. Any of the usual floating-point types may replace another one.
    Integers are refused as weights, because their scale is unknown.

    Args:
        needed: The state of the network; it may be on the meta device.
        tensors: The tensors of a file.
    """
    misfits = []
    for name, tensor in needed.items():
        if name not in tensors:
            misfits.append(Misfit(name, "missing", describe_tensor(tensor)))
        elif tensors[name].shape != tensor.shape:
            misfits.append(Misfit(name, describe_tensor(tensors[name]), describe_tensor(tensor)))
        elif tensors[name].dtype not in (FLOATS if tensor.dtype.is_floating_point else INTEGERS):
            misfits.append(
                Misfit(
                    name,
                    describe_tensor(tensors[name]),
                    f"{describe_tensor(tensor)}, or another "
                    f"{'float' if tensor.dtype.is_floating_point else 'integer'} type",
                )
            )
        elif bad_count := _not_finite(tensors[name], tensor.dtype):
            misfits.append(
                Misfit(
                    name,
                    f"{bad_count} of {tensors[name].numel()} values NaN or infinite",
                    "finite values",
                )
            )
        elif name.endswith("running_var") and bool((tensors[name] < 0).any()):
            misfits.append(
                Misfit(
                    name,
                    f"{int((tensors[name] < 0).sum())} variances below 0",
                    "values of at least 0",
                )
            )
    return misfits + [
        Misfit(name, describe_tensor(tensor), "not part of the network")
        for name, tensor in tensors.items()
        if name not in needed
    ]


def misfit_table(misfits: list[Misfit]) -> str:
    """Return the misfits as lines of three columns."""
    rows = [("tensor", "given", "needed"), *misfits[:MAX_ROWS]]
    widths = [max(len(row[column]) for row in rows) for column in range(2)]
    lines = [
        f"  {name:{widths[0]}}  {actual:{widths[1]}}  {needed}" for name, actual, needed in rows
    ]
    more = len(misfits) - MAX_ROWS
    return "\n".join([*lines, f"  and {more} more"] if more > 0 else lines)


def _not_finite(tensor: Tensor, needed: torch.dtype) -> int:
    """Return the number of values that are not finite in the needed type."""
    return int((~tensor.to(needed).isfinite()).sum()) if needed.is_floating_point else 0


def describe_tensor(tensor: Tensor) -> str:
    """Return the type and the shape of a tensor, such as `float32 64x3x3x3`."""
    shape = "x".join(str(size) for size in tensor.shape) or "scalar"
    return f"{str(tensor.dtype).removeprefix('torch.')} {shape}"
