"""Batches of images on the device or in host memory: a batch is an index into one tensor."""

from collections.abc import Iterable, Iterator, Sequence
from itertools import tee

import torch
from torch import Tensor

from data.augmentation import Augmentation
from data.pictures.fetched import Pictures
from data.pixels import Normaliser, channels_last_storage
from data.random_streams import torch_seed
from helper_functions.training.spread import SharedRows, own_rows

Batch = tuple[Tensor | SharedRows, Tensor]
# One pass or a part of it: indices, int64 [n] on the images' device, and the plan of the augmentation, int64 [n, 5].
Drawn = tuple[Tensor, Tensor | None]


class TensorLoader:
    """A sized iterable of `(inputs, labels)`: float32 [B, C, H, W] normalised, channels_last; int64 [B]; on the device.

    Where ranks share a run, the inputs are `SharedRows`: each rank gathers, augments and moves its own rows alone.

    No batch has more than batch_size images, and batch sizes differ by at most one: a small last batch would have noisy
    batch-norm statistics and weigh as much as a whole one.

    images: uint8 or float32 [N, C, H, W], moved to the device once, without a copy where they are there already in
    channels_last memory; of `Pictures`, batches are fetched and moved while the one before is in use.
    labels: int64 [N]; indices: int64 [n], which of the images are loaded. strata: int64 [N], by which evaluation
    matches images; the labels by default.
    Order and augmentation of pass e are a pure function of (seed, e). Each `iter()` runs pass `epoch` and advances
    `epoch` by one, so resuming means setting `epoch`.
    """

    def __init__(
        self, images: Tensor | Pictures, labels: Tensor, indices: Tensor, batch_size: int, *, mean: Sequence[float],
        std: Sequence[float], augmentation: Augmentation | None = None, shuffle: bool = False, seed: int = 0,
        device: torch.device | str = "cpu", strata: Tensor | None = None,
    ):  # fmt: skip
        self.device = torch.device(device)
        fetched = isinstance(images, Pictures)
        self.images = images if fetched else images.to(self.device)
        # [N, H, W, C]; None where pictures are fetched.
        self.storage = None if fetched else channels_last_storage(self.images)
        self.labels = labels.to(self.place)
        self.mean, self.std = tuple(mean), tuple(std)
        self.indices = indices.cpu()
        self.strata = self.labels if strata is None else strata
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

    @property
    def place(self) -> torch.device:
        """Where indices and labels are: beside the images."""
        return torch.device("cpu") if self.storage is None else self.device

    def in_order(self, indices: Tensor, batch_size: int) -> "TensorLoader":
        """A loader over the same images and labels in the order of these indices, without augmentation."""
        return TensorLoader(
            self.images, self.labels, indices, batch_size, mean=self.mean, std=self.std, device=self.device,
            strata=self.strata,
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
        parts = (self._part(number) for number in range(start, len(self)))
        return self.assembled((indices[part], None if plan is None else plan[part]) for part in parts)

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
        return order.to(self.place), plan

    def assemble(self, indices: Tensor, plan: Tensor | None) -> Batch:
        """The batch of these images, which are on the device: indices int64 [B], plan int64 [B, 5] or None."""
        labels, (own, plan) = self.labels.index_select(0, indices), _own(indices, plan)
        return self._shared(self._inputs(self.storage, own, plan), len(indices)), labels

    def assembled(self, draws: Iterable[Drawn]) -> Iterator[Batch]:
        """The batches of these draws, one after the other; an endless iterable gives an endless iterator."""
        if self.storage is not None:
            for indices, plan in draws:
                yield self.assemble(indices, plan)
            return
        wanted, draws = tee(draws)
        pinned = self.device.type == "cuda"
        coming = self.images.fetch((_own(*draw)[0] for draw in wanted), pinned)
        for pixels, (indices, plan) in zip(coming, draws, strict=True):
            pixels, labels = pixels.to(self.device, non_blocking=pinned), self.labels.index_select(0, indices)
            rows, (_, plan) = torch.arange(len(pixels), device=self.device), _own(indices, plan)
            yield self._shared(self._inputs(pixels, rows, plan), len(indices)), labels.to(self.device)

    def _shared(self, inputs: Tensor, count: int) -> Tensor | SharedRows:
        return inputs if len(inputs) == count else SharedRows.of(inputs, count)

    def _inputs(self, storage: Tensor, indices: Tensor, plan: Tensor | None) -> Tensor:
        if plan is None:
            return self.normaliser(storage.index_select(0, indices))
        return self.augmentation.apply(storage, indices, plan, self.normaliser)


def _own(indices: Tensor, plan: Tensor | None) -> Drawn:
    """The draws of the rows that this rank makes."""
    rows = own_rows(len(indices))
    return (indices, plan) if rows is None else (indices[rows], None if plan is None else plan[rows])
