"""Fisher forgetting: noise on the weights, the more the less the retain set depends on them."""

import torch

from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec
from unlearning.methods.gradients import diagonal_fisher
from unlearning.methods.method import Log, one_shot

# A weight that nothing depends on would get noise without bound.
LEAST_INFORMATION = 1e-3


def spec(context: MethodContext) -> BaselineSpec:
    """θ ← θ + √(α / F)·ε, F the Fisher information of D_r, ε standard normal. Source: Golatkar et al. 2020, section 4.

    Their scale is a fourth root for a quadratic loss; their code, and everybody's since, takes the square root.
    """

    def begin() -> None:
        images = context.images("retain", context.args.importance_images)
        information, count = diagonal_fisher(context.model, images, context.generator)
        context.cost.images += count
        with torch.no_grad():
            for name, parameter in context.model.named_parameters():
                if name in information:
                    noise = torch.randn(parameter.shape, generator=context.generator, device=parameter.device)
                    variance = context.args.noise_scale / information[name].clamp(min=LEAST_INFORMATION)
                    parameter.add_(variance.sqrt() * noise)

    return BaselineSpec(begin=begin)


METHOD = one_shot(spec, search={"noise_scale": Log(1e-9, 1e-4)}, noise_scale=1e-7, importance_images=1000)
