"""Fisher forgetting: noise on the weights, the more the less the retain set depends on them."""

import torch

from unlearning.context import Case
from unlearning.methods.gradients import diagonal_fisher
from unlearning.methods.method import one_shot
from unlearning.methods.plan import Plan

# A weight that nothing depends on would get noise without bound.
LEAST_INFORMATION = 1e-3


def plan(case: Case) -> Plan:
    """θ ← θ + √(α / F)·ε, F the Fisher information of D_r, ε standard normal. Source: Golatkar et al. 2020, section 4.

    Their scale is a fourth root for a quadratic loss; their code, and everybody's since, takes the square root.
    """

    def begin() -> None:
        images = case.images("retain", case.args.importance_images)
        information, count = diagonal_fisher(case.model, images, case.generator)
        case.cost.images += count
        with torch.no_grad():
            for name, parameter in case.model.named_parameters():
                if name in information:
                    noise = torch.randn(parameter.shape, generator=case.generator, device=parameter.device)
                    variance = case.args.noise_scale / information[name].clamp(min=LEAST_INFORMATION)
                    parameter.add_(variance.sqrt() * noise)

    return Plan(begin=begin)


METHOD = one_shot(plan, noise_scale=1e-7, importance_images=1000)
