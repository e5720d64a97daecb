"""Compile networks, and the training step of a student up to the loss."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from methods import Method, Objective, Output
from orchestrator.data.memory import to_device
from orchestrator.data.passes import Inputs

# Inputs, outputs of the teacher and of the student, access to the peers, sample weights
ComputeStep = Callable[
    [Inputs, Output | None, Output | None, Callable[[], Tensor] | None, Tensor | None],
    tuple[Output, Objective],
]
# All networks share one forward, and all students one step. Dynamo keeps 8 versions of a function
# and then stops. A shape takes two or three, and each number of a method's settings one.
VERSIONS = 2**16


def compile_in_place(network: nn.Module) -> None:
    """Compile a network's forward.

    Networks of the same form share the compiled code within a process.
    """
    _configure()
    network.compile()


def compile_step(compute: ComputeStep, method: Method, device: torch.device) -> ComputeStep:
    """Return a function that computes outputs and objective of a step, compiled as one function.

    On a GPU it is replayed as CUDA graphs. The code depends on the shapes and numbers of a call
    alone, and not on earlier calls. So a resumed trial runs the same code.

    Args:
        compute: The function; it changes nothing but the method.
        method: The method.
        device: The device of the student.
    """
    _configure()
    replays = device.type == "cuda"
    compiled: ComputeStep = torch.compile(
        compute, dynamic=False, mode="reduce-overhead" if replays else "default"
    )

    def run(
        batch: Inputs,
        teacher: Output | None,
        output: Output | None,
        peers: Callable[[], Tensor] | None,
        weights: Tensor | None,
    ) -> tuple[Output, Objective]:
        # outside of the graphs: copies from the CPU, and messages of the peers
        batch = replace(batch, index=to_device(batch.index, device))
        logits = peers() if peers else None
        received = None if logits is None else lambda: logits
        if not replays:
            return compiled(batch, teacher, output, received, weights)
        torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
        output, objective = compiled(batch, teacher, output, received, weights)
        _copy_kept_tensors(method)
        return output, Objective(objective.loss, _copy_terms(objective))

    return run


def without_compiler(communicate: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Return a function between ranks that the compiler does not trace."""
    disable: Any = torch.compiler.disable
    function: Callable[[Tensor], Tensor] = disable(communicate)
    return function


def _configure() -> None:
    torch._dynamo.config.recompile_limit = VERSIONS
    torch._dynamo.config.accumulated_recompile_limit = VERSIONS
    # A look-ahead may compute the gradient of a shared graph twice.
    torch._functorch.config.donated_buffer = False


def _copy_kept_tensors(method: Method) -> None:
    """Copy the tensors that a step left in attributes: the next replay overwrites its outputs.

    Parameters and buffers have their own memory.
    """
    for module in method.modules():
        kept = vars(module)
        kept.update({name: each.clone() for name, each in kept.items() if isinstance(each, Tensor)})


def _copy_terms(objective: Objective) -> dict[str, Tensor]:
    """Return copies of loss and terms, made by one kernel."""
    terms = {"loss": objective.loss.detach(), **objective.terms}
    return dict(zip(terms, torch.stack(list(terms.values())).unbind(), strict=True))
