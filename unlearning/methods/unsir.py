"""UNSIR: impair the classes that go by noise that the original cannot bear, then repair on the retain set."""

import torch
from torch import Tensor
from torch.nn import functional as F

from helper_functions.training.inference import evaluation_mode
from unlearning.arguments import forget_batch_size
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.method import RETAIN_EPOCHS, Log, Span, published

# Weight of the mean square of the noise beside its loss, as in the authors' code.
NOISE_PENALTY = 0.1


def learn_noise(context: MethodContext, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Noise images that maximise the original's error on their labels, `count` for each of the classes; the labels."""
    labels = classes.repeat_interleave(count)
    shape = next(iter(context.images("forget", 1)))[0].shape[1:]
    noise = torch.randn(len(labels), *shape, generator=context.generator, device=labels.device).requires_grad_()
    optimizer = torch.optim.Adam([noise], context.args.noise_learning_rate)
    with evaluation_mode(context.model):
        for _ in range(context.args.noise_steps):
            error = F.cross_entropy(context.logits(noise, context.model), labels)
            loss = -error + NOISE_PENALTY * noise.square().mean()
            (noise.grad,) = torch.autograd.grad(loss, [noise])
            optimizer.step()
    context.cost.images += context.args.noise_steps * len(labels)
    return noise.detach(), labels


def spec(context: MethodContext) -> BaselineSpec:
    """One epoch of CE(D_r) with noise that bears the labels of D_f, then epochs of CE(D_r).

    Source: Tarun et al. 2023, algorithm 1.

    Made for whole classes; elsewhere the classes of D_f are impaired as well, as in published comparisons.
    """
    classes = context.evaluator.forget_labels.unique()
    batch_size = forget_batch_size(context.args, context.evaluator.forget_images)
    noise, noise_labels = learn_noise(context, classes, max(1, batch_size // len(classes)))

    def answers(batch: dict) -> dict:
        inputs, labels = batch["retain"]
        return {"retain": (torch.cat([inputs, noise]), torch.cat([labels, noise_labels]))}

    retain, loss = context.stream("retain"), cross_entropy(context, "retain")
    impair, repair = LossPass("impair", retain, loss, answers), LossPass("repair", retain, loss)
    return BaselineSpec(lambda epoch: [impair] if epoch == 0 else [repair])


METHOD = published(
    spec,
    search={"learning_rate": Log(1e-3, 1e-1), "num_epochs": RETAIN_EPOCHS, "noise_steps": Span(10, 100)},
    num_epochs=2, batch_size=256, optimizer="adamw", learning_rate=0.01, weight_decay=0.0, noise_steps=40,
    noise_learning_rate=0.1,
)
