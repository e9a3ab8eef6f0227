"""Fine-tuning: on with the retain set, and trust that the rest fades (catastrophic forgetting)."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from optimizer.problems import Batch
from unlearning.context import Case
from unlearning.methods.method import published
from unlearning.methods.plan import Pass, Plan


def cross_entropy(case: Case, stream: str) -> Callable[..., Tensor]:
    """Mean cross-entropy of the model on a stream's batch, as a loss of a pass."""

    def loss(**batch: Batch) -> Tensor:
        inputs, labels = batch[stream]
        return F.cross_entropy(case.logits(inputs), labels)

    return loss


def plan(case: Case) -> Plan:
    """CE(D_r). Source: Jia et al. 2023 (Unlearn-Sparse), section 3."""
    part = Pass("finetune", case.stream("retain"), cross_entropy(case, "retain"))
    return Plan(lambda epoch: [part])


METHOD = published(plan, num_epochs=10, learning_rate=0.04, schedule="cosine")
