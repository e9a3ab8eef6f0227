"""A model's outputs compared: forget with class-matched test images, and with the outputs of retrained models."""

import torch
from torch import Tensor
from torch.nn import functional as F

from data.image_sets import ImageSets
from evaluation.attacks.discriminator import discriminator_auc
from evaluation.attacks.intervals import auc_figures, auc_with_interval, tpr_at_fpr
from evaluation.attacks.loss import ATTACKER_IMAGES, attack_efficacy, class_matched, loss_attack, match_targets
from evaluation.attacks.rmia import rmia_scores
from evaluation.metrics import activation_distance, js_divergence

Outputs = dict[str, Tensor]


def against_test(sets: ImageSets, losses: Outputs, logits: Outputs, retain: Tensor) -> dict[str, float | None]:
    """`mia_...` and `discriminator_auc` with its interval: forget images against as many test images of each class.

    Matched by true class. The discriminator takes true labels for both: on given ones that are wrong, a retrained
    model, too, could be told apart. `mia_efficacy` is the exception: its attacker learns from retain images against as
    many test images of each class (test images of wholly forgotten classes are in neither) and judges all forget
    images.

    Args:
        sets: data and splits.
        losses: on given labels, of the parts `forget`, `retain` and `test`.
        logits: `[n, K]` of the parts `forget` and `test`.
        retain: the retain images whose losses these are, int64 in ascending order.
    """
    splits, labels = sets.splits, sets.dataset.labels
    if "test" not in losses:
        return {}
    targets = match_targets(labels, splits.forget, splits.test, splits.seed)
    forget, test = targets.forget_rows, targets.test_rows
    figures = loss_attack(losses["forget"][forget], losses["test"][test], splits.seed)
    figures["mia_efficacy"] = _efficacy(sets, losses, retain)
    found = discriminator_auc(
        logits["forget"][forget], labels[targets.forget], logits["test"][test], labels[targets.test], splits.seed
    )
    return figures | auc_figures("discriminator_auc", found)


def _efficacy(sets: ImageSets, losses: Outputs, retain: Tensor) -> float | None:
    splits, where = sets.splits, {"retain": retain, "test": sets.splits.test}
    if "retain" not in losses:
        return None
    # In an order drawn from the seed, so that the first ones are a sample.
    known = class_matched(sets.dataset.labels, *where.values(), splits.seed)
    members, others = (
        losses[part][torch.searchsorted(where[part], indices[:ATTACKER_IMAGES].contiguous())]
        for part, indices in zip(where, known, strict=True)
    )
    return attack_efficacy(members, others, losses["forget"])


def against_retrained(sets: ImageSets, logits: Outputs, references: list[Outputs]) -> dict[str, float | None]:
    """`js_divergence` and `activation_distance` to retrained models, and RMIA with these as reference models.

    Distances are on all forget images, means over the retrained models. RMIA tells the forget images from test images
    of the same classes by given labels; its population are the validation images.

    Args:
        sets: data and splits.
        logits: `[n, K]` of the parts `forget`, `validation` and `test` of one model.
        references: the same of each retrained model, one or more.

    Returns:
        All None where an output is not finite; those of RMIA, too, where there are no such test or validation images.
    """
    distances = {"js_divergence": js_divergence, "activation_distance": activation_distance}
    empty = {**auc_figures("rmia_auc", None), "rmia_tpr": None}
    if not all(part.isfinite().all() for model in (logits, *references) for part in model.values()):
        return dict.fromkeys(distances) | empty
    figures = {
        name: sum(distance(logits["forget"], other["forget"]) for other in references) / len(references)
        for name, distance in distances.items()
    }
    splits = sets.splits
    if "test" not in logits or "validation" not in logits:
        return figures | empty
    targets = match_targets(sets.dataset.labels, splits.forget, splits.test, splits.seed)
    if len(targets.forget) == 0:
        return figures | empty

    def label_logs(outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the given labels: of targets, forget images first, and of the population."""
        logs = [_label_logs(outputs[part], splits.labels[getattr(splits, part)]) for part in ("forget", "test")]
        population = _label_logs(outputs["validation"], splits.labels[splits.validation])
        return torch.cat([logs[0][targets.forget_rows], logs[1][targets.test_rows]]), population

    other = [torch.stack(part) for part in zip(*map(label_logs, references), strict=True)]
    scores = rmia_scores(*label_logs(logits), *other)
    members, others = scores.split(len(targets.forget))
    found = auc_with_interval(members, others, splits.seed)
    return figures | auc_figures("rmia_auc", found) | {"rmia_tpr": tpr_at_fpr(members, others)}


def _label_logs(logits: Tensor, labels: Tensor) -> Tensor:
    return -F.cross_entropy(logits.double(), labels, reduction="none")
