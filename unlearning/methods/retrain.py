"""Retrain: the retain set alone, from scratch; the gold standard, as a method."""

from unlearning.context import Case
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.method import published
from unlearning.methods.plan import Pass, Plan


def plan(case: Case) -> Plan:
    """Every weight is drawn anew, then the mean cross-entropy on D_r is minimised."""
    part = Pass("retrain", case.stream("retain"), cross_entropy(case, "retain"))
    return Plan(lambda epoch: [part], begin=lambda: redraw(case))


def redraw(case: Case) -> None:
    """Give the model the weights and running statistics of a freshly initialised one."""
    case.model.load_state_dict(case.fresh().state_dict())


METHOD = published(plan, num_epochs=30, learning_rate=0.1, schedule="one_cycle")
