"""One pass over a loader gives all logits; every metric is a function of logits and labels."""

import contextlib
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from helper_functions.progress import progress
from helper_functions.training.devices import Precision
from helper_functions.training.spread import spread


@contextlib.contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode; every module's own mode is restored afterwards."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in modes:
            module.training = training


def predict(model: nn.Module, loader: Iterable, precision: Precision) -> tuple[Tensor, Tensor]:
    """Logits and labels of everything in a loader, in its order.

    Eval mode, no gradient; batch-norm statistics and the modules' modes do not change. Ranks share each batch, and all
    of them get all results: float32 logits `[N, K]` and int64 labels `[N]`, both on the computing device.
    """
    found: tuple[list[Tensor], list[Tensor]] = [], []
    forward, size, filled = spread(model), getattr(loader, "num_images", None), 0
    with evaluation_mode(model), torch.inference_mode(), precision.autocast():
        for inputs, targets in progress(loader, "measuring"):
            logits = forward(inputs.to(precision.device, non_blocking=True)).float()
            for parts, part in zip(found, (logits, targets.to(precision.device, non_blocking=True)), strict=True):
                if size is None:
                    parts.append(part)
                    continue
                # In one piece from the first batch on: small tensors between large ones would keep the heap apart.
                if not parts:
                    parts.append(part.new_empty((size, *part.shape[1:])))
                parts[0][filled : filled + len(part)] = part
            filled += len(targets)
    logits, labels = (parts[0] if len(parts) == 1 else torch.cat(parts) for parts in found)
    # Clones outside of inference mode, so that callers may keep them in ordinary computations.
    return logits.clone(), labels.clone()
