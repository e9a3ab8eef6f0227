"""CF-k and EU-k: the last k layers alone are fine-tuned, or drawn anew and trained; the others are frozen."""

from torch import nn

from unlearning.case import Case
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.method import published
from unlearning.plan import Pass, Plan


def split_layers(model: nn.Module, count: int) -> tuple[list[nn.Module], list[nn.Module]]:
    """The modules that own weights, as those before the last `count` layers and those from there on.

    A layer is a convolution or a linear map, in the order in which the model registers them, with all that follows
    until the next one (its batch norm). With more layers asked for than there are, all of them are last.
    """
    owners = [module for module in model.modules() if any(True for _ in module.parameters(recurse=False))]
    starts = [i for i, module in enumerate(owners) if isinstance(module, nn.Conv2d | nn.Linear)]
    first = starts[-count] if count <= len(starts) else 0
    return owners[:first], owners[first:]


def _passes(case: Case) -> list[Pass]:
    return [Pass("last_layers", case.stream("retain"), cross_entropy(case, "retain"))]


def plan_cf(case: Case) -> Plan:
    """CE(D_r) in the last k layers. Source: Goel et al. 2022, section 4 (catastrophic forgetting-k)."""
    parts = _passes(case)
    frozen, _ = split_layers(case.model, case.args.last_layers)
    return Plan(lambda epoch: parts, frozen=tuple(frozen))


def plan_eu(case: Case) -> Plan:
    """The last k layers drawn anew, then CE(D_r) in them. Source: Goel et al. 2022, section 4 (exact unlearning-k)."""
    parts = _passes(case)
    frozen, last = split_layers(case.model, case.args.last_layers)

    def begin() -> None:
        _, drawn = split_layers(case.fresh(), case.args.last_layers)
        for module, fresh in zip(last, drawn, strict=True):
            module.load_state_dict(fresh.state_dict())

    return Plan(lambda epoch: parts, begin=begin, frozen=tuple(frozen))


CF_K = published(plan_cf, num_epochs=10, learning_rate=0.01, last_layers=5)
EU_K = published(plan_eu, num_epochs=10, learning_rate=0.01, last_layers=5)
