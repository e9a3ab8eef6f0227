"""A pass over batches that can be left and resumed between any two of them: its figures, its place, its faults."""

import dataclasses
import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from helper_functions.training.devices import generator_states, restore_generators
from helper_functions.training.distribution import agree

WEIGHTS = "weights"


@dataclasses.dataclass(frozen=True)
class Fault:
    """Where `figure`, a name in the record or `weights`, became NaN or infinite: epoch, batch and step from 1.

    `images`: numbers of the batch's images, by stream; of streams whose loader provides them.
    """

    figure: str
    phase: str
    epoch: int
    batch: int
    batches: int
    step: int
    images: dict[str, list[int]]


@torch.no_grad()
def all_finite(model: nn.Module | None) -> bool:
    """Whether all weights and running statistics are finite, in one transfer from the device."""
    values = [] if model is None else [value for value in model.state_dict().values() if value.is_floating_point()]
    return not values or bool(torch.stack([value.isfinite().all() for value in values]).all())


class Means:
    """Means of named 0-d tensors, which stay on their device until they are read in one transfer."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.rows: list[Tensor] = []
        self.totals: list[float] = []
        self.count = 0

    def add(self, values: dict[str, Tensor]) -> None:
        """Add the figures of a step."""
        self.names = list(values)
        self.rows.append(torch.stack([value.detach().float().reshape(()) for value in values.values()]))

    def transfer(self) -> tuple[dict[str, float], tuple[int, str] | None]:
        """Means since the last call, by one transfer from the device (and wait for it).

        With them the first figure that was NaN or infinite, if any: how many steps ago, and its name.
        """
        rows = agree(torch.stack(self.rows)).tolist()
        columns = list(zip(*rows, strict=True))
        sums = [math.fsum(column) if all(map(math.isfinite, column)) else sum(column) for column in columns]
        self.totals = [a + b for a, b in zip(self.totals or [0.0] * len(sums), sums, strict=True)]
        self.count += len(rows)
        self.rows = []
        found = (
            (len(rows) - number, name)
            for number, row in enumerate(rows, 1)
            for name, value in zip(self.names, row, strict=True)
            if not math.isfinite(value)
        )
        return {name: value / len(rows) for name, value in zip(self.names, sums, strict=True)}, next(found, None)

    def sound(self) -> bool:
        """Whether all figures since the last transfer are finite; waits for the device."""
        return not self.rows or bool(torch.stack(self.rows).isfinite().all())

    def of_pass(self) -> dict[str, float]:
        """Means of everything that has been transferred."""
        return {name: value / self.count for name, value in zip(self.names, self.totals, strict=True)}

    def state_dict(self) -> dict:
        """What a resumed pass needs."""
        rows = torch.stack(self.rows).cpu() if self.rows else torch.zeros(0)
        return {"names": self.names, "rows": rows, "totals": self.totals, "count": self.count}

    def load_state_dict(self, state: dict, device: torch.device) -> None:
        """Inverse of `state_dict`."""
        self.names, self.totals, self.count = list(state["names"]), list(state["totals"]), state["count"]
        self.rows = list(state["rows"].to(device))


class ResumableEpoch:
    """One pass, from its beginning or from the `place` where an earlier run left it.

    Where passes over the batches differ, their `state_dict()` and `load_state_dict()` hold which one comes next.
    """

    def __init__(self, batches: Iterable[dict], device: torch.device, place: dict | None = None) -> None:
        self.batches, self.means = batches, Means()
        # A new pass begins where its batches are, so nothing is restored.
        self._device, self._is_fresh, self._is_entered = device, place is None, False
        self._start = place or {
            "done": 0,
            "batches": batches.state_dict() if hasattr(batches, "state_dict") else {},
            "generators_before": generator_states(),
            "generators": {},
            "means": self.means.state_dict(),
        }
        self.done: int = self._start["done"]

    def __iter__(self) -> Iterator[dict]:
        """The batches that are left; each time from where the pass was entered first."""
        start = self._start
        self.means.load_state_dict(start["means"], self._device)
        if not self._is_fresh:
            if hasattr(self.batches, "load_state_dict"):
                self.batches.load_state_dict(start["batches"])
            restore_generators(start["generators_before"])
        self._is_fresh, self._is_entered = False, True
        batches = iter(self.batches)
        for _ in range(self.done):
            next(batches)
        if self.done:
            restore_generators(start["generators"])
        for batch in batches:
            self.done += 1
            yield batch

    def begin_again(self) -> None:
        """Go back to where the pass was entered."""
        self.done, self._is_entered = self._start["done"], False

    def place(self) -> dict:
        """What a resumed run needs to go on from here, between two batches."""
        if not self._is_entered:
            return self._start
        now = {"done": self.done, "generators": generator_states(), "means": self.means.state_dict()}
        return {**self._start, **now}

    def images(self, number: int) -> dict[str, list[int]]:
        """Numbers of the images in a batch, from 0, by stream; of streams whose loader provides them."""
        images_of = getattr(self.batches, "images_of", lambda state, number: {})
        return {name: images.tolist() for name, images in images_of(self._start["batches"], number).items()}
