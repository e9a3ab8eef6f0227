"""Two-dimensional toy data for figures."""

from dataclasses import dataclass
from math import pi

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from data.random_streams import random_state, torch_seed


@dataclass(frozen=True, eq=False)
class Points:
    """Points in the plane and their classes: inputs float32 [N, 2]; labels int64 [N], from 0 to num_classes - 1."""

    inputs: Tensor
    labels: Tensor
    num_classes: int

    def __len__(self) -> int:
        return len(self.labels)

    def split(self, share: float, seed: int = 0) -> tuple["Points", "Points"]:
        """Two parts with the class proportions of the whole, the first with `share` of the points, rounded down.

        Raises scikit-learn's ValueError for a share that leaves a part fewer points than classes.
        """
        from sklearn.model_selection import train_test_split

        generator = random_state(seed, "split")
        parts = train_test_split(np.arange(len(self)), train_size=share, stratify=self.labels, random_state=generator)
        return tuple(Points(self.inputs[part], self.labels[part], self.num_classes) for part in parts)

    def loader(self, batch_size: int, seed: int = 0) -> DataLoader:
        """Shuffled batches of inputs [B, 2] and labels [B]; the last may be smaller.

        The order of the n-th pass is a function of the seed and n; torch's global generator is not used.
        """
        generator = torch.Generator().manual_seed(torch_seed(seed, "order"))
        return DataLoader(TensorDataset(self.inputs, self.labels), batch_size, shuffle=True, generator=generator)


def blobs(num_classes: int = 4, num_points: int = 600, spread: float = 0.2, seed: int = 0) -> Points:
    """Normal distributions around evenly spaced points of the unit circle (scikit-learn's `make_blobs`).

    `spread` is the standard deviation along each axis. Class k has its centre at the angle 2 pi k / num_classes, so
    that the overlap of classes is independent of the seed. Class sizes differ by at most one.
    """
    from sklearn.datasets import make_blobs

    angles = 2 * pi * np.arange(num_classes) / num_classes
    centers = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    generator = random_state(seed, "blobs")
    inputs, labels = make_blobs(num_points, centers=centers, cluster_std=spread, random_state=generator)
    return Points(torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(labels.astype(np.int64)), num_classes)
