"""Class-matched pairs and weights: comparing two sets of images without comparing their classes."""

import numpy as np
import torch
from torch import Tensor

from data.random_streams import random_state
from helper_functions.errors import UserError


def match_by_class(labels: Tensor, first: Tensor, second: Tensor, seed: int) -> Tensor:
    """Pair each image of `first` with one of `second` of the same class.

    labels: int64 [N]; first: int64 [P] and second: int64 [Q], indices into labels. Returns int64 [P, 2], in the order
    of `first`. Within a class the elements of `second` are used equally often, give or take one; which of them is
    drawn from the seed. Raises UserError naming a class of `first` that `second` lacks.
    """
    first_classes, second_classes = labels[first].numpy(), labels[second].numpy()
    candidates = second.numpy()
    partners = np.empty(len(first), dtype=np.int64)
    for label in np.unique(first_classes):
        rng = random_state(seed, "pairing", label)
        places = rng.permutation(np.flatnonzero(first_classes == label))
        pool = rng.permutation(candidates[second_classes == label])
        if len(pool) == 0:
            raise UserError(f"class {label} has {len(places)} images to pair and no partner; hold out more images")
        partners[places] = pool[np.arange(len(places)) % len(pool)]
    return torch.stack([first.to(torch.int64), torch.from_numpy(partners)], dim=1)


def class_weights(labels: Tensor, reference: Tensor, target: Tensor, num_classes: int) -> Tensor:
    """Weights of the reference images under which their classes are distributed as the target's.

    labels: int64 [N]; reference: int64 [R] and target: int64 [T], indices into labels. Returns float32 [R] that sums
    to 1; images of classes that the target lacks weigh 0. Raises UserError where target is empty, or has a class that
    reference lacks.
    """
    if len(target) == 0:
        raise UserError("class weights need a target; the index set given is empty")
    counts = torch.bincount(labels[reference], minlength=num_classes)
    wanted = torch.bincount(labels[target], minlength=num_classes)
    missing = torch.nonzero((wanted > 0) & (counts == 0)).flatten().tolist()
    if missing:
        raise UserError(f"class {missing[0]} of the target has no reference image; hold out more images")
    share = wanted.double() / wanted.sum() / counts.clamp(min=1)
    return share[labels[reference]].float()
