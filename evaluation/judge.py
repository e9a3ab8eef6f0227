"""Figures of models: accuracy and loss on every part of the data, attacks, distances to retrained models."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contrastive_discrimination.held_out import Fold, resampled_folds
from data.image_sets import ImageSets
from data.random_streams import random_state
from data.views import fixed_sample
from evaluation.attacks.discriminator import discriminator_attack
from evaluation.attacks.intervals import (
    RESAMPLES,
    auc_difference,
    auc_figures,
    auc_with_interval,
    tpr_at_fpr,
    worst_tenth,
)
from evaluation.attacks.lira import logit_confidence
from evaluation.attacks.loss import ATTACKER_IMAGES, attack_efficacy, loss_attack, loss_folds
from evaluation.attacks.matching import class_matched
from evaluation.attacks.residual import residual_knowledge, right_near
from evaluation.attacks.rmia import rmia_scores
from evaluation.gaps import Figures, gap_intervals, resampled_shares, retrained_of
from evaluation.metrics import activation_distance, js_divergence, utility
from helper_functions.progress import progress
from helper_functions.training.devices import Precision
from helper_functions.training.inference import predict

PARTS = ("retain", "forget", "forgotten", "unseen", "validation", "test")
HELD_OUT = ("unseen", "validation")
# Parts whose logits attacks and distances read.
KEPT = ("forget", "validation", "test")
ORIGINAL = "original"
Outputs = dict[str, Tensor]


@dataclasses.dataclass
class Judgement:
    """Figures by name, and what they were computed from, part by part, on the CPU.

    losses: cross-entropies on the given labels, `[n]`. logits: `[n, K]` of forget, validation and test images; empty
    during a run. retain_right, forget_right, test_right: which of the evaluated retain images, of the forget images,
    and of the test images are classified correctly, bool `[n]`. held_out_right: which of the unseen and validation
    images of classes that stay. margins: log(p / (1 - p)) of the given labels, float64 `[n]`; empty during a run.
    folds: of the loss attack; None where it has no figures.
    """

    figures: Figures
    losses: Outputs
    logits: Outputs
    retain_right: Tensor
    held_out_right: Tensor
    forget_right: Tensor
    test_right: Tensor = dataclasses.field(default_factory=lambda: torch.zeros(0, dtype=torch.bool))
    margins: Outputs = dataclasses.field(default_factory=dict)
    folds: list[Fold] | None = None


def judge_all(
    models: dict[str, nn.Module], sets: ImageSets, precision: Precision, **how: bool | int | None
) -> dict[str, Judgement]:
    """Judge models as `judge` does, in the order given, and compare each with the retrained ones.

    Every model's figures are extended by `against_retrained` and `residual_knowledge`, those of retrained models
    against the other retrained ones, which gives the noise floor; and by `retain_exposure`, which is to the model
    called original. `how` are `final` and `retain_images` of `judge`; nothing is compared unless `final`.
    """
    judged = progress(models.items(), "judging models")
    judgements = {name: judge(model, sets, precision, **how) for name, model in judged}
    if not how.get("final", True) or len(sets.splits.forget) == 0:
        return judgements
    near = {name: right_near(model, sets, precision) for name, model in models.items()} if retrained_of(models) else {}
    for name, judgement in judgements.items():
        references = [key for key in retrained_of(judgements) if key != name]
        if references:
            outputs = [judgements[key].logits for key in references]
            judgement.figures |= against_retrained(sets, judgement.logits, outputs)
            knows = residual_knowledge(near[name], [near[key] for key in references])
            judgement.figures["residual_knowledge"] = knows
        if name != ORIGINAL and ORIGINAL in judgements:
            judgement.figures |= exposure(sets, judgement, judgements[ORIGINAL], how.get("retain_images"))
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
    figures, losses, outputs, margins, folds = {}, {}, {}, {}, None
    right: Outputs = {part: torch.zeros(0, dtype=torch.bool) for part in ("retain", "forget", "test", *HELD_OUT)}
    retain = fixed_sample(sets.splits.retain, retain_images)
    for part in PARTS if final else PARTS[:-1]:
        indices = retain if part == "retain" else getattr(sets.splits, part)
        if len(indices) == 0:
            continue
        logits, labels = predict(model, sets.evaluation(indices), precision)
        figures |= utility(logits, labels, part)
        losses[part] = F.cross_entropy(logits, labels, reduction="none").cpu()
        if final:
            margins[part] = logit_confidence(logits, labels)
        if final and part in KEPT:
            outputs[part] = logits.cpu()
        if part in right:
            right[part] = (logits.argmax(1) == labels).cpu()
        if part == "forget":
            figures |= utility(logits, sets.true_labels[indices.to(precision.device)], "forget_true")
        if part == "test":
            figures |= _by_class_group(sets, logits, labels)
    if final and {"forget", "test"} <= losses.keys():
        forget, test = _matched_rows(sets)
        folds = loss_folds(losses["forget"][forget], losses["test"][test], sets.splits.seed)
        figures |= against_test(sets, losses, outputs, retain, folds)
    held_out_right = torch.cat([right[part][stays(sets, part)] for part in HELD_OUT])
    return Judgement(
        figures, losses, outputs, right["retain"], held_out_right, right["forget"], right["test"], margins, folds
    )


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


def against_test(
    sets: ImageSets, losses: Outputs, logits: Outputs, retain: Tensor, folds: list[Fold] | None
) -> Figures:
    """`mia_...` and `discriminator_...`: forget images against as many test images of each class.

    Matched by true class. The discriminator reads true labels of both: given labels that are wrong would expose a
    retrained model as well. `mia_efficacy` differs: its attacker learns from retain images against as many test images
    of each class (test images of wholly forgotten classes are in neither) and judges all forget images. With these
    retain images as members, `retain_mia_auc` is the AUC of low losses.

    `losses` are those on given labels; `retain` are the retain images among them, int64 in ascending order; `folds`
    are those of the loss attack.
    """
    splits, labels = sets.splits, sets.dataset.labels
    forget, test = _matched_rows(sets)
    figures = loss_attack(folds, splits.seed)
    figures["mia_efficacy"], found = None, None
    if "retain" in losses:
        members, others = _known_losses(sets, losses, retain)
        figures["mia_efficacy"] = attack_efficacy(members, others, losses["forget"])
        found = auc_with_interval(-members, -others, splits.seed) if len(members) else None
    figures |= auc_figures("retain_mia_auc", found)
    return figures | discriminator_attack(
        logits["forget"][forget], labels[splits.forget[forget]], logits["test"][test], labels[splits.test[test]],
        splits.seed,
    )  # fmt: skip


def _known_losses(sets: ImageSets, losses: Outputs, retain: Tensor) -> tuple[Tensor, Tensor]:
    """Losses of up to `ATTACKER_IMAGES` retain images and of as many test images of each class, in random order."""
    test = sets.splits.test
    # The matched images are in random order, so that the first ones are a sample.
    known = class_matched(sets.dataset.strata, retain, test, sets.splits.seed)
    members, others = (
        losses[part][torch.searchsorted(where, indices[:ATTACKER_IMAGES])]
        for part, where, indices in zip(("retain", "test"), (retain, test), known, strict=True)
    )
    return members, others


def exposure(sets: ImageSets, after: Judgement, before: Judgement, retain_images: int | None) -> Figures:
    """`retain_exposure`: the rise of `retain_mia_auc` from before to after, from -1 to 1, with its interval.

    0 is ideal; positive where unlearning made the images that stay easier to recognise as training images. None where
    losses are not finite or no test image has a retained class. Source: arXiv 2605.01129.
    """
    retain, found = fixed_sample(sets.splits.retain, retain_images), None
    if all({"retain", "test"} <= judgement.losses.keys() for judgement in (after, before)):
        scores = [[-part for part in _known_losses(sets, each.losses, retain)] for each in (after, before)]
        found = auc_difference(*scores, sets.splits.seed) if len(scores[0][0]) else None
    return auc_figures("retain_exposure", found)


def intervals_of_gaps(judgements: dict[str, Judgement], sets: ImageSets) -> dict[str, dict[str, tuple[float, float]]]:
    """95 % bootstrap intervals over images of each other model's gaps and AvgGap, as `gap_intervals` gives them.

    Forget, retain and test images are drawn independently, the same for all models. Empty without a retrained model.
    """
    if not retrained_of(judgements):
        return {}
    resampled: dict[str, dict[str, Tensor]] = {name: {} for name in judgements}
    for part in ("forget", "retain", "test"):
        right = torch.stack([getattr(judgement, f"{part}_right") for judgement in judgements.values()])
        if right.shape[1]:
            shares = resampled_shares(right, RESAMPLES, random_state(sets.splits.seed, "intervals of gaps", part))
            for name, share in zip(judgements, 100 * shares, strict=True):
                resampled[name][f"{part}_top1"] = share
    for name, judgement in judgements.items():
        if judgement.folds is not None:
            resampled[name]["mia_auc"] = resampled_folds(judgement.folds, sets.splits.seed, RESAMPLES)
    return gap_intervals({name: judgement.figures for name, judgement in judgements.items()}, resampled)


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
    empty = {**auc_figures("rmia_auc", None), "rmia_tpr": None, **auc_figures("rmia_worst_tenth", None)}
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
    figures |= auc_figures("rmia_auc", auc_with_interval(members, others, splits.seed))
    figures |= auc_figures("rmia_worst_tenth", worst_tenth(members, others, splits.seed))
    return figures | {"rmia_tpr": tpr_at_fpr(members, others)}
