"""The one loop: it draws batches, takes steps and hands figures on, and knows no method."""

import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor
from tqdm import tqdm

from helper_functions.distribution import agree, is_main

Step = Callable[[dict], dict[str, Tensor]]


@dataclass
class Cost:
    """What a model has cost so far: wall-clock seconds, gradient steps, images that went through a gradient."""

    seconds: float = 0.0
    gradient_steps: int = 0
    images: int = 0
    peak_memory_bytes: int = 0

    def stopwatch(self) -> "Stopwatch":
        """A running stopwatch that adds to `seconds`."""
        return Stopwatch(self)

    def measure_memory(self, device: torch.device) -> None:
        """Raise the peak to the device's (CUDA) or the process's (elsewhere) highest use so far."""
        if device.type == "cuda":
            peak = torch.cuda.max_memory_allocated(device)
        else:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        self.peak_memory_bytes = max(self.peak_memory_bytes, peak)


class Stopwatch:
    """Adds wall-clock time to a cost; what passes between `lap` and `skip` does not count."""

    def __init__(self, cost: Cost) -> None:
        self.cost = cost
        self._since = time.perf_counter()

    def lap(self, device: torch.device) -> None:
        """Count the time since the last call, with the work that the device still has to finish."""
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        now = time.perf_counter()
        self.cost.seconds += now - self._since
        self._since = now
        self.cost.measure_memory(device)

    def skip(self) -> None:
        """Leave out the time since the last call."""
        self._since = time.perf_counter()


@dataclass
class Phase:
    """A stretch of a run: where batches come from, what one step does with them, and who listens.

    `batches` yields dicts that map a stream's name to `(inputs, labels)`. `step` takes one of them and returns 0-d
    tensors by name, the same names at each step; they stay on the device until the next transfer.
    `on_interval(means, step)` hears the means since the last transfer, `on_epoch(means, epoch) -> stop` those of
    the epoch, and ends the phase by returning True.
    """

    name: str
    num_epochs: int
    batches: Iterable[dict]
    step: Step
    on_interval: Callable[[dict[str, float], int], None] = lambda means, step: None
    on_epoch: Callable[[dict[str, float], int], bool | None] = lambda means, epoch: None
    log_interval: int = 50
    shown: tuple[str, ...] = ("loss",)
    start_epoch: int = 0
    device: torch.device = torch.device("cpu")
    cost: Cost = field(default_factory=Cost)


class NamedLoader:
    """A sized iterable of `{name: (x, y)}` over one loader: a stream of the loop. `state_dict()` is between passes."""

    def __init__(self, name: str, loader: Iterable):
        self.name, self.loader = name, loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self) -> Iterator[dict]:
        for batch in self.loader:
            yield {self.name: tuple(batch)}

    def state_dict(self) -> dict[str, int]:
        """`epoch`, the pass that comes next, where the loader counts them."""
        return {"epoch": self.loader.epoch} if hasattr(self.loader, "epoch") else {}

    def load_state_dict(self, state: dict[str, int]) -> None:
        if "epoch" in state:
            self.loader.epoch = int(state["epoch"])


class _Means:
    """Running sums of named 0-d tensors, kept on their device, read in one transfer."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.interval: Tensor | None = None
        self.count = 0
        self.totals: list[float] = []
        self.total_count = 0

    def add(self, values: dict[str, Tensor]) -> None:
        stacked = torch.stack([value.detach().float().reshape(()) for value in values.values()])
        self.names = list(values)
        self.interval = stacked if self.interval is None else self.interval.add_(stacked)
        self.count += 1

    def transfer(self) -> dict[str, float]:
        """Means since the last call; the one transfer from the device (and wait for it) in an interval."""
        sums = agree(self.interval).tolist()
        self.totals = [a + b for a, b in zip(self.totals or [0.0] * len(sums), sums, strict=True)]
        means = {name: value / self.count for name, value in zip(self.names, sums, strict=True)}
        self.total_count += self.count
        self.interval, self.count = None, 0
        return means

    def epoch(self) -> dict[str, float]:
        return {name: value / self.total_count for name, value in zip(self.names, self.totals, strict=True)}


def run_phase(phase: Phase) -> None:
    """Run a phase to its end, or until a listener stops it."""
    for epoch in range(phase.start_epoch, phase.num_epochs):
        means = _run_epoch(phase, epoch)
        if phase.on_epoch(means, epoch + 1):
            break


def _run_epoch(phase: Phase, epoch: int) -> dict[str, float]:
    means, total = _Means(), len(phase.batches)
    began = time.perf_counter()
    title = f"{phase.name} {epoch + 1}/{phase.num_epochs}"
    shows = is_main() and sys.stderr.isatty()
    with tqdm(total=total, desc=title, unit="step", leave=False, disable=not shows) as bar:
        interval_began, interval_images = began, 0
        for number, batch in enumerate(phase.batches, start=1):
            means.add(phase.step({name: _to(phase.device, *pair) for name, pair in batch.items()}))
            images = sum(len(labels) for _, labels in batch.values())
            phase.cost.gradient_steps += 1
            phase.cost.images += images
            interval_images += images
            if number % phase.log_interval == 0 or number == total:
                figures = means.transfer()
                now = time.perf_counter()
                figures["images_per_second"] = interval_images / (now - interval_began)
                phase.on_interval(figures, phase.cost.gradient_steps)
                bar.update(number - bar.n)
                bar.set_postfix_str(_postfix(figures, phase.shown), refresh=False)
                interval_began, interval_images = now, 0
    return means.epoch()


def _to(device: torch.device, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return inputs.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _postfix(figures: dict[str, float], shown: tuple[str, ...]) -> str:
    parts = [f"{figures['images_per_second']:,.0f} images/s"]
    parts += [f"{name.rpartition('/')[2]} {figures[name]:.3g}" for name in shown if name in figures]
    return ", ".join(parts)
