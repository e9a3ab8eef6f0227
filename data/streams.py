"""Endless and paired streams of batches, which go on from where they were."""

from collections.abc import Iterator, Sized
from itertools import islice
from typing import Any

import torch

from data.augmentation import AugmentationPlan
from data.loaders import Batch, Drawn, TensorLoader
from helper_functions.errors import UserError


class CyclingLoader:
    """An endless stream over a sized iterable of `(inputs, labels)`: `take()` goes on from where it was.

    Over a `TensorLoader` it is the concatenation of pass 0, 1, 2, …, cut into batches that are all full: the last of a
    pass is completed from the next one. After any number of batches, no image has come up more than once more often
    than another. Its place is exact in `state_dict()`. `epoch` of the loader plays no part.
    Any other iterable gives its batches as they come and is begun again when it ends; its place is found again by
    skipping batches, exact if its passes have a repeatable order.
    Raises UserError where the iterable holds nothing.
    """

    def __init__(self, loader: Any):
        size = loader.num_images if isinstance(loader, TensorLoader) else len(loader)
        if size == 0:
            raise UserError("a stream over no images has no end to wait for; give a loader that is not empty")
        self.loader = loader
        self._source = _TensorSource(loader) if isinstance(loader, TensorLoader) else _IterableSource(loader)

    def take(self) -> Batch:
        """The next batch."""
        return self._source.take()

    def __iter__(self) -> Iterator[Batch]:
        return self

    def __next__(self) -> Batch:
        return self.take()

    def images_of(self, state: dict[str, int], number: int) -> torch.Tensor:
        """Which images are in the batch that comes `number` batches after a state of a stream over a TensorLoader."""
        loader, size = self.loader, self.loader.num_images
        first = state["position"] + number * loader.batch_size
        last = first + loader.batch_size
        passes = [loader.draw_pass(state["epoch"] + i)[0].cpu() for i in range(first // size, (last - 1) // size + 1)]
        return torch.cat(passes)[first % size :][: loader.batch_size]

    def state_dict(self) -> dict[str, int]:
        """`epoch`, the pass, and `position` in it: images for a TensorLoader, batches for anything else."""
        return {"epoch": self._source.epoch, "position": self._source.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._source.seek(int(state["epoch"]), int(state["position"]))


class _TensorSource:
    def __init__(self, loader: TensorLoader):
        self.loader = loader
        self.seek(0, 0)

    def seek(self, epoch: int, position: int) -> None:
        self.epoch, self.position = epoch, position
        self.drawn: Drawn | None = None

    def take(self) -> Batch:
        parts, missing = [], self.loader.batch_size
        while missing:
            part = self._next_part(missing)
            missing -= len(part[0])
            parts.append(part)
        indices = torch.cat([part[0] for part in parts])
        if self.loader.augmentation is None:
            return self.loader.assemble(indices, None)
        return self.loader.assemble(indices, AugmentationPlan.concatenate([part[1] for part in parts]))

    def _next_part(self, most: int) -> Drawn:
        if self.position == self.loader.num_images:
            self.seek(self.epoch + 1, 0)
        if self.drawn is None:
            self.drawn = self.loader.draw_pass(self.epoch)
        indices, plan = self.drawn
        part = slice(self.position, min(self.position + most, len(indices)))
        self.position = part.stop
        return indices[part], None if plan is None else plan[part]


class _IterableSource:
    def __init__(self, loader: Any):
        self.loader = loader
        self.seek(0, 0)

    def seek(self, epoch: int, position: int) -> None:
        self.epoch, self.position = epoch, position
        self.iterator: Iterator[Batch] | None = None

    def take(self) -> Batch:
        if self.iterator is None:
            self.iterator = islice(iter(self.loader), self.position, None)
        batch = next(self.iterator, None)
        if batch is None:
            self.seek(self.epoch + 1, 0)
            self.iterator = iter(self.loader)
            batch = next(self.iterator, None)
            if batch is None:
                raise UserError("a loader gave no batch on a later pass; give one that can be iterated again")
        self.position += 1
        return batch


class PairedLoader:
    """A sized iterable of `{'forget': (x, y), 'retain': (x, y)}`: one pass over the leading loader an epoch.

    Each epoch visits every image of the leading loader, by default the forget set, once; the stream beside it goes on
    from where the last epoch left it, so that all of its images come up equally often whatever the two lengths.
    `names` are those of the two, the leading one first. `state_dict()` may be taken between any two batches; after
    `load_state_dict()` the next `iter()` finishes the epoch that was under way. Passes are counted on from the leading
    loader's own `epoch`, where it has one.
    """

    def __init__(self, leader: Sized, follower: CyclingLoader, names: tuple[str, str] = ("forget", "retain")):
        self.leader = leader
        self.follower = follower
        self.names = names
        self.epoch = leader.epoch if isinstance(leader, TensorLoader) else 0
        self.position = 0
        self._resumes = False

    def __len__(self) -> int:
        return len(self.leader)

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        if self.position and not self._resumes:
            # The last epoch was left early; this is another one.
            self.epoch, self.position = self.epoch + 1, 0
        self._resumes = False
        for batch in self._leading_batches():
            self.position += 1
            yield dict(zip(self.names, (batch, self.follower.take()), strict=True))
        self.epoch += 1
        self.position = 0

    def _leading_batches(self) -> Iterator[Batch]:
        if isinstance(self.leader, TensorLoader):
            self.leader.epoch = self.epoch + 1
            return self.leader.batches(self.epoch, self.position)
        return islice(iter(self.leader), self.position, None)

    def images_of(self, state: dict[str, Any], number: int) -> dict[str, torch.Tensor]:
        """Which images are in batch `number` of an epoch that begins in a state, by name; of loaders that can tell."""
        leader, beside = self.names
        found = {}
        if isinstance(self.leader, TensorLoader):
            found[leader] = self.leader.images_of(state["epoch"], state["position"] + number)
        if isinstance(self.follower.loader, TensorLoader):
            found[beside] = self.follower.images_of(state["beside"], number)
        return found

    def state_dict(self) -> dict[str, Any]:
        """`epoch`, `position` (batches given in it) and the state of the stream beside the leading loader, `beside`."""
        whole = self.position == len(self) and self.position > 0
        epoch, position = (self.epoch + 1, 0) if whole else (self.epoch, self.position)
        return {"epoch": epoch, "position": position, "beside": self.follower.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
        self._resumes = True
        self.follower.load_state_dict(state["beside"])
