"""Batches of images on the device or in host memory: a batch is an index into one tensor."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from data.augmentation import Augmentation
from data.pixels import Normaliser, channels_last_storage
from data.random_streams import torch_seed

Batch = tuple[Tensor, Tensor]
# One pass or a part of it: indices, int64 [n] on the images' device, and the plan of the augmentation, int64 [n, 5].
Drawn = tuple[Tensor, Tensor | None]


class TensorLoader:
    """A sized iterable of `(inputs, labels)`: float32 [B, C, H, W] normalised, channels_last; int64 [B]; on the device.

    No batch has more than batch_size images, and batch sizes differ by at most one: a small last batch would have noisy
    batch-norm statistics and weigh as much as a whole one.

    images: uint8 or float32 [N, C, H, W], moved to the device once, without a copy where they are there already in
    channels_last memory; with `streamed` they stay in host memory and each batch is moved when it is needed.
    labels: int64 [N]; indices: int64 [n], which of the images are loaded.
    Order and augmentation of pass e are a pure function of (seed, e). Each `iter()` runs pass `epoch` and advances
    `epoch` by one, so resuming means setting `epoch`.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        batch_size: int,
        *,
        mean: Sequence[float],
        std: Sequence[float],
        augmentation: Augmentation | None = None,
        shuffle: bool = False,
        seed: int = 0,
        device: torch.device | str = "cpu",
        streamed: bool = False,
    ):
        self.device = torch.device(device)
        self.streamed = streamed
        place = torch.device("cpu") if streamed else self.device
        self.storage = channels_last_storage(images.to(place))
        self.labels = labels.to(place)
        self.mean, self.std = tuple(mean), tuple(std)
        self.indices = indices.cpu()
        self.batch_size = batch_size
        self.augmentation = augmentation
        self.shuffle = shuffle
        self.seed = seed
        self.epoch = 0
        self.image_size: tuple[int, int] = tuple(images.shape[2:])
        self.normaliser = Normaliser(mean, std, self.image_size, self.device)

    @property
    def num_images(self) -> int:
        """Images in one pass."""
        return len(self.indices)

    def in_order(self, indices: Tensor, batch_size: int) -> "TensorLoader":
        """A loader over the same images and labels in the order of these indices, without augmentation."""
        return TensorLoader(
            self.storage.permute(0, 3, 1, 2), self.labels, indices, batch_size,
            mean=self.mean, std=self.std, device=self.device, streamed=self.streamed,
        )  # fmt: skip

    def __len__(self) -> int:
        return -(-self.num_images // self.batch_size)

    def __iter__(self) -> Iterator[Batch]:
        epoch = self.epoch
        self.epoch += 1
        return self.batches(epoch)

    def batches(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of one pass from batch `start` on; the loader's `epoch` is unchanged."""
        indices, plan = self.draw_pass(epoch)
        for number in range(start, len(self)):
            part = self._part(number)
            yield self.assemble(indices[part], None if plan is None else plan[part])

    def images_of(self, epoch: int, number: int) -> Tensor:
        """The images of batch `number` of a pass, int64 [B] on the CPU."""
        indices, _ = self.draw_pass(epoch)
        return indices[self._part(number)].cpu()

    def _part(self, number: int) -> slice:
        return slice(number * self.num_images // len(self), (number + 1) * self.num_images // len(self))

    def draw_pass(self, epoch: int) -> Drawn:
        """All draws of one pass, at once: a pass can be entered anywhere, and no batch waits for a transfer."""
        order = self.indices
        if self.shuffle:
            # On the CPU whatever the device, so that a seed gives the same order everywhere.
            generator = torch.Generator().manual_seed(torch_seed(self.seed, "order", epoch))
            order = order[torch.randperm(len(order), generator=generator)]
        plan = None
        if self.augmentation is not None:
            generator = torch.Generator(self.device).manual_seed(torch_seed(self.seed, "augmentation", epoch))
            plan = self.augmentation.draw(len(order), self.image_size, generator)
        return order.to(self.storage.device), plan

    def assemble(self, indices: Tensor, plan: Tensor | None) -> Batch:
        """The batch of these images: indices int64 [B] on the images' device, plan int64 [B, 5] or None."""
        storage, labels = self.storage, self.labels
        if self.streamed:
            storage, labels = (_fetch(kept, indices, self.device) for kept in (storage, labels))
            indices = torch.arange(len(indices), device=self.device)
        if plan is None:
            inputs = self.normaliser(storage.index_select(0, indices))
        else:
            inputs = self.augmentation.apply(storage, indices, plan, self.normaliser)
        return inputs, labels.index_select(0, indices)


def _fetch(kept: Tensor, indices: Tensor, device: torch.device) -> Tensor:
    """Rows of a tensor in host memory, moved to the device; pinned memory makes the copy asynchronous."""
    pinned = device.type == "cuda"
    rows = torch.empty((len(indices), *kept.shape[1:]), dtype=kept.dtype, pin_memory=pinned)
    return torch.index_select(kept, 0, indices, out=rows).to(device, non_blocking=pinned)
