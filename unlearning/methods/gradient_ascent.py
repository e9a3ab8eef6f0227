"""Gradient ascent: unlearn the forget set by climbing its loss; no retain image is read."""

from torch import Tensor

from optimizer.problems import Batch
from unlearning.context import Case
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.method import published
from unlearning.methods.plan import Pass, Plan


def plan(case: Case) -> Plan:
    """−CE(D_f). Source: Graves et al. 2021; Thudi et al. 2022."""
    climbed = cross_entropy(case, "forget")

    def loss(forget: Batch) -> Tensor:
        return -climbed(forget=forget)

    part = Pass("ascent", case.stream("forget"), loss)
    return Plan(lambda epoch: [part])


METHOD = published(plan, num_epochs=5, learning_rate=1e-4)
