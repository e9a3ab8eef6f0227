"""Influence unlearning: one Newton step to where the retain loss would have its minimum, by WoodFisher's curvature."""

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from helper_functions.training.inference import evaluation_mode
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec
from unlearning.methods.gradients import mean_gradient
from unlearning.methods.method import Log, one_shot

# Gradients that the curvature is made of, each as large as the model.
GRADIENTS = 64


def woodbury_solve(gradients: Tensor, damping: float, vector: Tensor) -> Tensor:
    """(λI + (1/N)·Σ g gᵀ)⁻¹ v without the matrix, by the Woodbury identity: gradients `[N, P]`, damping λ, v `[P]`."""
    count = len(gradients)
    inner = gradients @ gradients.T
    inner.diagonal().add_(count * damping)
    return (vector - gradients.T @ torch.linalg.solve(inner, gradients @ vector)) / damping


def _gradient_rows(context: MethodContext) -> Tensor:
    """Gradients over equal parts of the retain images, `[N, P]`, scaled as if each were a single image's.

    Near an optimum the gradients of images scatter about 0, so that the outer product of a mean over m of them is m
    times smaller than theirs.
    """
    parameters = [parameter for parameter in context.model.parameters() if parameter.requires_grad]
    limit = context.args.importance_images
    inputs, labels = (torch.cat(parts)[:limit] for parts in zip(*context.images("retain", limit), strict=True))
    count = min(GRADIENTS, len(labels))
    rows = torch.empty(count, sum(parameter.numel() for parameter in parameters), device=labels.device)
    with evaluation_mode(context.model):
        parts = zip(inputs.tensor_split(count), labels.tensor_split(count), strict=True)
        for row, (part, given) in enumerate(parts):
            loss = F.cross_entropy(context.logits(part, context.model), given)
            gradients = torch.autograd.grad(loss, parameters, materialize_grads=True)
            rows[row] = math.sqrt(len(given)) * torch.cat([gradient.flatten() for gradient in gradients])
    context.cost.images += len(labels)
    return rows


def spec(context: MethodContext) -> BaselineSpec:
    """θ ← θ + α·(n_f / n_r)·H⁻¹·∇CE(D_f), H the damped Fisher information of D_r.

    Source: Koh and Liang 2017, equation 2; Singh and Alistarh 2020 (WoodFisher).

    For the sum over D_f; the curvature is solved exactly for its gradients. As a baseline in Jia et al. 2023.
    """

    def begin() -> None:
        args, evaluator = context.args, context.evaluator
        upwards = torch.cat([value.flatten() for value in mean_gradient(context, "forget").values()])
        step = woodbury_solve(_gradient_rows(context), args.damping, upwards)
        step *= args.newton_step * evaluator.forget_images / evaluator.retain_images
        parameters = [parameter for parameter in context.model.parameters() if parameter.requires_grad]
        with torch.no_grad():
            for parameter, part in zip(parameters, step.split([p.numel() for p in parameters]), strict=True):
                parameter.add_(part.view(parameter.shape))

    return BaselineSpec(begin=begin)


METHOD = one_shot(
    spec,
    search={"newton_step": Log(1e-3, 10.0), "damping": Log(1e-3, 1.0)},
    newton_step=1.0, damping=0.01, importance_images=1000,
)
