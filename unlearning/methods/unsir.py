"""UNSIR: impair the classes that go by noise that the original cannot bear, then repair on the retain set."""

import torch
from torch import Tensor
from torch.nn import functional as F

from helper_functions.training.inference import evaluation_mode
from optimizer.problems import Batch
from unlearning.arguments import forget_batch_size
from unlearning.context import Case
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.method import published
from unlearning.methods.plan import Pass, Plan

# Weight of the mean square of the noise beside its loss, as in the authors' code.
NOISE_PENALTY = 0.1


def learn_noise(case: Case, classes: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Noise images that maximise the original's error on their labels; `count` for each class, and the labels.

    Args:
        case: its model is not changed.
        classes: int64 `[n]`.
        count: images for each class.
    """
    labels = classes.repeat_interleave(count)
    shape = next(iter(case.images("forget", 1)))[0].shape[1:]
    noise = torch.randn(len(labels), *shape, generator=case.generator, device=labels.device).requires_grad_()
    optimizer = torch.optim.Adam([noise], case.args.noise_learning_rate)
    with evaluation_mode(case.model):
        for _ in range(case.args.noise_steps):
            loss = -F.cross_entropy(case.logits(noise, case.model), labels) + NOISE_PENALTY * noise.square().mean()
            (noise.grad,) = torch.autograd.grad(loss, [noise])
            optimizer.step()
    case.cost.images += case.args.noise_steps * len(labels)
    return noise.detach(), labels


def plan(case: Case) -> Plan:
    """One epoch on retain images with noise among them that bears the labels of D_f, then epochs of CE(D_r).

    Source: Tarun et al. 2023, algorithm 1. Made for whole classes; elsewhere the classes of D_f are impaired all the
    same, as those who compare by it do.
    """
    classes = case.examination.forget_labels.unique()
    batch_size = forget_batch_size(case.args, case.examination.forget_images)
    noise, noise_labels = learn_noise(case, classes, max(1, batch_size // len(classes)))

    def answers(batch: dict) -> dict:
        inputs, labels = batch["retain"]
        return {"retain": (torch.cat([inputs, noise]), torch.cat([labels, noise_labels]))}

    def loss(retain: Batch) -> Tensor:
        return F.cross_entropy(case.logits(retain[0]), retain[1])

    retain = case.stream("retain")
    impair = Pass("impair", retain, loss, answers)
    repair = Pass("repair", retain, cross_entropy(case, "retain"))
    return Plan(lambda epoch: [impair] if epoch == 0 else [repair])


METHOD = published(plan, num_epochs=2, learning_rate=0.01, noise_steps=40, noise_learning_rate=0.1)
