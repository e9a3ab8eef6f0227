"""Targets of attacks: forget images and as many test images of each class."""

import numpy as np
import torch
from torch import Tensor

from data.random_streams import random_state


def class_matched(labels: Tensor, first: Tensor, second: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Equally many images of each class `[N]` from two index sets, int64 `[P]` and `[Q]`, without repetition.

    Returns:
        Two index tensors of one length, pairs of one class; classes that one side lacks are left out.
    """
    first = first[torch.isin(labels[first], labels[second])]
    first_classes, second_classes = labels[first].numpy(), labels[second].numpy()
    partners = np.empty(len(first), dtype=np.int64)
    for label in np.unique(first_classes):
        rng = random_state(seed, "pairing", label)
        places = rng.permutation(np.flatnonzero(first_classes == label))
        pool = rng.permutation(second.numpy()[second_classes == label])
        partners[places] = np.resize(pool, len(places))
    order = np.random.RandomState(seed % 2**32).permutation(len(first))
    # Where the first set has more images of a class, partners repeat: the first pair of each is kept.
    _, keep = np.unique(partners[order], return_index=True)
    kept = torch.from_numpy(order[np.sort(keep)])
    return first[kept], torch.from_numpy(partners)[kept]
