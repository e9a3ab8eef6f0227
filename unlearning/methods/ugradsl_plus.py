"""UGradSL+: ascent on the forget loss with negatively smoothed labels, and fine-tuning, at a fixed exchange rate."""

from torch import Tensor
from torch.nn import functional as F

from optimizer.problems import Batch
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.method import RETAIN_EPOCHS, RETAIN_WEIGHTS, Log, Span, published


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy to (1 − α)·one-hot + α / K, 0-d; α may be negative, which torch's own does not allow.

    Args:
        logits: `[B, K]`.
        labels: `[B]`.
        smoothing: α.
    """
    logs = logits.log_softmax(1)
    return (1 - smoothing) * F.nll_loss(logs, labels) - smoothing * logs.mean()


def spec(context: MethodContext) -> BaselineSpec:
    """p·CE(D_r) − (1−p)·CE(D_f) to labels smoothed by α < 0, an epoch one pass over D_r. Source: Di et al. 2026,
    section 4 (UGradSL+).
    """
    weight, smoothing = context.args.retain_weight, -context.args.smoothing

    def loss(retain: Batch, forget: Batch) -> dict[str, Tensor]:
        forget_logits, retain_logits = context.streams(forget[0], retain[0])
        kept = F.cross_entropy(retain_logits, retain[1])
        climbed = smoothed_cross_entropy(forget_logits, forget[1], smoothing)
        return {"loss": weight * kept - (1 - weight) * climbed, "retain_loss": kept, "forget_loss": climbed}

    part = LossPass("ugradsl_plus", context.pairs("retain"), loss)
    return BaselineSpec(lambda epoch: [part])


METHOD = published(
    spec,
    search={
        "learning_rate": Log(1e-3, 5e-2), "num_epochs": RETAIN_EPOCHS, "retain_weight": RETAIN_WEIGHTS,
        "smoothing": Span(0.05, 1.0),
    },
    retain_weight=0.95, smoothing=0.2, learning_rate=0.01,
)  # fmt: skip
