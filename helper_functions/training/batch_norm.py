"""Batch normalisation: passes that leave the running statistics alone, and batches that several ranks share."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm  # the common base of BatchNorm1d/2d/3d and SyncBatchNorm

from helper_functions.training.shares import current_sizes, stacked


def batch_norm_layers(model: nn.Module) -> list[_BatchNorm]:
    """Every batch-norm layer of `model`, in registration order."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def no_running_stats_update(model: nn.Module) -> Iterator[None]:
    """Inside, a training-mode forward pass normalises by the batch and changes no buffer of a batch-norm layer.

    Layers in eval mode still use their running statistics. Nothing is copied and nothing waits for the device: a layer
    that does not track has no statistics to update, whatever its `momentum`. The flags are restored after an exception.
    """
    tracking = [layer for layer in batch_norm_layers(model) if layer.track_running_stats]
    try:
        for layer in tracking:
            layer.track_running_stats = False
        yield
    finally:
        for layer in tracking:
            layer.track_running_stats = True


class SharedBatchNorm(_BatchNorm):
    """Batch norm that normalises by the whole batch in a pass that ranks share, and plain batch norm in any other.

    Like `nn.SyncBatchNorm`, which refuses CPUs. Input and output [B, C, ...], B this rank's part.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        sizes = current_sizes()
        if sizes is None or not self.training:
            return super().forward(input)
        count = sum(sizes) * input[0, 0].numel()
        weight = input.new_ones(self.num_features, dtype=torch.float32) if self.weight is None else self.weight
        bias = torch.zeros_like(weight) if self.bias is None else self.bias
        output, mean, variance = _Normalise.apply(input, weight, bias, self.eps, len(input) / sum(sizes), count)
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            factor = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, factor)
            self.running_var.lerp_(variance * (count / (count - 1)), factor)
        return output


class _Normalise(torch.autograd.Function):
    """Ioffe and Szegedy 2015, algorithm 1 and its gradient, with sums over all ranks."""

    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, bias: Tensor, eps: float, share: float, count: int):
        axes = [axis for axis in range(inputs.dim()) if axis != 1]
        variance, mean = torch.var_mean(inputs.float(), axes, correction=0)
        variances, means, shares = stacked(torch.stack([variance, mean, torch.full_like(mean, share)])).unbind(1)
        # Elementwise in float32: autocast computes matrix products in half precision.
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        ctx.save_for_backward(inputs, weight, mean, variance)
        ctx.eps, ctx.count = eps, count
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(inputs, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    def backward(ctx, gradient: Tensor, *_):
        inputs, weight, mean, variance = ctx.saved_tensors
        direct, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, inputs, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        # The gradient through the statistics is linear in the inputs, channel by channel.
        sums = torch.stack([of_weight, of_bias])
        dist.all_reduce(sums)
        slope, offset = sums / ctx.count
        scale = (variance + ctx.eps).rsqrt()
        slope = slope * scale
        offset = offset - slope * mean
        shape = [1, -1, *[1] * (inputs.dim() - 2)]
        slope, offset = ((weight * scale * part).view(shape) for part in (slope, offset))
        through = torch.addcmul(offset, inputs, slope)
        return (direct - through).to(inputs.dtype), of_weight, of_bias, None, None, None


def share_batch_norm(model: nn.Module) -> nn.Module:
    """Make every batch-norm layer of the model a `SharedBatchNorm`, in place; names and parameters stay."""
    for layer in batch_norm_layers(model):
        layer.__class__ = SharedBatchNorm
    return model


@torch.no_grad()
def average_running_statistics(model: nn.Module) -> None:
    """Replace running statistics by their mean over ranks, in layers that normalise by a part of a batch."""
    moving = [
        layer
        for layer in batch_norm_layers(model)
        if layer.training and layer.track_running_stats and not isinstance(layer, SharedBatchNorm)
    ]
    # `data`, since autograd saves them for the backward pass, which does not read them in training mode.
    statistics = [value.data for layer in moving for value in (layer.running_mean, layer.running_var)]
    if not statistics:
        return
    mean = torch.cat(statistics)
    dist.all_reduce(mean)
    mean /= dist.get_world_size()
    torch._foreach_copy_(statistics, list(mean.split([len(value) for value in statistics])))
