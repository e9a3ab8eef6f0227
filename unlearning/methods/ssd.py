"""SSD, selective synaptic dampening: damp the weights that matter far more to the forget set than to all images."""

import torch

from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec
from unlearning.methods.gradients import diagonal_fisher
from unlearning.methods.method import Log, one_shot


def spec(context: MethodContext) -> BaselineSpec:
    """θ ← min(λ·F_D / F_f, 1)·θ where F_f > α·F_D, F the empirical Fisher information. Source: Foster et al. 2024,
    equations 7 and 8.
    """

    def begin() -> None:
        args = context.args
        forget, forgotten = diagonal_fisher(context.model, context.images("forget", args.importance_images))
        retain, kept = diagonal_fisher(context.model, context.images("retain", args.importance_images))
        context.cost.images += forgotten + kept
        sizes = context.evaluator.forget_images, context.evaluator.retain_images
        share = sizes[0] / sum(sizes)
        with torch.no_grad():
            for name, parameter in context.model.named_parameters():
                if name in forget:
                    # The samples stand for sets of their own sizes.
                    whole = share * forget[name] + (1 - share) * retain[name]
                    damped = (args.ssd_dampening * whole / forget[name].clamp(min=1e-30)).clamp(max=1)
                    parameter.mul_(torch.where(forget[name] > args.ssd_threshold * whole, damped, 1.0))

    return BaselineSpec(begin=begin)


METHOD = one_shot(
    spec,
    search={"ssd_threshold": Log(1.0, 50.0), "ssd_dampening": Log(0.01, 1.0)},
    ssd_threshold=10.0, ssd_dampening=1.0, importance_images=1000,
)
