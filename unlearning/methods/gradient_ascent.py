"""Gradient ascent: unlearn the forget set by climbing its loss; no retain image is read."""

from torch import Tensor

from optimizer.problems import Batch
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec, LossPass
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.method import Log, Span, published


def spec(context: MethodContext) -> BaselineSpec:
    """−CE(D_f). Source: Graves et al. 2021; commands of Jia et al. 2023."""
    climbed = cross_entropy(context, "forget")

    def loss(forget: Batch) -> Tensor:
        return -climbed(forget=forget)

    part = LossPass("ascent", context.stream("forget"), loss)
    return BaselineSpec(lambda epoch: [part])


SEARCH = {"learning_rate": Log(1e-5, 1e-2), "num_epochs": Span(1, 10)}
METHOD = published(spec, search=SEARCH, num_epochs=5, batch_size=256, learning_rate=1e-4)
