"""Loaders over any part of a data set, from one copy of its images."""

import torch
from torch import Tensor

from data.augmentation import Augmentation
from data.datasets import Dataset
from data.loaders import TensorLoader
from data.pictures.fetched import Pictures
from data.pixels import channels_last_storage
from data.split_record import Splits
from data.views import evaluation_batch
from helper_functions.config import OnDevice


class ImageSets:
    """Loaders over the parts of a data set.

    Args:
        dataset: images and true labels.
        splits: index tensors, and the given labels (some of them wrong for mislabelled sets).
        augmentation: of training images; None leaves them unchanged.
        device: where batches are made.
        seed: of the order and the augmentation of training images.
        on_device: `yes` keeps the images on the device, `no` in host memory, from where each batch is moved when it is
            needed; `auto` keeps them on the device where they take at most half of its free memory.
    """

    def __init__(
        self, dataset: Dataset, splits: Splits, augmentation: Augmentation | None, device: torch.device, seed: int,
        on_device: OnDevice = "auto",
    ) -> None:  # fmt: skip
        self.dataset, self.splits, self.augmentation = dataset, splits, augmentation
        self.device, self.seed = device, seed
        images = dataset.images
        stays = fits(images.nbytes, device) if on_device == "auto" else on_device == "yes"
        if not stays and not isinstance(images, Pictures):
            images = Pictures(channels_last_storage(images))
        elif stays and device.type != "cpu":
            images = (images[:] if isinstance(images, Pictures) else images).to(device)
        self.images = images
        place = torch.device("cpu") if isinstance(images, Pictures) else device
        self.given_labels = splits.labels.to(place)
        self.true_labels = dataset.labels.to(place)
        # What images are matched by: subclasses where there are some, else given labels.
        self.strata = splits.labels if dataset.sub_labels is None else dataset.sub_labels

    def training(self, indices: Tensor, batch_size: int, *, augment: bool = True, stream: int = 0) -> TensorLoader:
        """Shuffled batches of some images with their given labels; each `stream` has its own order."""
        return self._loader(
            indices, min(batch_size, len(indices)),
            augmentation=self.augmentation if augment else None, shuffle=True, seed=self.seed + 1_000_003 * stream,
        )  # fmt: skip

    def evaluation(self, indices: Tensor) -> TensorLoader:
        """Large batches of some images in their order, not augmented, with their given labels."""
        batch_size = evaluation_batch(tuple(self.images.shape[2:]), self.device)
        return self._loader(indices, batch_size)

    def _loader(self, indices: Tensor, batch_size: int, **options) -> TensorLoader:
        return TensorLoader(
            self.images, self.given_labels, indices, batch_size, mean=self.dataset.mean, std=self.dataset.std,
            device=self.device, strata=self.strata, **options,
        )  # fmt: skip


def fits(num_bytes: int, device: torch.device) -> bool:
    """Whether images of this size stay on the device: on CUDA, at most half of its free memory; elsewhere always."""
    return device.type != "cuda" or num_bytes <= torch.cuda.mem_get_info(device)[0] // 2
