"""NegGrad+: down the retain loss and up the forget loss at once, at a fixed exchange rate."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from optimizer.problems import Batch
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.method import RETAIN_EPOCHS, RETAIN_WEIGHTS, Log, published


def exchange(context: MethodContext, name: str, forget_loss: Callable[[Tensor, Tensor], Tensor]) -> BaselineSpec:
    """α·CE(D_r) less 1−α times a loss of forget logits `[B, K]` and labels `[B]`, an epoch one pass over D_r."""
    weight = context.args.retain_weight

    def loss(retain: Batch, forget: Batch) -> dict[str, Tensor]:
        forget_logits, retain_logits = context.streams(forget[0], retain[0])
        kept, climbed = F.cross_entropy(retain_logits, retain[1]), forget_loss(forget_logits, forget[1])
        return {"loss": weight * kept - (1 - weight) * climbed, "retain_loss": kept, "forget_loss": climbed}

    part = LossPass(name, context.pairs("retain"), loss)
    return BaselineSpec(lambda epoch: [part])


def spec(context: MethodContext) -> BaselineSpec:
    """α·CE(D_r) − (1−α)·CE(D_f), an epoch one pass over D_r. Source: Kurmanji et al. 2023, section 4."""
    return exchange(context, "neggrad_plus", F.cross_entropy)


METHOD = published(
    spec,
    search={"learning_rate": Log(1e-3, 5e-2), "num_epochs": RETAIN_EPOCHS, "retain_weight": RETAIN_WEIGHTS},
    retain_weight=0.95, learning_rate=0.01,
)
