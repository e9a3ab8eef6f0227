"""Two-dimensional toy data for figures: moons, blobs and spirals."""

from dataclasses import dataclass
from math import pi

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from data.random_streams import random_state, torch_seed
from helper_functions.errors import UserError


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

        Raises UserError for a share not between 0 and 1, or one that leaves a part fewer points than classes.
        """
        from sklearn.model_selection import train_test_split

        if not 0 < share < 1:
            raise UserError(f"share is {share}: pass a number between 0 and 1")
        try:
            parts = train_test_split(
                np.arange(len(self)),
                train_size=float(share),
                stratify=self.labels.numpy(force=True),
                random_state=random_state(seed, "split"),
            )
        except ValueError as error:
            raise UserError(f"share {share} of {len(self)} points cannot be split by class: {error}") from error
        places = [torch.from_numpy(part).to(self.labels.device) for part in parts]
        return tuple(Points(self.inputs[part], self.labels[part], self.num_classes) for part in places)

    def loader(self, batch_size: int, shuffle: bool = True, seed: int = 0) -> DataLoader:
        """Batches of inputs [B, 2] and labels [B]; the last may be smaller.

        The order of the n-th pass is a function of the seed and n; torch's global generator is not used.
        Raises UserError for a batch size below 1.
        """
        if batch_size < 1:
            raise UserError(f"batch size {batch_size} is below 1; give a positive number")
        # Without its own generator even an unshuffled DataLoader draws from the global one.
        generator = torch.Generator().manual_seed(torch_seed(seed, "order"))
        return DataLoader(TensorDataset(self.inputs, self.labels), batch_size, shuffle, generator=generator)


def two_moons(num_points: int = 600, noise: float = 0.15, seed: int = 0) -> Points:
    """Two interleaved half circles of radius 1 (scikit-learn's `make_moons`).

    `noise` is the standard deviation along each axis. Class sizes differ by at most one.
    Raises UserError for fewer points than classes or a negative noise.
    """
    from sklearn.datasets import make_moons

    _check(2, num_points, noise)
    return _points(*make_moons(num_points, noise=noise, random_state=random_state(seed, "two_moons")), 2)


def blobs(num_classes: int = 4, num_points: int = 600, spread: float = 0.2, seed: int = 0) -> Points:
    """Normal distributions around evenly spaced points of the unit circle (scikit-learn's `make_blobs`).

    `spread` is the standard deviation along each axis. Class k has its centre at the angle 2 pi k / num_classes, so
    that the overlap of classes is independent of the seed. Class sizes differ by at most one.
    Raises UserError for fewer points than classes or a negative spread.
    """
    from sklearn.datasets import make_blobs

    _check(num_classes, num_points, spread)
    angles = 2 * pi * np.arange(num_classes) / num_classes
    centers = np.stack([np.cos(angles), np.sin(angles)], axis=1)
    found = make_blobs(num_points, centers=centers, cluster_std=spread, random_state=random_state(seed, "blobs"))
    return _points(*found, num_classes)


def spiral(
    num_classes: int = 3, num_points: int = 600, noise: float = 0.03, turns: float = 0.75, seed: int = 0
) -> Points:
    """Arms of an Archimedean spiral in the unit disc, one for each class.

    At radius r, uniform on [0.1, 1], class k lies at the angle 2 pi (k / num_classes + turns r), plus noise with this
    standard deviation along each axis. Class sizes differ by at most one.
    Raises UserError for fewer points than classes or a negative noise.
    """
    _check(num_classes, num_points, noise)
    generator = random_state(seed, "spiral")
    labels = generator.permutation(np.arange(num_points) % num_classes)
    radii = generator.uniform(0.1, 1, num_points)  # at 0 the arms meet
    angles = 2 * pi * (labels / num_classes + turns * radii)
    inputs = radii[:, None] * np.stack([np.cos(angles), np.sin(angles)], axis=1)
    return _points(inputs + noise * generator.standard_normal(inputs.shape), labels, num_classes)


def _check(num_classes: int, num_points: int, noise: float) -> None:
    if num_classes < 1:
        raise UserError(f"num_classes is {num_classes}: pass at least 1")
    if num_points < num_classes:
        raise UserError(f"num_points is {num_points}: pass at least {num_classes}, one for each class")
    if noise < 0:
        raise UserError(f"the standard deviation is {noise}: pass 0 or more")


def _points(inputs: np.ndarray, labels: np.ndarray, num_classes: int) -> Points:
    tensors = torch.from_numpy(inputs.astype(np.float32)), torch.from_numpy(labels.astype(np.int64))
    return Points(*tensors, num_classes)
