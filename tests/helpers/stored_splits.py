"""A splits.npz of random images, and what its reader says."""

import numpy as np
import pytest
import torch

from data.datasets import Dataset
from data.split_record import Splits
from helper_functions.errors import UserError


def toy(name: str = "toy", size: int = 120, shift: int = 0) -> Dataset:
    images = torch.arange(size * 4, dtype=torch.int64).remainder(251).to(torch.uint8).view(size, 1, 2, 2)
    labels = (torch.arange(size) + shift) % 3
    return Dataset(name, images, labels, ("a", "b", "c"), size, (0.5,), (0.5,))


def stored(path) -> dict[str, np.ndarray]:
    with np.load(path) as archive:
        return dict(archive)


def complaint(path, dataset=None) -> str:
    with pytest.raises(UserError) as info:
        Splits.load(path, dataset or toy())
    assert "\n" not in str(info.value) and str(path) in str(info.value)
    return str(info.value)
