"""Random labels: teach the forget images any label but their own, then repair on the retain set."""

import torch
from torch import Tensor

from unlearning.context import Case
from unlearning.methods.finetune import cross_entropy
from unlearning.methods.method import published
from unlearning.methods.plan import Pass, Plan


def other_labels(labels: Tensor, num_classes: int, generator: torch.Generator) -> Tensor:
    """For each label `[B]` another one, uniformly at random, int64 `[B]`."""
    shifts = torch.randint(1, num_classes, labels.shape, generator=generator, device=labels.device)
    return (labels + shifts) % num_classes


def relabelled_passes(case: Case) -> list[Pass]:
    """An epoch: CE to labels drawn anew on D_f, then CE on D_r."""

    def answers(batch: dict) -> dict:
        inputs, labels = batch["forget"]
        return {"forget": (inputs, other_labels(labels, case.num_classes, case.generator))}

    return [
        Pass("relabel", case.stream("forget"), cross_entropy(case, "forget"), answers),
        Pass("repair", case.stream("retain"), cross_entropy(case, "retain")),
    ]


def plan(case: Case) -> Plan:
    """Source: Golatkar et al. 2020; as in Fan et al. 2024, appendix, with labels other than the image's own."""
    parts = relabelled_passes(case)
    return Plan(lambda epoch: parts)


METHOD = published(plan, num_epochs=10, learning_rate=0.01)
