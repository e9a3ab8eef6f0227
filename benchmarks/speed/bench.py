"""What all jobs of `benchmarks.speed.throughput` share: images, models, loaders, and how our steps are timed."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from torch import Tensor, nn

from benchmarks.speed import plain
from benchmarks.speed.utilisation import flops_of
from data.datasets import Dataset, load_dataset
from data.image_sets import ImageSets
from data.loaders import TensorLoader
from helper_functions.training.devices import Precision, seed_everything
from helper_functions.training.loop import LoopConfig, Trainer, run_loop
from helper_functions.training.peak_memory import peak_memory, release_memory, reset_peak_memory
from models import get_model

NUM_CLASSES = 100
SCHEDULE_STEPS = 100_000  # so many that no schedule comes to its end
MEMORY_FORMATS = {"channels_last": torch.channels_last, "contiguous": torch.contiguous_format}

Measure = Callable[[], float]  # times one stretch, in images/s


def images_from(data_dir: str) -> Dataset:
    """CIFAR-100, or random images of its shape where the folder does not hold it."""
    if (Path(data_dir) / "cifar-100-python").exists():
        return load_dataset("cifar100", data_dir, download=False)
    pixels = torch.randint(256, (60_000, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, names = torch.arange(60_000) % NUM_CLASSES, tuple(map(str, range(NUM_CLASSES)))
    # Uniform values: mean 1/2, variance 1/12.
    return Dataset("random images", pixels.permute(0, 3, 1, 2), labels, names, 50_000, (0.5,) * 3, (12**-0.5,) * 3)


@dataclasses.dataclass
class Ours:
    """One of our jobs; calling it measures a stretch and gives images/s.

    Args:
        run: takes an amount and gives the number of images.
        amount: of a stretch.
        device: is waited for.
        warm_up: amount that is run before a stretch and not counted, and the one whose FLOPs are.
    """

    run: Callable[[int], int]
    amount: int
    device: torch.device
    warm_up: int = 1

    def __call__(self) -> float:
        return plain.images_per_second(self.run, self.amount, self.device, self.warm_up)

    def flops_per_image(self) -> float:
        """Floating-point operations for each image that is counted."""
        images, flops = flops_of(partial(self.run, self.warm_up))
        return flops / images


@dataclasses.dataclass
class Bench:
    """Images, network and settings of one round of jobs.

    Args:
        sets: loaders over the parts of a data set.
        precision: device, and the dtype of ours.
        stem: of the ResNet-18.
        memory_format: of our weights and inputs, one of `MEMORY_FORMATS`.
        batch_size: images in a batch of a stream.
        steps: gradient steps in a stretch.
    """

    sets: ImageSets
    precision: Precision
    stem: str
    memory_format: str
    batch_size: int
    steps: int

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self.precision.device

    def model(self) -> nn.Module:
        """Ours; the same first weights each time."""
        seed_everything(0)
        model = get_model("resnet18", NUM_CLASSES, stem=self.stem)
        return model.to(self.device, memory_format=MEMORY_FORMATS[self.memory_format])

    def plain_model(self) -> nn.Module:
        """The same network with the same weights, the plain way."""
        return plain.network(self.model())

    def indices(self, part: str) -> Tensor:
        """Images of a part of the splits, int64."""
        return getattr(self.sets.splits, part)

    def loader(self, part: str, augment: bool = True) -> TensorLoader:
        """Ours for training on a part, less the images that would make its batches smaller than asked."""
        indices = self.indices(part)
        whole = len(indices) // self.batch_size * self.batch_size
        return self.sets.training(indices[:whole], self.batch_size, augment=augment)

    def formatted(self, batch: Sequence[Tensor]) -> tuple[Tensor, Tensor]:
        """Inputs in the memory format that was asked for, and labels; loaders give channels_last."""
        inputs, labels = batch
        return inputs.contiguous(memory_format=MEMORY_FORMATS[self.memory_format]), labels

    def plain(self, step: Callable, *loaders: TensorLoader, factor: int = 1) -> Measure:
        """A step the plain way, on the images of our loaders."""
        return plain.Plain(step, loaders, self.batch_size, factor * self.steps)

    def ours(self, run: Callable[[int], int], amount: int, warm_up: int = 1) -> Ours:
        """Anything of ours."""
        return Ours(run, amount, self.device, warm_up)

    def our_steps(self, step: Callable[[dict], dict], batches: Iterable[dict]) -> Ours:
        """Steps of a trainer in the loop that all scripts use."""
        stream = iter(batches)

        def run(steps: int) -> int:
            config = LoopConfig(1, self.device)
            run_loop(Taken(stream, steps, lambda batch: step({k: self.formatted(v) for k, v in batch.items()})), config)
            return config.cost.images

        return self.ours(run, self.steps)


class Taken(Trainer):
    """The next few batches of an endless stream, and what is done with each."""

    name = "benchmark"

    def __init__(self, stream: Iterator, steps: int, step: Callable[[dict], dict]) -> None:
        self.stream, self.steps, self.step, self.batches = stream, steps, step, self

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator:
        return islice(self.stream, self.steps)


def forever(loader: Iterable) -> Iterator:
    """Pass after pass."""
    return chain.from_iterable(repeat(loader))


def in_turns(measures: Sequence[Measure], rounds: int, device: torch.device) -> list[tuple[list[float], int]]:
    """Let measures take turns, so that what slows the machine down slows all of them.

    Returns:
        For each its values, `rounds` of them, and the peak of memory in bytes while it had its turns.
    """
    values, peaks = [[] for _ in measures], [0 for _ in measures]
    release_memory()
    for _ in range(rounds):
        for number, measure in enumerate(measures):
            reset_peak_memory(device)
            values[number].append(measure())
            peaks[number] = max(peaks[number], peak_memory(device))
    return list(zip(values, peaks, strict=True))
