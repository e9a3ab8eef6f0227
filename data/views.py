"""The same images without chance: what a loader holds, in a fixed order and not augmented, for evaluation."""

from collections.abc import Iterable

import numpy as np
import torch

from data.loaders import Batch, TensorLoader

EVALUATION_BATCH = 1000


def evaluation_view(loader: Iterable, limit: int | None = None, seed: int = 0) -> Iterable[Batch]:
    """A loader over the images of another, or over a fixed sample of `limit` of them, for repeated evaluation.

    A `TensorLoader` is seen through without augmentation, its sample drawn from the seed. Any other loader is
    trusted not to augment; with a limit its first batches are kept in memory, so that each pass sees the same.
    """
    if isinstance(loader, TensorLoader):
        indices = loader.indices
        if limit is not None and len(indices) > limit:
            chosen = np.random.RandomState(seed % 2**32).permutation(len(indices))[:limit]
            indices = indices[torch.from_numpy(np.sort(chosen))]
        return loader.without_chance(indices, EVALUATION_BATCH)
    if limit is None:
        return loader
    batches, kept = [], 0
    for inputs, labels in loader:
        batches.append((inputs, labels))
        kept += len(labels)
        if kept >= limit:
            break
    return batches
