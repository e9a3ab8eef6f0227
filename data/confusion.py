"""Wrong labels, put in on purpose."""

import numpy as np
import torch
from torch import Tensor

from helper_functions.errors import UserError


def _uniform(labels: np.ndarray, num_classes: int, rng: np.random.RandomState) -> np.ndarray:
    # The int64 is explicit: RandomState's default integer differs between platforms, and with it the draws.
    return (labels + rng.randint(1, num_classes, size=len(labels), dtype=np.int64)) % num_classes


def _pairwise(labels: np.ndarray, num_classes: int, rng: np.random.RandomState) -> np.ndarray:
    return (labels + 1) % num_classes


CONFUSIONS = {"uniform": _uniform, "pairwise": _pairwise}


def corrupt_labels(
    labels: Tensor, indices: np.ndarray, num_classes: int, kind: str, rng: np.random.RandomState
) -> Tensor:
    """A copy of labels, int64 [N], in which those at `indices` are wrong.

    kind: `uniform`, any other class with the same probability, or `pairwise`, the next class (the last becomes the
    first). Raises UserError for an unknown kind or fewer than two classes.
    """
    if kind not in CONFUSIONS:
        raise UserError(f"unknown confusion {kind!r}; choose from {', '.join(CONFUSIONS)}")
    if num_classes < 2:
        raise UserError(f"labels of {num_classes} class cannot be corrupted; a second class is needed")
    corrupted = labels.clone()
    positions = torch.as_tensor(indices, dtype=torch.int64)
    wrong = CONFUSIONS[kind](labels[positions].numpy(), num_classes, rng)
    corrupted[positions] = torch.from_numpy(np.asarray(wrong, dtype=np.int64))
    return corrupted
