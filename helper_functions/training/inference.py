"""One pass gives all logits; every metric is then a function of logits and labels."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from helper_functions.training.devices import Precision
from helper_functions.training.spread import spread


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into eval mode and give every module its own mode back afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def predict(model: nn.Module, loader: Iterable, precision: Precision) -> tuple[Tensor, Tensor]:
    """Logits and labels of everything in a loader, in its order.

    Eval mode, no gradient; batch-norm statistics and the modules' modes stay as they were. Ranks share each batch, and
    every one of them gets everything.

    Returns:
        float32 logits `[N, K]` and int64 labels `[N]`, both on the computing device.
    """
    logits, labels, forward = [], [], spread(model)
    with evaluation_mode(model), torch.inference_mode(), precision.autocast():
        for inputs, targets in loader:
            logits.append(forward(inputs.to(precision.device, non_blocking=True)).float())
            labels.append(targets.to(precision.device, non_blocking=True))
    # Clones outside of inference mode, so that callers may keep them in ordinary computations.
    return torch.cat(logits).clone(), torch.cat(labels).clone()
