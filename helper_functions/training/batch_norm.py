"""Passes that leave the running statistics of batch normalisation alone, or normalise by another batch."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm  # the common base of BatchNorm1d/2d/3d and SyncBatchNorm


def batch_norm_layers(model: nn.Module) -> list[_BatchNorm]:
    """Every batch-norm layer of `model`, in registration order."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


class FrozenStatistics:
    """Batch norm that stays in eval mode, since its weights stay as well."""

    def train(self, mode: bool = True) -> nn.Module:
        return super().train(False)


@functools.cache
def _frozen(kind: type) -> type:
    return type(f"Frozen{kind.__name__}", (FrozenStatistics, kind), {"plain": kind})


def freeze_statistics(layer: _BatchNorm, frozen: bool = True) -> None:
    """Keep a layer in eval mode from now on, whatever mode its model is put into, or no longer."""
    kind = getattr(layer, "plain", type(layer))
    layer.__class__ = _frozen(kind) if frozen else kind
    layer.train(layer.training)


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


class LentStatistics:
    """Batch norm of every pass by the batch of the first one, with the gradient through its statistics."""

    borrows = False
    lent: tuple[Tensor, Tensor]

    def forward(self, inputs: Tensor) -> Tensor:
        """Input and output `[B, C, ...]`."""
        if not self.training:
            return super().forward(inputs)
        if not self.borrows:
            axes = [axis for axis in range(inputs.dim()) if axis != 1]
            lent = torch.var_mean(inputs.float(), axes, correction=0, keepdim=True)
            # Plain batch norm normalises by this rank's part of a batch.
            self.lent = self.of_all_ranks(*lent) if hasattr(self, "of_all_ranks") else lent
            return super().forward(inputs)
        variance, mean = self.lent
        outputs = (inputs.float() - mean) * (variance + self.eps).rsqrt()
        if self.affine:
            weight, bias = (each.view_as(mean) for each in (self.weight, self.bias))
            outputs = outputs * weight + bias
        return outputs.to(inputs.dtype)


@functools.cache
def _lending(kind: type) -> type:
    return type(f"Lending{kind.__name__}", (LentStatistics, kind), {})


@contextmanager
def lent_statistics(model: nn.Module) -> Iterator[Callable[[], None]]:
    """Inside, the first training pass is as ever; after a call of what is given, others use its batch's statistics.

    These move no running statistics. Layers in eval mode stay as they are.
    """
    layers = [layer for layer in batch_norm_layers(model) if layer.training]
    kinds = [type(layer) for layer in layers]

    def lend() -> None:
        for layer in layers:
            layer.borrows = True

    try:
        for layer, kind in zip(layers, kinds, strict=True):
            layer.__class__ = _lending(kind)
        yield lend
    finally:
        for layer, kind in zip(layers, kinds, strict=True):
            layer.__class__ = kind
            for name in ("borrows", "lent"):
                layer.__dict__.pop(name, None)
