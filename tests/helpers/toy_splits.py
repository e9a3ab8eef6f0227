"""A data set of random images, and its splits as sets."""

import numpy as np
import torch

from data.datasets import Dataset
from data.split_record import PARTS

SUPERCLASSES = {"few": ("0", "1"), "many": ("2", "3")}


def toy(train: int = 200, test: int = 60, classes: int = 4, copies: int = 0, seed: int = 0) -> Dataset:
    """Random images, the first `copies` of which repeat later ones of the training part."""
    rng = np.random.RandomState(seed)
    images = rng.randint(0, 256, (train + test, 4, 4, 1), dtype=np.uint8)
    labels = np.concatenate([rng.permutation(np.arange(n) % classes) for n in (train, test)])
    for i in range(copies):
        images[i] = images[train - 1 - i // 2]
    return Dataset(
        name="toy",
        images=torch.from_numpy(images).permute(0, 3, 1, 2),
        labels=torch.from_numpy(labels.astype(np.int64)),
        classes=tuple(map(str, range(classes))),
        num_train=train,
        mean=(0.5,),
        std=(0.3,),
        superclasses=SUPERCLASSES,
    )


def sets(splits) -> dict[str, set[int]]:
    return {name: set(getattr(splits, name).tolist()) for name in PARTS}


def held_out(splits) -> set[int]:
    return sets(splits)["validation"] | sets(splits)["unseen"]
