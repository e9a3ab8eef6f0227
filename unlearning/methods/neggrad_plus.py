"""NegGrad+: down the retain loss and up the forget loss at once, at a fixed exchange rate."""

from torch import Tensor
from torch.nn import functional as F

from optimizer.problems import Batch
from unlearning.context import Case
from unlearning.methods.method import published
from unlearning.methods.plan import Pass, Plan


def plan(case: Case) -> Plan:
    """α·CE(D_r) − (1−α)·CE(D_f), an epoch one pass over D_r. Source: Kurmanji et al. 2023, section 4."""
    weight = case.args.retain_weight

    def loss(retain: Batch, forget: Batch) -> dict[str, Tensor]:
        forget_logits, retain_logits = case.streams(forget[0], retain[0])
        kept, climbed = F.cross_entropy(retain_logits, retain[1]), F.cross_entropy(forget_logits, forget[1])
        return {"loss": weight * kept - (1 - weight) * climbed, "retain_loss": kept, "forget_loss": climbed}

    part = Pass("neggrad_plus", case.pairs("retain"), loss)
    return Plan(lambda epoch: [part])


METHOD = published(plan, retain_weight=0.95, learning_rate=0.01)
