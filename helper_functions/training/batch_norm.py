"""Batch normalisation without side effects: forward passes that leave the running statistics alone."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm  # the common base of BatchNorm1d/2d/3d and SyncBatchNorm


def batch_norm_layers(model: nn.Module) -> list[_BatchNorm]:
    """Every batch-norm layer of `model`, in registration order."""
    return [module for module in model.modules() if isinstance(module, _BatchNorm)]


@contextmanager
def no_running_stats_update(model: nn.Module) -> Iterator[None]:
    """Inside, a training-mode forward pass normalises by the batch and changes no buffer of a batch-norm layer.

    Layers in eval mode go on using their running statistics. Nothing is copied and nothing waits for the device:
    a layer that does not track is handed no statistics to update, so `running_mean`, `running_var` and
    `num_batches_tracked` stay as they are whatever `momentum` is. The flags come back after an exception, too.
    """
    tracking = [layer for layer in batch_norm_layers(model) if layer.track_running_stats]
    try:
        for layer in tracking:
            layer.track_running_stats = False
        yield
    finally:
        for layer in tracking:
            layer.track_running_stats = True
