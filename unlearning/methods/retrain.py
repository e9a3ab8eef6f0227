"""Retrain: the retain set alone, from scratch; the gold standard, as a method."""

from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.method import published


def spec(context: MethodContext) -> BaselineSpec:
    """Every weight drawn anew, then CE(D_r)."""
    part = LossPass("retrain", context.stream("retain"), cross_entropy(context, "retain"))
    return BaselineSpec(
        lambda epoch: [part], begin=lambda: context.model.load_state_dict(context.fresh().state_dict())
    )


METHOD = published(spec, num_epochs=30, learning_rate=0.1, schedule="one_cycle")
