"""Build networks on the device `meta`: shapes and types alone, without memory."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode


@contextlib.contextmanager
def meta_device() -> Iterator[None]:
    """Create all tensors of the block on the device `meta`, and draw no initial weights."""
    with torch.device("meta"), _NoRandomNumbers():
        yield


class _NoRandomNumbers(TorchFunctionMode):
    """Leave tensors as they are: normal numbers on `meta` import torch's compiler, in 2 s."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Any = (), kwargs: Any = None
    ) -> Any:
        if func in (Tensor.normal_, Tensor.uniform_):
            return args[0]
        return func(*args, **(kwargs or {}))
