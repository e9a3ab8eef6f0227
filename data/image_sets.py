"""A data set, its splits, and loaders over any part of them, all from one copy of the images on the device."""

import torch
from torch import Tensor

from data.augmentation import Augmentation
from data.datasets import Dataset
from data.loaders import TensorLoader
from data.split_record import Splits
from data.views import EVALUATION_BATCH


class ImageSets:
    """Loaders over the parts of a data set.

    Args:
        dataset: images and true labels.
        splits: index tensors, and the labels that were given (some of them wrong for mislabelled sets).
        augmentation: of training images; None leaves them as they are.
        device: where the images are kept.
        seed: of the order and the augmentation of training images.
    """

    def __init__(
        self,
        dataset: Dataset,
        splits: Splits,
        augmentation: Augmentation | None,
        device: torch.device,
        seed: int,
    ) -> None:
        self.dataset = dataset
        self.splits = splits
        self.augmentation = augmentation
        self.seed = seed
        self.images = dataset.images.to(device)
        self.given_labels = splits.labels.to(device)
        self.true_labels = dataset.labels.to(device)

    def training(self, indices: Tensor, batch_size: int, *, augment: bool = True, stream: int = 0) -> TensorLoader:
        """Shuffled batches of some images with their given labels; `stream` tells apart loaders of one run."""
        return TensorLoader(
            self.images,
            self.given_labels,
            indices,
            min(batch_size, len(indices)),
            mean=self.dataset.mean,
            std=self.dataset.std,
            augmentation=self.augmentation if augment else None,
            shuffle=True,
            seed=self.seed + 1_000_003 * stream,
            device=self.images.device,
        )

    def evaluation(self, indices: Tensor, *, true_labels: bool = False) -> TensorLoader:
        """Large batches of some images in their order, not augmented, with their given or true labels."""
        return TensorLoader(
            self.images,
            self.true_labels if true_labels else self.given_labels,
            indices,
            EVALUATION_BATCH,
            mean=self.dataset.mean,
            std=self.dataset.std,
            device=self.images.device,
        )
