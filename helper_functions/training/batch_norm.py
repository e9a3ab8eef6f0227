"""Passes that leave the running statistics of batch normalisation alone."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
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
