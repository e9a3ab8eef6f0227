"""Random labels: teach the forget images any label but their own, then repair on the retain set."""

from collections.abc import Callable

import torch
from torch import Tensor

from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.method import RETAIN_EPOCHS, Log, published


def other_labels(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """For each label `[B]` another one, uniformly at random, int64 `[B]`."""
    shifts = torch.randint(1, num_classes, labels.shape, generator=generator, device=labels.device)
    return (labels + shifts) % num_classes


def beside_their_own(context: MethodContext) -> Callable[[dict], dict]:
    """Gives, of a batch of forget images, inputs, labels and another label for each."""

    def answers(batch: dict) -> dict:
        inputs, labels = batch["forget"]
        return {"forget": (inputs, labels, other_labels(labels, context.num_classes, context.generator))}

    return answers


def spec(context: MethodContext) -> BaselineSpec:
    """CE on D_f to random labels but the image's own, then CE(D_r). Source: Golatkar et al. 2020; Fan et al. 2024."""

    def answers(batch: dict) -> dict:
        inputs, labels = batch["forget"]
        return {"forget": (inputs, other_labels(labels, context.num_classes, context.generator))}

    parts = [
        LossPass("relabel", context.stream("forget"), cross_entropy(context, "forget"), answers),
        LossPass("repair", context.stream("retain"), cross_entropy(context, "retain")),
    ]
    return BaselineSpec(lambda epoch: parts)


RELABELLING = {"learning_rate": Log(1e-4, 1e-1), "num_epochs": RETAIN_EPOCHS}
METHOD = published(spec, search=RELABELLING, num_epochs=10, batch_size=256, learning_rate=0.01)
