"""Targets of attacks: forget images and as many test images of each class."""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from data.partition import match_by_class


@dataclasses.dataclass(frozen=True)
class Targets:
    """Forget images and as many test images of each class, in a random order that the seed decides.

    `forget` and `test` are indices into the data set, `forget_rows` and `test_rows` positions in the two parts.
    """

    forget: Tensor
    test: Tensor
    forget_rows: Tensor
    test_rows: Tensor


def match_targets(labels: Tensor, forget: Tensor, test: Tensor, seed: int) -> Targets:
    """The targets among sorted indices `[F]` and `[Q]` of forget and test images, by their true classes `[N]`."""
    members, others = class_matched(labels, forget, test, seed)
    rows = [torch.searchsorted(part, drawn.contiguous()) for part, drawn in ((forget, members), (test, others))]
    return Targets(members, others, *rows)


def class_matched(labels: Tensor, first: Tensor, second: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Equally many images of each class `[N]` from two index sets, int64 `[P]` and `[Q]`, without repetition.

    Returns:
        Two index tensors of one length; classes that one side lacks are left out.
    """
    first = first[torch.isin(labels[first], labels[second])]
    if len(first) == 0:
        return first, first
    pairs = match_by_class(labels, first, second, seed)
    pairs = pairs[torch.from_numpy(np.random.RandomState(seed % 2**32).permutation(len(pairs)))]
    _, keep = np.unique(pairs[:, 1].numpy(), return_index=True)
    pairs = pairs[torch.from_numpy(np.sort(keep))]
    return pairs[:, 0], pairs[:, 1]
