"""Boundary shrinking: move each forget image over the nearest border of its class; no retain image is read."""

from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F

from helper_functions.metrics import class_mask
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.method import Log, Span, published


def nearest_wrong_labels(logits_of, inputs: Tensor, labels: Tensor, step: float) -> Tensor:
    """The class that a network names first, of those that are wrong, after one step of FGSM; int64 `[B]`.

    `logits_of` maps inputs `[B, C, H, W]` to logits `[B, K]`, differentiably; `step` is in units of the inputs.
    """
    inputs = inputs.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(F.cross_entropy(logits_of(inputs), labels), [inputs])
    with torch.no_grad():
        logits = logits_of(inputs + step * gradient.sign())
    own = class_mask(labels, logits.shape[1])
    return logits.masked_fill(own, -torch.inf).argmax(1)


def spec(context: MethodContext) -> BaselineSpec:
    """CE on D_f to the nearest wrong class of the original. Source: Chen et al. 2023, equations 2 and 3."""
    original, step = context.original().model, context.args.fgsm_step

    def answers(batch: dict) -> dict:
        inputs, labels = batch["forget"]
        with torch.enable_grad():
            wrong = nearest_wrong_labels(partial(context.logits, model=original), inputs, labels, step)
        return {"forget": (inputs, wrong)}

    part = LossPass("shrink", context.stream("forget"), cross_entropy(context, "forget"), answers)
    return BaselineSpec(lambda epoch: [part])


METHOD = published(
    spec,
    search={"learning_rate": Log(1e-5, 1e-2), "num_epochs": Span(1, 10), "fgsm_step": Span(0.1, 1.0)},
    num_epochs=10, learning_rate=1e-5, weight_decay=0.0, fgsm_step=0.4,
)
