"""The figures of one model: accuracy and loss on every part of the data, an attack and a discriminator."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.image_sets import ImageSets
from evaluation.attacks import class_matched, loss_attack_auc
from evaluation.discriminator import discriminator_auc
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
        final: whether test images are touched, and forget images are compared with test images of the same true
            classes, by the attack (`mia_auc`) and by the discriminator (`discriminator_auc` and the ends of its 95 %
            interval, `_low` and `_high`); during a run neither is done.
    """
    figures: dict[str, float | None] = {}
    losses: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    for part in PARTS if final else PARTS[:-1]:
        indices = getattr(sets.splits, part)
        if len(indices) == 0:
            continue
        logits, labels = predict(model, sets.evaluation(indices), precision)
        figures |= utility(logits, labels, part)
        losses[part] = F.cross_entropy(logits, labels, reduction="none").cpu()
        if final and part in ("forget", "test"):
            outputs[part] = logits.cpu()
        if part == "forget":
            figures |= utility(logits, sets.true_labels[indices.to(precision.device)], "forget_true")
        if part == "test":
            remaining = ~torch.isin(labels, _forgotten_classes(sets).to(labels.device))
            if not remaining.all():
                figures |= utility(logits[remaining], labels[remaining], "test_remaining")
    if final and "forget" in losses:
        figures |= _compare(sets, losses, outputs)
    return Judgement(figures, losses)


def _forgotten_classes(sets: ImageSets) -> Tensor:
    """Classes that occur in the forget set and no longer in the retain set, int64."""
    forget, retain = sets.splits.labels[sets.splits.forget], sets.splits.labels[sets.splits.retain]
    return torch.tensor(sorted(set(forget.tolist()) - set(retain.tolist())), dtype=torch.int64)


def _compare(sets: ImageSets, losses: dict[str, Tensor], outputs: dict[str, Tensor]) -> dict[str, float | None]:
    """`mia_auc` and `discriminator_auc` with its interval: forget images against as many test images of each class.

    Matched by true class. The discriminator takes true labels for both: on given ones that are wrong, a retrained
    model, too, could be told apart.

    Args:
        losses: on given labels, `[P]` of part `forget` and `[Q]` of part `test`.
        outputs: logits `[P, K]` and `[Q, K]` of the same.
    """
    splits, labels = sets.splits, sets.dataset.labels
    forget, test = class_matched(labels, splits.forget, splits.test, splits.seed)
    # Index sets are sorted, so that an image's place among the losses is found by bisection.
    rows = torch.searchsorted(splits.forget, forget.contiguous())
    test_rows = torch.searchsorted(splits.test, test.contiguous())
    figures = {"mia_auc": loss_attack_auc(losses["forget"][rows], losses["test"][test_rows], splits.seed)}
    found = discriminator_auc(
        outputs["forget"][rows], labels[forget], outputs["test"][test_rows], labels[test], splits.seed
    )
    for name, end in (("", "value"), ("_low", "low"), ("_high", "high")):
        figures[f"discriminator_auc{name}"] = None if found is None else getattr(found, end)
    return figures
