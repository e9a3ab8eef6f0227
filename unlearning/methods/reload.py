"""RELOAD: a step up the forget set's part of the gradient, a share of the weights drawn anew, then fine-tuning."""

import torch
from torch import Tensor

from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.gradients import mean_gradient
from unlearning.methods.method import RETAIN_EPOCHS, Log, published
from unlearning.methods.salun import largest

# Keeps the share of weights without gradient at 1.
SMALLEST_GRADIENT = 1e-10


def knowledge(part: Tensor, whole: Tensor) -> Tensor:
    """(|g(D) − g(D_r)| + ε) / (|g(D)| + ε), of gradients of one shape."""
    return (part.abs() + SMALLEST_GRADIENT) / (whole.abs() + SMALLEST_GRADIENT)


def spec(context: MethodContext) -> BaselineSpec:
    """A step along g = g(D) − g(D_r), the weights with the lowest |g| / |g(D)| drawn anew, then CE(D_r).

    Source: Newatia et al. 2026 (their command).
    """

    def begin() -> None:
        args, evaluator = context.args, context.evaluator
        retain, forget = mean_gradient(context, "retain"), mean_gradient(context, "forget")
        share = evaluator.forget_images / (evaluator.forget_images + evaluator.retain_images)
        parts = {name: share * (forget[name] - retain[name]) for name in retain}
        # The lowest have the largest inverse.
        drawn = largest({name: 1 / knowledge(parts[name], retain[name] + parts[name]) for name in parts},
                        args.reset_share)  # fmt: skip
        fresh = dict(context.fresh().named_parameters())
        with torch.no_grad():
            for name, parameter in context.model.named_parameters():
                if name in parts:
                    climbed = parameter + args.ascent_step * parts[name]
                    parameter.copy_(torch.where(drawn[name], fresh[name], climbed))

    part = LossPass("repair", context.stream("retain"), cross_entropy(context, "retain"))
    return BaselineSpec(lambda epoch: [part], begin=begin)


METHOD = published(
    spec,
    search={
        "learning_rate": Log(1e-3, 2e-1), "num_epochs": RETAIN_EPOCHS, "reset_share": Log(0.01, 0.3),
        "ascent_step": Log(0.01, 1.0),
    },
    num_epochs=5, batch_size=256, learning_rate=0.16, schedule="multistep", reset_share=0.1, ascent_step=0.325,
)  # fmt: skip
