"""The one loop: it draws batches, takes steps and hands figures on, and knows no method."""

import contextlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from tqdm import tqdm

from helper_functions.signals import Stops, held_back
from helper_functions.training.distribution import from_main, is_main, wait_for_main
from helper_functions.training.faults import WEIGHTS, Fault, all_finite
from helper_functions.training.passes import RunningPass
from helper_functions.training.peak_memory import peak_memory, release_memory, reset_peak_memory

Step = Callable[[dict], dict[str, Tensor]]


@dataclass
class Cost:
    """What a model has cost so far: wall-clock seconds, gradient steps, images that went through a gradient, memory."""

    seconds: float = 0.0
    gradient_steps: int = 0
    images: int = 0
    peak_memory_bytes: int = 0

    def stopwatch(self, device: torch.device) -> "Stopwatch":
        """A running stopwatch that adds to `seconds`; memory counts from now on, too. One at a time in a process."""
        release_memory()
        return Stopwatch(self, device)


class Stopwatch:
    """Adds wall-clock time to a cost, and raises its peak of memory; what is between `lap` and `skip` is left out."""

    def __init__(self, cost: Cost, device: torch.device) -> None:
        self.cost, self.device = cost, device
        self.skip()

    def lap(self) -> None:
        """Count the time since the last call, with the work that the device still has to finish."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        now = time.perf_counter()
        self.cost.seconds += now - self._since
        self._since = now
        self.cost.peak_memory_bytes = max(self.cost.peak_memory_bytes, peak_memory(self.device))

    def skip(self) -> None:
        """Leave out what has passed since the last call."""
        reset_peak_memory(self.device)
        self._since = time.perf_counter()


@dataclass
class Phase:
    """A stretch of a run: where batches come from, what one step does with them, and who listens.

    `batches` yields dicts that map a stream's name to `(inputs, labels)`. `step` takes one of them and returns 0-d
    tensors by name, the same names at each step; they stay on the device until the next transfer.
    `on_interval(means, step)` hears the means since the last transfer, `on_epoch(means, epoch) -> stop` those of
    the epoch, and ends the phase by returning True.

    `on_pass()` is told when a pass is entered. `on_fault(fault) -> again` hears of a figure that is no number, and at
    the end of a pass of a weight of `model` that is none; by returning True it has the pass begun again from where it
    was entered. `on_stop(place, epoch)` saves everything when a signal ends the run in the middle of the epoch of
    this number, from 0; a phase that is given `start_epoch` and `place` goes on from there. Without it, a signal is
    raised wherever it comes.
    """

    name: str
    num_epochs: int
    batches: Iterable[dict]
    step: Step
    on_interval: Callable[[dict[str, float], int], None] = lambda means, step: None
    on_epoch: Callable[[dict[str, float], int], bool | None] = lambda means, epoch: None
    on_pass: Callable[[], None] = lambda: None
    on_fault: Callable[[Fault], bool] = lambda fault: False
    on_stop: Callable[[dict, int], None] | None = None
    log_interval: int = 50
    shown: tuple[str, ...] = ("loss",)
    start_epoch: int = 0
    place: dict | None = None
    model: nn.Module | None = None
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

    def images_of(self, state: dict[str, int], number: int) -> dict[str, Tensor]:
        """Numbers of the images in a batch of the pass that begins in a state, where the loader can tell."""
        if not hasattr(self.loader, "images_of"):
            return {}
        return {self.name: self.loader.images_of(state["epoch"], number)}


def run_phase(phase: Phase) -> None:
    """Run a phase to its end, or until a listener stops it.

    Raises:
        Stopped: a signal has come; `on_stop` was told where the phase was left, unless its figures are spoiled.
    """
    held = contextlib.nullcontext() if phase.on_stop is None else held_back()
    with held:
        stops, epoch, place = Stops(), phase.start_epoch, phase.place
        while epoch < phase.num_epochs:
            running = RunningPass(phase.batches, phase.device, place)
            phase.on_pass()
            while not _run_pass(phase, running, epoch, stops):
                running.begin_again()
            epoch, place = epoch + 1, None
            if phase.on_epoch(running.means.of_pass(), epoch):
                break


def _run_pass(phase: Phase, running: RunningPass, epoch: int, stops: Stops) -> bool:
    """Take a pass to its end; False where it has to be begun again."""
    total = len(phase.batches)
    clock = _Clock(phase)
    title = f"{phase.name} {epoch + 1}/{phase.num_epochs}"
    shows = is_main() and sys.stderr.isatty()
    _stop_if_asked(phase, running, epoch, stops, last=True)
    with tqdm(total=total, initial=running.done, desc=title, unit="step", leave=False, disable=not shows) as bar:
        for batch in running:
            running.means.add(phase.step({name: _to(phase.device, *pair) for name, pair in batch.items()}))
            clock.count(sum(len(labels) for _, labels in batch.values()))
            if running.done % phase.log_interval == 0 or running.done == total:
                figures, spoiled = running.means.transfer()
                figures["images_per_second"] = clock.images_per_second()
                phase.on_interval(figures, phase.cost.gradient_steps)
                if spoiled is not None and phase.on_fault(_fault(phase, running, epoch, *spoiled)):
                    return False
                bar.update(running.done - bar.n)
                bar.set_postfix_str(_postfix(figures, phase.shown), refresh=False)
            _stop_if_asked(phase, running, epoch, stops, last=running.done == total)
    return all_finite(phase.model) or not phase.on_fault(_fault(phase, running, epoch))


class _Clock:
    """Counts steps and images of a phase, and how fast the images of an interval were."""

    def __init__(self, phase: Phase) -> None:
        self.cost, self.images, self.began = phase.cost, 0, time.perf_counter()

    def count(self, images: int) -> None:
        self.cost.gradient_steps += 1
        self.cost.images += images
        self.images += images

    def images_per_second(self) -> float:
        """Since the last call."""
        now = time.perf_counter()
        rate = self.images / (now - self.began)
        self.images, self.began = 0, now
        return rate


def _fault(phase: Phase, running: RunningPass, epoch: int, ago: int = 0, figure: str = WEIGHTS) -> Fault:
    batch = running.done - ago
    step, images = phase.cost.gradient_steps - ago, running.images(batch - 1)
    return Fault(figure, phase.name, epoch + 1, batch, len(phase.batches), step, images)


def _stop_if_asked(phase: Phase, running: RunningPass, epoch: int, stops: Stops, last: bool) -> None:
    if phase.on_stop is None or stops.asked(last) is None:
        return
    # What is spoiled is not saved: the run that goes on comes to it again.
    sound = from_main(lambda: running.means.sound() and all_finite(phase.model))
    if sound:
        phase.on_stop(running.place(), epoch)
        wait_for_main()
    stops.stop(phase.cost.gradient_steps if sound else None)


def _to(device: torch.device, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return inputs.to(device, non_blocking=True), labels.to(device, non_blocking=True)


def _postfix(figures: dict[str, float], shown: tuple[str, ...]) -> str:
    parts = [f"{figures['images_per_second']:,.0f} images/s"]
    parts += [f"{name.rpartition('/')[2]} {figures[name]:.3g}" for name in shown if name in figures]
    return ", ".join(parts)
