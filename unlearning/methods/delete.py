"""DELETE: keep the original's logits of all other classes on forget images; no retain image is read."""

import torch
from torch import Tensor
from torch.nn import functional as F

from helper_functions.metrics import class_mask
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.method import Log, Span, published


def without_own(logits: Tensor, labels: Tensor) -> Tensor:
    """Probabilities `[B, K]` of the softmax with the label's own class left out."""
    own = class_mask(labels, logits.shape[1])
    return logits.masked_fill(own, -torch.inf).softmax(1)


def spec(context: MethodContext) -> BaselineSpec:
    """KL(M_o without the label's class ‖ θ) on D_f. Source: Zhou et al. 2025 (DELETE), section 3."""
    original = context.original()

    def answers(batch: dict) -> dict:
        inputs, labels = batch["forget"]
        return {"forget": (inputs, without_own(original(inputs), labels))}

    def loss(forget: tuple[Tensor, Tensor]) -> Tensor:
        inputs, wanted = forget
        return F.kl_div(context.logits(inputs).log_softmax(1), wanted, reduction="batchmean")

    part = LossPass("delete", context.stream("forget"), loss, answers)
    return BaselineSpec(lambda epoch: [part])


SEARCH = {"learning_rate": Log(1e-5, 1e-2), "num_epochs": Span(1, 20)}
METHOD = published(spec, search=SEARCH, num_epochs=20, learning_rate=5e-5)
