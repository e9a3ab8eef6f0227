"""Division by class: stratified shares that keep copies of an image together."""

import hashlib
from dataclasses import dataclass, field

import numpy as np
from torch import Tensor

from data.pixels import channels_last_storage

# Bytes of a digest of pixels.
DIGEST = 16


@dataclass(frozen=True)
class Partition:
    """The parts of a data set that do not depend on the forget set; sorted int64 arrays.

    final_test: as in `Splits`. forgotten: images that earlier requests of a sequence forgot. deleted: how many of those
    were deleted since. asked_again: training images that an earlier request did not forget.
    """

    train: np.ndarray
    held_out: np.ndarray
    test: np.ndarray
    final_test: str
    forgotten: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    deleted: int = 0
    asked_again: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))

    @property
    def num_forgotten(self) -> int:
        """As in `Splits`."""
        return len(self.forgotten) + self.deleted


def copy_groups(images: Tensor) -> np.ndarray:
    """int64 [N]: for each image uint8 [N, C, H, W], the index of the first with identical pixels."""
    pixels = channels_last_storage(images).numpy().reshape(len(images), -1)
    digests = [digest_of(image) for image in pixels]
    return groups_of(np.array(digests, dtype=f"V{DIGEST}"))


def digest_of(pixels: np.ndarray) -> bytes:
    """`DIGEST` bytes that differ wherever the pixels of two images do."""
    # Which most processors have instructions for.
    return hashlib.sha256(pixels).digest()[:DIGEST]


def groups_of(digests: np.ndarray) -> np.ndarray:
    """The same from a digest of each image, [N]."""
    _, first, place = np.unique(digests, return_index=True, return_inverse=True)
    return first[place].astype(np.int64)


def stratified_share(
    labels: np.ndarray, groups: np.ndarray, candidates: np.ndarray, fraction: float, rng: np.random.RandomState
) -> np.ndarray:
    """Draw a share of the candidates with their class histogram; returns sorted int64 indices.

    labels, groups: int64 [N], classes and `copy_groups`; candidates: indices into them. A group is taken whole, as the
    class of its first image and only where that class's quota has room. Without copies the share of each class is exact
    up to rounding, and the total is the rounded fraction of all. At least one image of every class is not drawn.
    """
    labels, candidates = np.asarray(labels), np.sort(candidates)
    members: dict[int, list[int]] = {}
    for index, group in zip(candidates.tolist(), groups[candidates].tolist(), strict=True):
        members.setdefault(group, []).append(index)
    copies = list(members.values())
    classes = labels[[group[0] for group in copies]]
    room = _quota(np.bincount(classes, weights=[len(group) for group in copies]).astype(np.int64), fraction)
    taken: list[int] = []
    for number in rng.permutation(len(copies)):
        group, label = copies[number], classes[number]
        if len(group) <= room[label]:
            room[label] -= len(group)
            taken += group
    return np.array(sorted(taken), dtype=np.int64)


def _quota(counts: np.ndarray, fraction: float) -> np.ndarray:
    """Images to take of each class: rounded by largest remainder, so that the total is the rounded total."""
    exact = fraction * counts
    quota = np.floor(exact).astype(np.int64)
    missing = int(round(fraction * int(counts.sum()))) - int(quota.sum())
    # A stable sort breaks ties by class, on every platform alike.
    by_remainder = np.argsort(quota - exact, kind="stable")
    quota[by_remainder[:missing]] += 1
    return np.minimum(quota, np.maximum(counts - 1, 0))
