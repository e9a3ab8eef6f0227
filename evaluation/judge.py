"""The figures of models: accuracy and loss on every part of the data, attacks, distances to retrained models."""

import dataclasses

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.image_sets import ImageSets
from data.views import fixed_sample
from evaluation.comparisons import against_retrained, against_test
from evaluation.gaps import is_retrained
from helper_functions.metrics import summarise
from helper_functions.training.devices import Precision
from helper_functions.training.inference import predict

PARTS = ("retain", "forget", "forgotten", "unseen", "validation", "test")
# Whose outputs attacks and distances read.
KEPT = ("forget", "validation", "test")


@dataclasses.dataclass
class Judgement:
    """Figures by name, and what they were computed from, part by part, on the CPU.

    losses: cross-entropies on the given labels, `[n]`. logits: `[n, K]` of forget, validation and test images; empty
    during a run. retain_right: which of the retain images that were looked at are right, bool `[n]`.
    """

    figures: dict[str, float | None]
    losses: dict[str, Tensor]
    logits: dict[str, Tensor]
    retain_right: Tensor


def utility(logits: Tensor, labels: Tensor, part: str) -> dict[str, float]:
    """`part_top1` and `part_top5` in percent and `part_loss` (mean cross-entropy) of logits `[N, K]`, labels `[N]`."""
    return {f"{part}_{name}": value for name, value in summarise(logits, labels).items()}


def judge_all(
    models: dict[str, nn.Module],
    sets: ImageSets,
    precision: Precision,
    *,
    final: bool = True,
    retain_images: int | None = None,
) -> dict[str, Judgement]:
    """Judge models as `judge` does, in the order given, and compare each with the retrained ones.

    Models called `retrained`, `retrained-2`, `retrained-3` ... are retrained ones. `js_divergence` and
    `activation_distance` on forget images (means over the retrained models) and `rmia_auc`, `rmia_tpr` (the retrained
    models are its reference models) join every other model's figures; where there are two or more, each retrained
    model's, too, against the other ones: the noise floor.

    Args:
        models: by name; each sees each image once.
        final: as of `judge`; during a run nothing is compared.
        retain_images: as of `judge`.
    """
    how = {"final": final, "retain_images": retain_images}
    judgements = {name: judge(model, sets, precision, **how) for name, model in models.items()}
    if not final or len(sets.splits.forget) == 0:
        return judgements
    for name, judgement in judgements.items():
        references = [other.logits for key, other in judgements.items() if is_retrained(key) and key != name]
        if references:
            judgement.figures |= against_retrained(sets, judgement.logits, references)
    return judgements


def judge(
    model: nn.Module,
    sets: ImageSets,
    precision: Precision,
    *,
    final: bool = True,
    retain_images: int | None = None,
) -> Judgement:
    """Judge a model on retain, forget (given labels, and true ones as `forget_true`), unseen, validation and test.

    In a sequence of requests also on what earlier ones forgot, `forgotten`, on given labels: no method is steered by
    it, and what comes back shows.

    Where whole classes are forgotten, `test_remaining` is the test part without them; where the data set has
    superclasses, `test_adjacent` are other classes of their superclasses and `test_remote` all the rest.

    Args:
        final: whether test images are touched, and forget images are compared with test images of the same true
            classes, by the attacks (`mia_...`) and by the discriminator (`discriminator_auc` and the ends of its 95 %
            interval, `_low` and `_high`); during a run neither is done.
        retain_images: how many retain images are looked at, the same for every model; None: all of them.
    """
    figures: dict[str, float | None] = {}
    losses: dict[str, Tensor] = {}
    outputs: dict[str, Tensor] = {}
    retain_right = torch.zeros(0, dtype=torch.bool)
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
        if part == "retain":
            retain_right = (logits.argmax(1) == labels).cpu()
        if part == "forget":
            figures |= utility(logits, sets.true_labels[indices.to(precision.device)], "forget_true")
        if part == "test":
            figures |= _by_kinship(sets, logits, labels)
    if final and "forget" in losses:
        figures |= against_test(sets, losses, outputs, retain)
    return Judgement(figures, losses, outputs, retain_right)


def forgotten_classes(sets: ImageSets) -> Tensor:
    """Classes that this request or earlier ones have left no retain image of, int64 on the CPU."""
    splits = sets.splits
    forget, retain = splits.labels[torch.cat([splits.forget, splits.forgotten])], splits.labels[splits.retain]
    return torch.tensor(sorted(set(forget.tolist()) - set(retain.tolist())), dtype=torch.int64)


def _by_kinship(sets: ImageSets, logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Figures of test images by how near their class is to forgotten ones; none where no whole class is forgotten."""
    forgotten, dataset = forgotten_classes(sets).tolist(), sets.dataset
    names = {dataset.classes[label] for label in forgotten}
    families = [family for family in dataset.superclasses.values() if names & set(family)]
    related = {dataset.classes.index(name) for family in families for name in family} - set(forgotten)
    every = set(range(dataset.num_classes))
    groups = {"remaining": every - set(forgotten)}
    if families:
        groups |= {"adjacent": related, "remote": groups["remaining"] - related}
    found: dict[str, float] = {}
    for name, classes in groups.items():
        chosen = torch.isin(labels, torch.tensor(sorted(classes), dtype=torch.int64, device=labels.device))
        if forgotten and chosen.any():
            found |= utility(logits[chosen], labels[chosen], f"test_{name}")
    return found
