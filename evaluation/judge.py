"""The figures of one model: accuracy, loss and attack on every part of the data."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.image_sets import ImageSets
from evaluation.attacks import class_matched, loss_attack_auc
from helper_functions.devices import Precision
from helper_functions.inference import predict
from helper_functions.metrics import summarise

PARTS = ("retain", "forget", "unseen", "validation", "test")


@dataclasses.dataclass
class Judgement:
    """Figures by name, and the per-image losses `[n]` of each part that they were computed from."""

    figures: dict[str, float | None]
    losses: dict[str, Tensor]


def utility(logits: Tensor, labels: Tensor, part: str) -> dict[str, float]:
    """`part_top1` and `part_top5` in percent and `part_loss` (mean cross-entropy) of logits `[N, K]`, labels `[N]`."""
    return {f"{part}_{name}": value for name, value in summarise(logits, labels).items()}


def judge(model: nn.Module, sets: ImageSets, precision: Precision, *, final: bool = True) -> Judgement:
    """Judge a model on retain, forget (given labels, and true ones as `forget_true`), unseen, validation and test.

    Where whole classes are forgotten, `test_remaining` is the test part without them.

    Args:
        final: whether test images are touched, and the attack (`mia_auc`) is made, which compares forget images
            with class-matched test images; during a run neither is.
    """
    figures: dict[str, float | None] = {}
    losses: dict[str, Tensor] = {}
    for part in PARTS if final else PARTS[:-1]:
        indices = getattr(sets.splits, part)
        if len(indices) == 0:
            continue
        logits, labels = predict(model, sets.evaluation(indices), precision)
        figures |= utility(logits, labels, part)
        losses[part] = F.cross_entropy(logits, labels, reduction="none").cpu()
        if part == "forget":
            figures |= utility(logits, sets.true_labels[indices.to(precision.device)], "forget_true")
        if part == "test":
            remaining = ~torch.isin(labels, _forgotten_classes(sets).to(labels.device))
            if not remaining.all():
                figures |= utility(logits[remaining], labels[remaining], "test_remaining")
    if final and "forget" in losses:
        figures["mia_auc"] = _attack(sets, losses)
    return Judgement(figures, losses)


def _forgotten_classes(sets: ImageSets) -> Tensor:
    """Classes that occur in the forget set and no longer in the retain set, int64."""
    forget, retain = sets.splits.labels[sets.splits.forget], sets.splits.labels[sets.splits.retain]
    return torch.tensor(sorted(set(forget.tolist()) - set(retain.tolist())), dtype=torch.int64)


def _attack(sets: ImageSets, losses: dict[str, Tensor]) -> float | None:
    splits = sets.splits
    members, others = class_matched(sets.dataset.labels, splits.forget, splits.test, splits.seed)
    # Index sets are sorted, so that an image's place among the losses is found by bisection.
    return loss_attack_auc(
        losses["forget"][torch.searchsorted(splits.forget, members.contiguous())],
        losses["test"][torch.searchsorted(splits.test, others.contiguous())],
        splits.seed,
    )

