"""FaLW: random labels, each forget image weighted by how far it is from unseen images of its class."""

import torch
from torch import Tensor
from torch.nn import functional as F

from helper_functions.training.inference import predict
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.method import RETAIN_EPOCHS, ClassCounts, Log, Span, published
from unlearning.methods.random_labels import beside_their_own

SMALLEST_DEVIATION = 1e-8


def label_probabilities(logits: Tensor, labels: Tensor) -> Tensor:
    """Probabilities of the labels, `[B]`, from logits `[B, K]`."""
    return logits.softmax(1).gather(1, labels[:, None])[:, 0]


def class_statistics(values: Tensor, labels: Tensor, num_classes: int) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation, `[K]` each, of values `[n]` by class; of a class without any, 0 and infinity."""
    member = F.one_hot(labels, num_classes).to(values.dtype)
    counts = member.sum(0)
    mean = values @ member / counts.clamp(min=1)
    deviation = ((values - mean[labels]).square() @ member / counts.clamp(min=1)).sqrt().clamp(min=SMALLEST_DEVIATION)
    return mean, torch.where(counts > 0, deviation, torch.inf)


def forgetting_weights(scores: Tensor, balance: Tensor) -> Tensor:
    """1 + sign(z)·tanh(|z|)^(1/B), for z-scores and balance factors `[n]`: near 2 is not forgotten, near 0 too much."""
    return 1 + scores.sign() * scores.abs().tanh() ** (1 / balance)


def spec(context: MethodContext) -> BaselineSpec:
    """Random labels, an image's loss weighted by the z-score of its label's probability among unseen images of its
    class. Source: Yu et al. 2026, equations 5 to 7.

    The weight is 1 + sign(z)·tanh(|z|)^(1/B), with B = (n_f / (K·n_f,class))^τ for the class's forget images. Unseen
    images are measured before each epoch; in the paper, before each step.
    """
    evaluator = context.evaluator
    counts = torch.bincount(evaluator.forget_labels, minlength=context.num_classes)
    balance = (counts.sum() / (context.num_classes * counts.clamp(min=1))) ** context.args.balance

    def begin() -> dict[str, list[float]]:
        logits, labels = predict(context.model, evaluator.views["unseen"], context.precision)
        found = class_statistics(label_probabilities(logits, labels), labels, context.num_classes)
        return {name: values.tolist() for name, values in zip(("mean", "deviation"), found, strict=True)}

    def loss(forget: tuple[Tensor, Tensor, Tensor]) -> dict[str, Tensor]:
        inputs, labels, drawn = forget
        logits = context.logits(inputs)
        mean, deviation = (torch.tensor(relabel.found[name], device=logits.device) for name in ("mean", "deviation"))
        scores = (label_probabilities(logits.detach(), labels) - mean[labels]) / deviation[labels]
        weights = forgetting_weights(scores, balance[labels])
        return {"loss": (weights * F.cross_entropy(logits, drawn, reduction="none")).mean(), "weight": weights.mean()}

    relabel = LossPass("relabel", context.stream("forget"), loss, beside_their_own(context), begin)
    repair = LossPass("repair", context.stream("retain"), cross_entropy(context, "retain"))
    return BaselineSpec(lambda epoch: [relabel, repair])


def refuses(target: str, counts: ClassCounts) -> str | None:
    """Wrong labels, and classes of which there is no unseen image."""
    if target == "chance":
        return "it compares forget images with unseen ones of their label, whose labels are right; take salun"
    if not (counts.unseen[counts.forget > 0] > 0).any():
        return "it needs unseen images of the forget set's classes, and there are none; take salun"
    return None


METHOD = published(
    spec,
    search={"learning_rate": Log(1e-4, 1e-1), "num_epochs": RETAIN_EPOCHS, "balance": Span(0.05, 0.5)},
    refuses=refuses, num_epochs=10, batch_size=256, learning_rate=0.01, balance=0.15,
)  # fmt: skip
