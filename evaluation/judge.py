"""Figures of models: accuracy and loss on every part of the data, attacks, distances to retrained models."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.image_sets import ImageSets
from data.views import fixed_sample
from evaluation.attacks.discriminator import discriminator_auc
from evaluation.attacks.intervals import auc_figures, auc_with_interval, tpr_at_fpr
from evaluation.attacks.loss import ATTACKER_IMAGES, attack_efficacy, loss_attack
from evaluation.attacks.matching import class_matched
from evaluation.attacks.rmia import rmia_scores
from evaluation.gaps import Figures, is_retrained
from evaluation.metrics import activation_distance, js_divergence, utility
from helper_functions.progress import progress
from helper_functions.training.devices import Precision
from helper_functions.training.inference import predict

PARTS = ("retain", "forget", "forgotten", "unseen", "validation", "test")
HELD_OUT = ("unseen", "validation")
# Parts whose logits attacks and distances read.
KEPT = ("forget", "validation", "test")
Outputs = dict[str, Tensor]


@dataclasses.dataclass
class Judgement:
    """Figures by name, and what they were computed from, part by part, on the CPU.

    losses: cross-entropies on the given labels, `[n]`. logits: `[n, K]` of forget, validation and test images; empty
    during a run. retain_right, forget_right: which of the evaluated retain images, and of the forget images, are
    classified correctly, bool `[n]`. held_out_right: which of the unseen and validation images of classes that stay.
    """

    figures: Figures
    losses: Outputs
    logits: Outputs
    retain_right: Tensor
    held_out_right: Tensor
    forget_right: Tensor


def judge_all(
    models: dict[str, nn.Module], sets: ImageSets, precision: Precision, **how: bool | int | None
) -> dict[str, Judgement]:
    """Judge models as `judge` does, in the order given, and compare each with the retrained ones.

    Every model's figures are extended by `against_retrained`, those of retrained models against the other retrained
    ones, which gives the noise floor. `how` are `final` and `retain_images` of `judge`; nothing is compared unless
    `final`.
    """
    judged = progress(models.items(), "judging models")
    judgements = {name: judge(model, sets, precision, **how) for name, model in judged}
    if not how.get("final", True) or len(sets.splits.forget) == 0:
        return judgements
    for name, judgement in judgements.items():
        references = [other.logits for key, other in judgements.items() if is_retrained(key) and key != name]
        if references:
            judgement.figures |= against_retrained(sets, judgement.logits, references)
    return judgements


def judge(
    model: nn.Module, sets: ImageSets, precision: Precision, *, final: bool = True, retain_images: int | None = None
) -> Judgement:
    """Judge a model on retain, forget (given labels, and true ones as `forget_true`), unseen, validation and test.

    In a sequence of requests, `forgotten` are the images of earlier ones, on given labels; no method reads them.

    Where whole classes or subclasses are forgotten, `test_remaining` is the test part without them; where the data set
    has superclasses, `test_adjacent` are the other classes of their superclasses and `test_remote` all others.

    Args:
        final: whether test images are read and attacks are run; False during a run.
        retain_images: how many retain images are evaluated, the same ones for every model; None: all of them.
    """
    figures, losses, outputs = {}, {}, {}
    right: Outputs = {part: torch.zeros(0, dtype=torch.bool) for part in ("retain", "forget", *HELD_OUT)}
    retain = fixed_sample(sets.splits.retain, retain_images)
    for part in PARTS if final else PARTS[:-1]:
        indices = retain if part == "retain" else getattr(sets.splits, part)
        if len(indices) == 0:
            continue
        logits, labels = predict(model, sets.evaluation(indices), precision)
        figures |= utility(logits, labels, part)
        losses[part] = F.cross_entropy(logits, labels, reduction="none").cpu()
        if final and part in KEPT:
            outputs[part] = logits.cpu()
        if part in right:
            right[part] = (logits.argmax(1) == labels).cpu()
        if part == "forget":
            figures |= utility(logits, sets.true_labels[indices.to(precision.device)], "forget_true")
        if part == "test":
            figures |= _by_class_group(sets, logits, labels)
    if final and {"forget", "test"} <= losses.keys():
        figures |= against_test(sets, losses, outputs, retain)
    held_out_right = torch.cat([right[part][stays(sets, part)] for part in HELD_OUT])
    return Judgement(figures, losses, outputs, right["retain"], held_out_right, right["forget"])


def stays(sets: ImageSets, part: str) -> Tensor:
    """Which images of a part have classes, or subclasses, that retain images have as well, bool `[n]`."""
    return torch.isin(sets.strata[getattr(sets.splits, part)], sets.strata[sets.splits.retain])


def _by_class_group(sets: ImageSets, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Figures of test images of remaining, adjacent and remote classes; empty where no whole class is forgotten.

    A class, or a subclass where there are some, is forgotten if it has no retain image after this request and earlier
    ones.
    """
    splits, strata = sets.splits, sets.strata
    classes = sets.dataset.subclasses or sets.dataset.classes
    forgotten = set(strata[torch.cat([splits.forget, splits.forgotten])].tolist())
    forgotten -= set(strata[splits.retain].tolist())
    names = {classes[label] for label in forgotten}
    families = [family for family in sets.dataset.superclasses.values() if names & set(family)]
    related = {classes.index(name) for family in families for name in family} - forgotten
    groups = {"remaining": set(range(len(classes))) - forgotten}
    if families:
        groups |= {"adjacent": related, "remote": groups["remaining"] - related}
    found: dict[str, float] = {}
    for name, group in groups.items():
        chosen = torch.isin(strata[splits.test], torch.tensor(sorted(group), dtype=torch.int64)).to(labels.device)
        if forgotten and chosen.any():
            found |= utility(logits[chosen], labels[chosen], f"test_{name}")
    return found


def against_test(sets: ImageSets, losses: Outputs, logits: Outputs, retain: Tensor) -> Figures:
    """`mia_...` and `discriminator_auc` with its interval: forget images against as many test images of each class.

    Matched by true class. The discriminator reads true labels of both: given labels that are wrong would expose a
    retrained model as well. `mia_efficacy` differs: its attacker learns from retain images against as many test images
    of each class (test images of wholly forgotten classes are in neither) and judges all forget images.

    `losses` are those on given labels; `retain` are the retain images among them, int64 in ascending order.
    """
    splits, labels = sets.splits, sets.dataset.labels
    forget, test = _matched_rows(sets)
    figures = loss_attack(losses["forget"][forget], losses["test"][test], splits.seed)
    figures["mia_efficacy"] = None
    if "retain" in losses:
        # The matched images are in random order, so that the first ones are a sample.
        known = class_matched(sets.dataset.strata, retain, splits.test, splits.seed)
        members, others = (
            losses[part][torch.searchsorted(where, indices[:ATTACKER_IMAGES])]
            for part, where, indices in zip(("retain", "test"), (retain, splits.test), known, strict=True)
        )
        figures["mia_efficacy"] = attack_efficacy(members, others, losses["forget"])
    found = discriminator_auc(
        logits["forget"][forget], labels[splits.forget[forget]], logits["test"][test], labels[splits.test[test]],
        splits.seed,
    )  # fmt: skip
    return figures | auc_figures("discriminator_auc", found)


def _matched_rows(sets: ImageSets) -> tuple[Tensor, Tensor]:
    """Positions in their parts of forget images and of as many test images of each true class, in random order."""
    splits = sets.splits
    forget, test = class_matched(sets.dataset.strata, splits.forget, splits.test, splits.seed)
    return torch.searchsorted(splits.forget, forget), torch.searchsorted(splits.test, test)


def against_retrained(sets: ImageSets, logits: Outputs, references: list[Outputs]) -> Figures:
    """`js_divergence` and `activation_distance` to retrained models, and RMIA with these as reference models.

    Distances are on all forget images, means over the retrained models. RMIA attacks forget images and test images of
    the same classes by given labels; its population is the validation part. `references` are the logits of each
    retrained model, one or more.

    All None where an output is not finite; those of RMIA also where there are no such test or validation images.
    """
    distances = {"js_divergence": js_divergence, "activation_distance": activation_distance}
    empty = {**auc_figures("rmia_auc", None), "rmia_tpr": None}
    if not all(part.isfinite().all() for model in (logits, *references) for part in model.values()):
        return dict.fromkeys(distances) | empty
    figures = {
        name: sum(distance(logits["forget"], other["forget"]) for other in references) / len(references)
        for name, distance in distances.items()
    }
    splits, (forget, test) = sets.splits, _matched_rows(sets)
    if len(forget) == 0 or "validation" not in logits:
        return figures | empty

    def label_logs(outputs: Outputs) -> tuple[Tensor, Tensor]:
        """Log-probabilities of the given labels: of targets, forget images first, and of the population."""
        logs = {
            part: -F.cross_entropy(outputs[part].double(), splits.labels[getattr(splits, part)], reduction="none")
            for part in KEPT
        }
        return torch.cat([logs["forget"][forget], logs["test"][test]]), logs["validation"]

    other = [torch.stack(part) for part in zip(*map(label_logs, references), strict=True)]
    members, others = rmia_scores(*label_logs(logits), *other).split(len(forget))
    found = auc_with_interval(members, others, splits.seed)
    return figures | auc_figures("rmia_auc", found) | {"rmia_tpr": tpr_at_fpr(members, others)}
