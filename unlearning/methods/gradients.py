"""Gradients and Fisher information of a model on many images: what several methods look at before they act."""

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from helper_functions.training.inference import evaluation_mode
from unlearning.context import MethodContext

# Images whose gradients are held at once: one gradient is as large as the model.
CHUNK = 16


def mean_gradient(context: MethodContext, stream: str, limit: int | None = None) -> dict[str, Tensor]:
    """Gradient of the mean cross-entropy over a stream's images, in eval mode, by parameter name.

    Of parameters that the logits do not depend on it is 0.
    """
    parameters = {name: value for name, value in context.model.named_parameters() if value.requires_grad}
    total = {name: torch.zeros_like(value) for name, value in parameters.items()}
    images = 0
    with evaluation_mode(context.model):
        for inputs, labels in context.images(stream, limit):
            loss = F.cross_entropy(context.logits(inputs, context.model), labels, reduction="sum")
            gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
            for name, gradient in zip(parameters, gradients, strict=True):
                total[name] += gradient
            images += len(labels)
    context.cost.images += images
    return {name: value / images for name, value in total.items()}


def diagonal_fisher(
    model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]], sample: torch.Generator | None = None
) -> tuple[dict[str, Tensor], int]:
    """Mean over images of the squared gradient of the loss, by parameter name, and how many images there were.

    In eval mode and float32, one gradient an image. On the given labels it is the empirical Fisher information; on
    labels drawn from the model's own predictions, the expectation is the true one (Kunstner et al. 2019, eq. 3 and 4).

    Args:
        model: left as it is.
        batches: `(inputs, labels)`.
        sample: draws labels from the model's predictions in place of the given ones.
    """
    squares = {name: torch.zeros_like(value) for name, value in model.named_parameters() if value.requires_grad}
    images = 0
    with evaluation_mode(model):
        for inputs, labels in batches:
            if sample is not None:
                with torch.no_grad():
                    labels = torch.multinomial(model(inputs).softmax(1), 1, generator=sample)[:, 0]
            _add_squares(model, inputs, labels, squares)
            images += len(labels)
    return {name: value / images for name, value in squares.items()}, images


def _add_squares(model: nn.Module, inputs: Tensor, labels: Tensor, squares: dict[str, Tensor]) -> None:
    """Add every image's squared gradient; one image at a time on a CPU, where batched ones take four times as long."""
    parameters = {name: value for name, value in model.named_parameters() if value.requires_grad}
    if inputs.device.type == "cpu":
        for image, label in zip(inputs.split(1), labels.split(1), strict=True):
            loss = F.cross_entropy(model(image), label)
            gradients = torch.autograd.grad(loss, list(parameters.values()), materialize_grads=True)
            for square, gradient in zip(squares.values(), gradients, strict=True):
                square.addcmul_(gradient, gradient)
        return

    def loss_of(weights: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        return F.cross_entropy(functional_call(model, weights, (image[None],)), label[None])

    one_by_one = vmap(grad(loss_of), in_dims=(None, 0, 0))
    weights = {name: value.detach() for name, value in parameters.items()}
    for part, given in zip(inputs.split(CHUNK), labels.split(CHUNK), strict=True):
        for name, gradient in one_by_one(weights, part, given).items():
            squares[name] += gradient.square().sum(0)
