"""Fine-tuning: on with the retain set, and trust that the rest fades (catastrophic forgetting)."""

from collections.abc import Callable

from torch import Tensor
from torch.nn import functional as F

from optimizer.problems import Batch
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.method import RETAIN_EPOCHS, Log, published


def cross_entropy(context: MethodContext, stream: str) -> Callable[..., Tensor]:
    """Mean cross-entropy of the model on a stream's batch, as a loss of a pass."""

    def loss(**batch: Batch) -> Tensor:
        inputs, labels = batch[stream]
        return F.cross_entropy(context.logits(inputs), labels)

    return loss


def spec(context: MethodContext) -> BaselineSpec:
    """CE(D_r). Source: Jia et al. 2023 (Unlearn-Sparse; their commands)."""
    part = LossPass("finetune", context.stream("retain"), cross_entropy(context, "retain"))
    return BaselineSpec(lambda epoch: [part])


SEARCH = {"learning_rate": Log(1e-3, 2e-1), "num_epochs": RETAIN_EPOCHS}
METHOD = published(spec, search=SEARCH, num_epochs=10, batch_size=256, learning_rate=0.01)
