"""The loop over epochs and batches: every training, and every unlearning method, goes through `run_loop`.

A `Trainer` provides batches, steps and hooks. The loop transfers figures from the device once an interval, shows a
progress bar on a terminal, and measures the cost.
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice

import torch
from torch import Tensor, nn
from tqdm import tqdm

from helper_functions.progress import progress_bar
from helper_functions.signals import held_back, pending
from helper_functions.training.distribution import from_main, wait_for_main
from helper_functions.training.passes import WEIGHTS, Fault, ResumableEpoch, all_finite
from helper_functions.training.peak_memory import peak_memory, release_memory, reset_peak_memory


@dataclass
class Cost:
    """The cost of a model so far: wall-clock seconds, gradient steps, images in them, peak memory."""

    seconds: float = 0.0
    gradient_steps: int = 0
    images: int = 0
    peak_memory_bytes: int = 0

    def stopwatch(self, device: torch.device) -> "Stopwatch":
        """A running stopwatch that adds to `seconds` and measures memory from now on. One at a time in a process."""
        release_memory()
        return Stopwatch(self, device)


class Stopwatch:
    """Adds wall-clock time and peak memory to a cost; the time between `lap` and `skip` does not count."""

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
        """Ignore the time since the last call."""
        reset_peak_memory(self.device)
        self._since = time.perf_counter()


class Trainer:
    """What the loop runs: batches, one step, and hooks, which do nothing unless they are overridden.

    Batches are dicts that map a stream's name to `(inputs, labels)`. An epoch is one pass over `batches`, or several
    (`passes`), each with a name for the record.
    """

    name = "training"
    batches: Iterable[dict]

    def passes(self, epoch: int) -> list[tuple[str, Iterable[dict]]]:
        """Names and batches of the passes of an epoch, from 0."""
        return [(self.name, self.batches)]

    def step(self, batch: dict) -> dict[str, Tensor]:
        """One step on a batch; returns 0-d tensors by name, the same names at each step of a pass."""
        raise NotImplementedError

    def on_pass(self, epoch: int, number: int, resumed: bool) -> None:
        """Pass `number` of an epoch, both from 0, begins, or is `resumed` in the middle."""

    def on_interval(self, figures: dict[str, float], step: int) -> None:
        """Means since the last interval, after so many gradient steps."""

    def on_epoch(self, means: dict[str, float], epoch: int) -> bool:
        """Means of the last pass of an epoch, from 1; True ends the loop."""
        return False

    def on_fault(self, fault: Fault) -> bool:
        """A figure, or a weight, became NaN or infinite; True begins the pass again from where it was entered."""
        return False

    def on_stop(self, place: dict, epoch: int) -> None:
        """A signal ends the run in the middle of an epoch, from 0: save what a `LoopConfig` needs to go on there."""


class Stretch(Trainer):
    """Steps until an epoch ends with `done()`; an epoch is the next `length` batches of an endless stream."""

    def __init__(
        self, stream: Iterator[dict], length: int, step: Callable[[dict], dict[str, Tensor]],
        done: Callable[[], bool] = lambda: False,
    ) -> None:  # fmt: skip
        self.stream, self.length, self.step, self.done, self.batches = stream, length, step, done, self

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[dict]:
        return islice(self.stream, self.length)

    def on_epoch(self, means: dict[str, float], epoch: int) -> bool:
        return self.done()


@dataclass
class LoopConfig:
    """How far and on what a loop runs: `num_epochs` in all, of which `start_epoch` are done.

    The figures `shown` stand beside the progress bar. `place` is what `on_stop` was given in the epoch to resume. After
    each pass the weights of `model` are checked for NaN.
    """

    num_epochs: int
    device: torch.device = torch.device("cpu")
    log_interval: int = 50
    shown: tuple[str, ...] = ("loss",)
    start_epoch: int = 0
    place: dict | None = None
    model: nn.Module | None = None
    cost: Cost = field(default_factory=Cost)


class NamedLoader:
    """A sized iterable of `{name: (x, y)}` over one loader: a stream of the loop. `state_dict()` is between passes."""

    def __init__(self, name: str, loader: Iterable):
        self.name, self.loader = name, loader

    def __len__(self) -> int:
        return len(self.loader)

    @property
    def num_images(self) -> int:
        """Images in one pass over a loader that knows."""
        return self.loader.num_images

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
        """Numbers of the images in a batch of the pass that begins in a state, where the loader provides them."""
        knows = hasattr(self.loader, "images_of")
        return {self.name: self.loader.images_of(state["epoch"], number)} if knows else {}


def run_loop(trainer: Trainer, config: LoopConfig) -> None:
    """Run a trainer's epochs to their end, or until it ends them.

    A signal raises Stopped, after a call of `on_stop` unless a figure or a weight is not finite.
    """
    with held_back():
        epoch, place, began = config.start_epoch, config.place, time.perf_counter()
        while epoch < config.num_epochs:
            passes = trainer.passes(epoch)
            for number, (name, batches) in enumerate(passes):
                if place is not None and number < place["pass"]:
                    continue
                trainer.on_pass(epoch, number, resumed=place is not None)
                running, done = ResumableEpoch(batches, config.device, place), False
                watch = _PassWatch(trainer, config, running, epoch, number, name, len(batches), len(passes), began)
                place = None
                while not done:
                    with watch.progress_bar():
                        for batch in running:
                            running.means.add(trainer.step(_to_device(batch, config.device)))
                            if watch.after_step(batch):
                                break
                        else:
                            done = all_finite(config.model) or not trainer.on_fault(watch.fault())
                    if not done:
                        running.begin_again()
            epoch += 1
            if trainer.on_epoch(running.means.of_pass(), epoch):
                break


@dataclass
class _PassWatch:
    """What is measured and checked around the steps of pass `number` of an epoch: progress, cost, figures, signals."""

    trainer: Trainer
    config: LoopConfig
    running: ResumableEpoch
    epoch: int
    number: int
    name: str
    total: int
    passes: int
    loop_began: float

    @contextlib.contextmanager
    def progress_bar(self) -> Iterator[None]:
        """Inside, the pass runs from where it was left; the bar is shown only on a terminal."""
        self.images, self.began, self.shown = 0, time.perf_counter(), []
        self._stop_if_asked(last=True)
        title = f"{self.name} {self.epoch + 1}/{self.config.num_epochs}"
        with progress_bar(title, self.total, self.running.done, "step") as self.bar:
            yield

    def after_step(self, batch: dict) -> bool:
        """Count the step, report figures once an interval, and check for signals; True begins the pass again."""
        images, last = sum(len(labels) for _, labels in batch.values()), self.running.done == self.total
        self.images += images
        self.config.cost.images += images
        self.config.cost.gradient_steps += 1
        if not self.bar.disable:
            self.bar.set_postfix_str(", ".join([f"all in {self._left()}", *self.shown]), refresh=False)
            self.bar.update(self.running.done - self.bar.n)
        if (self.running.done % self.config.log_interval == 0 or last) and self._report():
            return True
        self._stop_if_asked(last)
        return False

    def _report(self) -> bool:
        figures, non_finite = self.running.means.transfer()
        now = time.perf_counter()
        figures["images_per_second"] = self.images / (now - self.began)
        self.images, self.began = 0, now
        self.trainer.on_interval(figures, self.config.cost.gradient_steps)
        if non_finite is not None and self.trainer.on_fault(self.fault(*non_finite)):
            return True
        shown = [f"{name.rpartition('/')[2]} {figures[name]:.3g}" for name in self.config.shown if name in figures]
        self.shown = [f"{figures['images_per_second']:,.0f} images/s", *shown]
        return False

    def _left(self) -> str:
        """The time that all epochs will still take, if none ends the loop early."""
        total, begun = self.config.num_epochs, self.config.start_epoch
        done = self.epoch + (self.number + self.running.done / self.total) / self.passes
        spent = time.perf_counter() - self.loop_began
        return tqdm.format_interval(spent * (total - done) / (done - begun))

    def fault(self, ago: int = 0, figure: str = WEIGHTS) -> Fault:
        """What became NaN or infinite so many steps ago."""
        batch = self.running.done - ago
        step, images = self.config.cost.gradient_steps - ago, self.running.images(batch - 1)
        return Fault(figure, self.name, self.epoch + 1, batch, self.total, step, images)

    def _stop_if_asked(self, last: bool) -> None:
        if pending.asked(last) is None:
            return
        # A state that is not finite is not saved; the resumed run reaches it again.
        sound = from_main(lambda: self.running.means.sound() and all_finite(self.config.model))
        if sound:
            self.trainer.on_stop({"pass": self.number, **self.running.place()}, self.epoch)
            wait_for_main()
        pending.stop(self.config.cost.gradient_steps if sound else None)


def _to_device(batch: dict, device: torch.device) -> dict:
    return {name: tuple(part.to(device, non_blocking=True) for part in pair) for name, pair in batch.items()}
