"""Evaluation loaders: the images of another loader in a fixed order and without augmentation."""

from collections.abc import Iterable

import numpy as np
import torch
from torch.utils.data import DataLoader, RandomSampler, SequentialSampler, Subset

from data.loaders import Batch, TensorLoader

# Images of an evaluation batch, and its most pixels on a CPU, beyond which it outgrows the caches.
EVALUATION_BATCH, MOST_PIXELS = 1000, 2**19


def evaluation_batch(image_size: tuple[int, int], device: torch.device) -> int:
    """The batch size of evaluation for images of this height and width."""
    if device.type != "cpu":
        return EVALUATION_BATCH
    return max(1, min(EVALUATION_BATCH, MOST_PIXELS // (image_size[0] * image_size[1])))


def _sample(size: int, limit: int, seed: int) -> np.ndarray:
    return np.sort(np.random.RandomState(seed % 2**32).permutation(size)[:limit])


def fixed_sample(indices: torch.Tensor, limit: int | None, seed: int = 0) -> torch.Tensor:
    """At most `limit` of the indices, int64 [n], drawn from the seed and kept in their order; None: all of them."""
    if limit is None or len(indices) <= limit:
        return indices
    return indices[torch.from_numpy(_sample(len(indices), limit, seed))]


def evaluation_view(loader: Iterable, limit: int | None = None, seed: int = 0) -> Iterable[Batch]:
    """A loader over the images of another, or over a fixed sample of `limit` of them, for repeated evaluation.

    A `TensorLoader` is read without augmentation, a `DataLoader` over its whole data set without shuffling (what its
    data set augments stays augmented); their samples are drawn from the seed. Of any other iterable one pass is kept in
    memory, or with a limit its first batches, so that every evaluation reads the same images.
    """
    if isinstance(loader, TensorLoader):
        batch_size = evaluation_batch(loader.image_size, loader.device)
        return loader.in_order(fixed_sample(loader.indices, limit, seed), batch_size)
    if isinstance(loader, DataLoader) and isinstance(loader.sampler, RandomSampler | SequentialSampler):
        dataset = loader.dataset
        if limit is not None and len(dataset) > limit:
            dataset = Subset(dataset, _sample(len(dataset), limit, seed).tolist())
        return DataLoader(
            dataset, loader.batch_size, num_workers=loader.num_workers, collate_fn=loader.collate_fn,
            generator=torch.Generator(),  # each pass draws a seed for its workers
        )  # fmt: skip
    batches, kept = [], 0
    for inputs, labels in loader:
        batches.append((inputs, labels))
        kept += len(labels)
        if limit is not None and kept >= limit:
            break
    return batches
