"""Synchronise batch normalisation across workers.

Any backend of torch.distributed can be used, including gloo.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from orchestrator.core.context import TrialContext
from orchestrator.core.errors import ConfigurationError


class SyncBatchNorm(_BatchNorm):
    """Batch norm whose training statistics cover the batches of all ranks.

    Parameters and buffers have the names of torch's batch norms. torch's own SyncBatchNorm does not
    run on CPUs. A rank sends the mean and the variance of each channel. These are combined as in
    Chan et al. 1983, without a difference of large sums. All ranks must have batches of one size
    and call the module together.
    """

    def __init__(self, replaced: _BatchNorm, context: TrialContext) -> None:
        super().__init__(
            replaced.num_features,
            replaced.eps,
            replaced.momentum,
            affine=False,
            track_running_stats=replaced.track_running_stats,
        )
        self.affine = replaced.affine
        # the same tensors: other objects may refer to them
        self.weight, self.bias = replaced.weight, replaced.bias
        for name, buffer in replaced.named_buffers():
            setattr(self, name, buffer)
        self.context = context
        # the compiler does not trace communication; it is imported here, as that takes seconds
        disable: Any = torch.compiler.disable
        self._normalise_uncompiled = disable(type(self)._normalise)
        self.train(replaced.training)

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() < 2:
            raise ValueError(
                f"batch norm needs inputs (B, C, ...), but this one has {input.dim()} dimensions"
            )

    def forward(self, input: Tensor) -> Tensor:
        """Normalise inputs (B, C, ...); half-precision inputs are computed in float32."""
        if not self.training:
            return super().forward(input)
        return cast(Tensor, self._normalise_uncompiled(self, input))

    def _normalise(self, input: Tensor) -> Tensor:
        """Normalise training inputs with the statistics of all ranks."""
        self._check_input_dim(input)
        values = input.float() if input.dtype in (torch.float16, torch.bfloat16) else input
        axes = [axis for axis in range(input.dim()) if axis != 1]
        statistics = torch.stack([values.mean(axes), values.var(axes, correction=0)])  # (2, C)
        means, variances = cast(Tensor, _AllRanks.apply(statistics, self.context)).unbind(1)  # type: ignore[no-untyped-call]  # (W, C) each
        mean = means.mean(0)
        variance = (variances + (means - mean).square()).mean(0)
        self._update_running_statistics(
            mean.detach(),
            variance.detach(),
            self.context.world_size * values.numel() // values.shape[1],
        )
        shape = [1, -1] + [1] * (input.dim() - 2)
        scale = (variance + self.eps).rsqrt()
        normalised = (values - mean.view(shape)) * scale.view(shape)
        if self.affine:
            normalised = normalised * self.weight.view(shape) + self.bias.view(shape)
        return normalised.to(input.dtype)

    @torch.no_grad()
    def _update_running_statistics(self, mean: Tensor, variance: Tensor, count: int) -> None:
        """Update the running statistics with the unbiased variance, as torch does."""
        if not self.track_running_stats or self.running_mean is None or self.running_var is None:
            return
        assert self.num_batches_tracked is not None
        self.num_batches_tracked.add_(1)
        share = 1 / float(self.num_batches_tracked) if self.momentum is None else self.momentum
        self.running_mean.lerp_(mean.to(self.running_mean), share)
        self.running_var.lerp_((variance * (count / max(count - 1, 1))).to(self.running_var), share)


class SyncBatchNormAct(SyncBatchNorm):
    """Synchronised batch norm with the dropout and the activation of a batch norm of timm."""

    def __init__(self, replaced: Any, context: TrialContext) -> None:
        super().__init__(replaced, context)
        self.drop, self.act = replaced.drop, replaced.act

    def forward(self, input: Tensor) -> Tensor:
        """Normalise inputs (B, C, ...), then apply dropout and activation."""
        return cast(Tensor, self.act(self.drop(super().forward(input))))


class _AllRanks(torch.autograd.Function):
    """All-gather of a tensor, (W, ...) on every rank; the gradient is the sum over all ranks."""

    @staticmethod
    def forward(ctx: Any, statistics: Tensor, context: TrialContext) -> Tensor:  # type: ignore[override]
        ctx.context = context
        return torch.stack(context.all_gather(statistics))

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return ctx.context.all_reduce_sum(gradient.clone())[ctx.context.rank], None


def synchronise(network: nn.Module, context: TrialContext) -> nn.Module:
    """Replace the batch norms of a network in place by synchronised ones.

    With a single rank the network stays as it is.

    Args:
        network: The network to change.
        context: The trial's context, with the rank and the world size.

    Returns:
        The same network.

    Raises:
        ConfigurationError: A batch norm computes more than torch's, and is not one of timm.
    """
    if context.world_size == 1:
        return network
    for module in list(network.modules()):
        for name, child in module.named_children():
            if isinstance(child, _BatchNorm) and not isinstance(child, SyncBatchNorm):
                setattr(module, name, _synchronised(child, context))
    return network


def _synchronised(batch_norm: _BatchNorm, context: TrialContext) -> SyncBatchNorm:
    if type(batch_norm).forward is _BatchNorm.forward:
        return SyncBatchNorm(batch_norm, context)
    if isinstance(getattr(batch_norm, "act", None), nn.Module) and hasattr(batch_norm, "drop"):
        return SyncBatchNormAct(batch_norm, context)
    raise ConfigurationError(
        f"sync_batch_norm = true cannot be used with {type(batch_norm).__name__}, which computes "
        f"more than batch normalisation: set sync_batch_norm=false"
    ).with_details("sync_batch_norm", True, False)
