"""MU-Mis: lower how much the label's logit responds to a forget image, raise another one's; no retain image is read."""

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from helper_functions.training.inference import evaluation_mode
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.method import Log, Span, published
from unlearning.methods.random_labels import beside_their_own, other_labels


def sensitivities(context: MethodContext, inputs: Tensor, *classes: Tensor) -> list[Tensor]:
    """‖∇ₓ f_c(x)‖² of each image, `[B]`, for each assignment `[B]` of classes to images; differentiable.

    In eval mode; in training mode the images of a batch share its statistics.
    """
    inputs = inputs.detach().requires_grad_()
    # Of attention, only this form can be differentiated twice.
    with sdpa_kernel(SDPBackend.MATH):
        logits = context.logits(inputs, context.model)
        outputs = [logits.gather(1, wanted[:, None]).sum() for wanted in classes]
        gradients = [torch.autograd.grad(output, [inputs], create_graph=True)[0] for output in outputs]
    # Of the last bias, which no sensitivity depends on, the gradient is 0.
    return [gradient.flatten(1).square().sum(1) + 0 * logits.sum() for gradient in gradients]


def spec(context: MethodContext) -> BaselineSpec:
    """‖∇ₓ f_c‖² − ‖∇ₓ f_c'‖² on D_f, c the label and c' another class. Source: Cheng et al. 2026.

    Ends with the epoch after which the second is `recovery` times the original's.
    """

    def others_sensitivity() -> float:
        found, generator = [], torch.Generator(context.precision.device).manual_seed(context.seed)
        with evaluation_mode(context.model):
            for inputs, labels in context.images("forget"):
                others = other_labels(labels, context.num_classes, generator)
                found.append(sensitivities(context, inputs, others)[0].detach())
                context.cost.images += len(labels)
        return torch.cat(found).mean().item()

    def loss(forget: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        own, other = (each.mean() for each in sensitivities(context, *forget))
        return {"loss": own - other, "own_sensitivity": own, "other_sensitivity": other}

    recovered = context.args.recovery * others_sensitivity()
    part = LossPass("sensitivity", context.stream("forget"), loss, beside_their_own(context))
    return BaselineSpec(lambda epoch: [part], done=lambda: others_sensitivity() >= recovered)


METHOD = published(
    spec,
    search={"learning_rate": Log(1e-6, 1e-2), "num_epochs": Span(1, 10), "recovery": Log(1.0, 10.0)},
    num_epochs=10, learning_rate=1e-4, recovery=1.0, bn="frozen",
)
