"""CF-k and EU-k: the last k layers alone are fine-tuned, or drawn anew and trained; the others are frozen."""

import dataclasses

import torch

from models.trainable import own_tensors, split_layers
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.method import RETAIN_EPOCHS, Log, Span, published


def spec_cf(context: MethodContext) -> BaselineSpec:
    """CE(D_r) in the last k layers. Source: Goel et al. 2022, section 4 (catastrophic forgetting-k)."""
    part = LossPass("last_layers", context.stream("retain"), cross_entropy(context, "retain"))
    frozen, _ = split_layers(context.model, context.args.last_layers)
    return BaselineSpec(lambda epoch: [part], frozen=tuple(frozen))


def spec_eu(context: MethodContext) -> BaselineSpec:
    """The last k layers drawn anew, then CE(D_r) in them. Source: Goel et al. 2022, section 4 (exact unlearning-k)."""
    _, last = split_layers(context.model, context.args.last_layers)

    def begin() -> None:
        _, drawn = split_layers(context.fresh(), context.args.last_layers)
        with torch.no_grad():
            for module, fresh in zip(last, drawn, strict=True):
                for value, new in zip(own_tensors(module), own_tensors(fresh), strict=True):
                    value.copy_(new)

    return dataclasses.replace(spec_cf(context), begin=begin)


SEARCH = {"learning_rate": Log(1e-3, 1e-1), "num_epochs": RETAIN_EPOCHS, "last_layers": Span(1, 8)}
CF_K = published(spec_cf, search=SEARCH, num_epochs=10, learning_rate=0.01, last_layers=5)
EU_K = published(spec_eu, search=SEARCH, num_epochs=10, learning_rate=0.01, last_layers=5)
