"""A data set, its splits, and loaders over any part of them, all from one copy of the images."""

import torch
from torch import Tensor

from data.augmentation import Augmentation
from data.datasets import Dataset
from data.loaders import TensorLoader
from data.split_record import Splits
from data.views import evaluation_batch
from helper_functions.config import OnDevice


class ImageSets:
    """Loaders over the parts of a data set.

    Args:
        dataset: images and true labels.
        splits: index tensors, and the labels that were given (some of them wrong for mislabelled sets).
        augmentation: of training images; None leaves them as they are.
        device: where batches are made.
        seed: of the order and the augmentation of training images.
        on_device: `yes` keeps the images there, `no` in host memory, from where batches follow as they are needed;
            `auto` keeps them there where they take at most half of the memory that is free.
    """

    def __init__(
        self,
        dataset: Dataset,
        splits: Splits,
        augmentation: Augmentation | None,
        device: torch.device,
        seed: int,
        on_device: OnDevice = "auto",
    ) -> None:
        self.dataset = dataset
        self.splits = splits
        self.augmentation = augmentation
        self.seed = seed
        self.device = device
        self.streamed = not (fits(dataset.images.nbytes, device) if on_device == "auto" else on_device == "yes")
        place = torch.device("cpu") if self.streamed else device
        self.images = dataset.images.to(place)
        self.given_labels = splits.labels.to(place)
        self.true_labels = dataset.labels.to(place)

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
            device=self.device,
            streamed=self.streamed,
        )

    def evaluation(self, indices: Tensor, *, true_labels: bool = False) -> TensorLoader:
        """Large batches of some images in their order, not augmented, with their given or true labels."""
        return TensorLoader(
            self.images,
            self.true_labels if true_labels else self.given_labels,
            indices,
            evaluation_batch(tuple(self.images.shape[2:]), self.device),
            mean=self.dataset.mean,
            std=self.dataset.std,
            device=self.device,
            streamed=self.streamed,
        )


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether so much may stay on the device: at most half of what is free on CUDA; elsewhere it is there anyway."""
    return device.type != "cuda" or num_bytes <= torch.cuda.mem_get_info(device)[0] // 2
