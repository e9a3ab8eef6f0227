"""UGradSL+: ascent on the forget loss with negatively smoothed labels, and fine-tuning, at a fixed exchange rate."""

from torch import Tensor
from torch.nn import functional as F

from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec
from unlearning.methods.method import RETAIN_EPOCHS, RETAIN_WEIGHTS, Log, Span, published
from unlearning.methods.neggrad_plus import exchange


def smoothed_cross_entropy(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Mean cross-entropy of logits `[B, K]` to (1 − α)·one-hot + α / K, 0-d; α may be negative, unlike torch's own."""
    logs = logits.log_softmax(1)
    return (1 - smoothing) * F.nll_loss(logs, labels) - smoothing * logs.mean()


def spec(context: MethodContext) -> BaselineSpec:
    """p·CE(D_r) − (1−p)·CE(D_f) to labels smoothed by α < 0, an epoch one pass over D_r. Source: Di et al. 2026,
    section 4 (UGradSL+).
    """
    smoothing = -context.args.smoothing
    return exchange(context, "ugradsl_plus", lambda logits, labels: smoothed_cross_entropy(logits, labels, smoothing))


METHOD = published(
    spec,
    search={
        "learning_rate": Log(1e-3, 5e-2), "num_epochs": RETAIN_EPOCHS, "retain_weight": RETAIN_WEIGHTS,
        "smoothing": Span(0.05, 1.0),
    },
    retain_weight=0.95, smoothing=0.2, learning_rate=0.01,
)  # fmt: skip
