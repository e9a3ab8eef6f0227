"""Prototype relearning: does a mean feature of a few forget images bring the others back?"""

import torch
from torch import Tensor, nn

from data.image_sets import ImageSets
from data.random_streams import random_state
from data.views import fixed_sample
from helper_functions.training.devices import Precision
from models.features import classifier_head, predict_features

# Images a class that the attacker has, at most half of them.
SHOTS = (1, 10)
# Retain images whose mean feature is the origin.
CENTRE_IMAGES = 2000


def prototype_figures(model: nn.Module, sets: ImageSets, precision: Precision) -> dict[str, float | None]:
    """Top-1 on forget images, in percent by given labels, once the head's rows of their classes are prototypes.

    A class's prototype is the mean feature of a few of its forget images, at most half of them, less the mean feature
    of retain images: features are positive, and a row without that takes images of all classes, also in a model that
    learned nothing. The other forget images are judged. No step is taken, and the model is not changed. Compare with
    the retrained model's figures, whose features separate unseen images as well. Source: arXiv 2506.01318
    (prototypical relearning).

    Returns:
        `prototype1_top1` and `prototype10_top1`, by the number of images; None where no class has two forget images,
        where features are not finite, or where the last linear layer does not give the logits.
    """
    head = classifier_head(model)
    features, logits, labels = predict_features(model, sets.evaluation(sets.splits.forget), precision)
    retain = sets.evaluation(fixed_sample(sets.splits.retain, CENTRE_IMAGES))
    features = features - predict_features(model, retain, precision)[0].mean(0)
    usable = head.out_features == logits.shape[1] and bool(features.isfinite().all())
    found: dict[str, float | None] = {}
    for count in SHOTS:
        shots, name = shots_of(labels.cpu(), count, sets.splits.seed).to(labels.device), f"prototype{count}_top1"
        found[name] = None
        if usable and shots.any():
            after = with_prototypes(features, logits, labels, shots, head.weight.detach(), head.bias)[~shots]
            found[name] = 100 * (after.argmax(1) == labels[~shots]).double().mean().item()
    return found


def shots_of(labels: Tensor, count: int, seed: int) -> Tensor:
    """Which images the attacker has, bool `[n]`: of each class of `labels` `[n]`, `count` and at most half."""
    shots = torch.zeros(len(labels), dtype=torch.bool)
    for label in labels.unique():
        places = random_state(seed, "prototype", int(label)).permutation(torch.nonzero(labels == label).flatten())
        shots[torch.from_numpy(places[: min(count, len(places) // 2)])] = True
    return shots


def with_prototypes(
    features: Tensor, logits: Tensor, labels: Tensor, shots: Tensor, weight: Tensor, bias: Tensor | None
) -> Tensor:
    """Logits `[n, K]` of centred features `[n, F]` after the rows of the classes that have shots became prototypes.

    A prototype has the mean norm of the rows `weight` `[K, F]` and the mean of the biases `[K]`; `shots` is bool `[n]`.
    """
    logits, norm = logits.clone(), weight.norm(dim=1).mean()
    for label in labels[shots].unique():
        prototype = features[shots & (labels == label)].mean(0)
        row = norm * prototype / prototype.norm().clamp(min=1e-12)
        logits[:, label] = features @ row.to(features.dtype) + (0 if bias is None else bias.detach().mean())
    return logits
