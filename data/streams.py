"""Endless and paired streams of batches that resume at an exact position."""

from collections.abc import Iterator, Sized
from itertools import islice, tee
from typing import Any

import torch

from data.loaders import Batch, Drawn, TensorLoader
from helper_functions.errors import UserError


class CyclingLoader:
    """An endless stream over a sized iterable of `(inputs, labels)`.

    Over a `TensorLoader` it is the concatenation of pass 0, 1, 2, …, cut into full batches: the last batch of a pass is
    completed from the next pass. After any number of batches, no image has been shown more than once more often than
    another. The loader's own `epoch` is neither read nor changed. Any other iterable gives its batches unchanged and is
    restarted when it ends; resuming skips batches, and is exact if the order of its passes is repeatable.
    Raises UserError for an empty iterable.
    """

    def __init__(self, loader: Any):
        if (loader.num_images if isinstance(loader, TensorLoader) else len(loader)) == 0:
            raise UserError("a stream over no images never yields a batch; give a loader that is not empty")
        self.loader = loader
        self._seek(0, 0)

    def take(self) -> Batch:
        """The next batch."""
        return self._take_images() if isinstance(self.loader, TensorLoader) else self._take_batch()

    def images_of(self, state: dict[str, int], number: int) -> torch.Tensor:
        """The images of the batch that follows `number` batches after a state; of a stream over a TensorLoader."""
        loader, size = self.loader, self.loader.num_images
        first = state["position"] + number * loader.batch_size
        last = first + loader.batch_size
        passes = [loader.draw_pass(state["epoch"] + i)[0].cpu() for i in range(first // size, (last - 1) // size + 1)]
        return torch.cat(passes)[first % size :][: loader.batch_size]

    def state_dict(self) -> dict[str, int]:
        """`epoch`, the pass, and `position` in it: images for a TensorLoader, batches for anything else."""
        return {"epoch": self.epoch, "position": self.position}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self._seek(int(state["epoch"]), int(state["position"]))

    def _seek(self, epoch: int, position: int) -> None:
        self.epoch, self.position = epoch, position
        self._images: Iterator[tuple[Batch, tuple[int, int]]] | None = None  # of a TensorLoader
        self._batches: Iterator[Batch] | None = None  # the current pass of another iterable

    def _take_images(self) -> Batch:
        if self._images is None:
            drawn, places = tee(self._draws())
            batches = self.loader.assembled(draw for draw, _ in drawn)
            self._images = zip(batches, (place for _, place in places), strict=True)
        batch, (self.epoch, self.position) = next(self._images)
        return batch

    def _draws(self) -> Iterator[tuple[Drawn, tuple[int, int]]]:
        """The draws of one batch after another, each with the epoch and the position behind it."""
        epoch, position, drawn = self.epoch, self.position, None
        while True:
            parts, missing = [], self.loader.batch_size
            while missing:
                if position == self.loader.num_images:
                    epoch, position, drawn = epoch + 1, 0, None
                indices, plan = drawn = drawn or self.loader.draw_pass(epoch)
                part = slice(position, min(position + missing, len(indices)))
                missing -= part.stop - part.start
                position = part.stop
                parts.append((indices[part], None if plan is None else plan[part]))
            indices, plans = zip(*parts, strict=True)
            yield (torch.cat(indices), None if plans[0] is None else torch.cat(plans)), (epoch, position)

    def _take_batch(self) -> Batch:
        if self._batches is None:
            self._batches = islice(iter(self.loader), self.position, None)
        batch = next(self._batches, None)
        if batch is None:
            self._seek(self.epoch + 1, 0)
            self._batches = iter(self.loader)
            batch = next(self._batches, None)
            if batch is None:
                raise UserError("a loader gave no batch on a later pass; give one that can be iterated again")
        self.position += 1
        return batch


class PairedLoader:
    """A sized iterable of `{'forget': (x, y), 'retain': (x, y)}`: an epoch is one pass over the leading loader.

    Each epoch visits every image of the leading loader, by default the forget set, once. The stream beside it continues
    from epoch to epoch, so that its images are shown equally often whatever the two lengths. `names` are those of the
    two, the leading one first. `state_dict()` may be taken between any two batches; after `load_state_dict()` the next
    `iter()` finishes the interrupted epoch. Epochs are counted from the leading loader's own `epoch`, if it has one.
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

    @property
    def num_images(self) -> int:
        """Images in one epoch, of both streams; TensorLoaders only."""
        return self.leader.num_images + len(self) * self.follower.loader.batch_size

    def __iter__(self) -> Iterator[dict[str, Batch]]:
        if self.position and not self._resumes:
            # The last epoch was left early; this is the next one.
            self.epoch, self.position = self.epoch + 1, 0
        self._resumes = False
        if isinstance(self.leader, TensorLoader):
            self.leader.epoch = self.epoch + 1
            batches = self.leader.batches(self.epoch, self.position)
        else:
            batches = islice(iter(self.leader), self.position, None)
        for batch in batches:
            self.position += 1
            yield dict(zip(self.names, (batch, self.follower.take()), strict=True))
        self.epoch += 1
        self.position = 0

    def images_of(self, state: dict[str, Any], number: int) -> dict[str, torch.Tensor]:
        """The images of batch `number` of an epoch that begins in a state, by name; TensorLoaders only."""
        leader, beside = self.names
        found = {}
        if isinstance(self.leader, TensorLoader):
            found[leader] = self.leader.images_of(state["epoch"], state["position"] + number)
        if isinstance(self.follower.loader, TensorLoader):
            found[beside] = self.follower.images_of(state["beside"], number)
        return found

    def state_dict(self) -> dict[str, Any]:
        """`epoch`, `position` (batches given in it) and `beside`, the state of the stream beside the leading loader."""
        whole = self.position == len(self) and self.position > 0
        epoch, position = (self.epoch + 1, 0) if whole else (self.epoch, self.position)
        return {"epoch": epoch, "position": position, "beside": self.follower.state_dict()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
        self._resumes = True
        self.follower.load_state_dict(state["beside"])
