"""Images a second of our steps and of the same steps as they are usually written, measured side by side.

    python -m benchmarks.throughput --data_dir data/cifar100 --output throughput.json
    python -m benchmarks.throughput --quick

torchvision's ResNet-18 with its ImageNet stem, 32 x 32 images, 100 classes. Ours and the plain way (see
`benchmarks.plain`) take turns, so that a machine that slows down slows both; a ratio is that of two neighbours.
"""

import dataclasses
import itertools
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import PIL
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import plain
from data.augmentation import Augmentation
from data.datasets import Dataset, load_dataset
from data.image_sets import EVALUATION_BATCH, ImageSets
from data.loaders import Batch
from data.splits import make_splits
from data.streams import CyclingLoader, PairedLoader
from helper_functions.config import PositiveInt, ScriptParser, run_script
from helper_functions.devices import choose_device, choose_precision, describe_environment, seed_everything
from helper_functions.errors import UserError
from helper_functions.files import write_json
from helper_functions.inference import predict
from helper_functions.loop import Cost, Phase, run_phase
from helper_functions.metrics import calculate_accuracy
from models import get_model
from optimizer.problems import EmpiricalRisk
from optimizer.schedules import get_schedule
from optimizer.solver import Solver
from optimizer.training import Recipe, build_optimizer
from unlearning.arguments import UnlearnArgs
from unlearning.constrained import ForgetSubjectToRetain, RetainAgainstOriginal, TwoStreams
from unlearning.examination import matching_weights
from unlearning.targets import UnseenTarget
from unlearning.unlearn import AIMED_SHARE

NUM_CLASSES = 100
# Long enough for no schedule to end.
SCHEDULE_STEPS = 100_000
HARDWARE = ("device", "cpu", "cpu_threads", "platform")
VERSIONS = ("python", "torch", "torchvision", "numpy")

# Measures one stretch, in images/s.
Measure = Callable[[], float]


@dataclasses.dataclass
class Args:
    """Flags of benchmarks.throughput."""

    data_dir: str = "data/cifar100"
    """Folder of CIFAR-100; where it is absent, the images are random ones of the same shape."""
    batch_size: PositiveInt = 128
    """Images in a batch; the constrained step takes as many forget and as many retain images."""
    pairs: PositiveInt | None = None
    """Measurements of ours and of the plain way, in turns: 5, or 3 with --quick."""
    steps: PositiveInt | None = None
    """Gradient steps in a measurement: 10, or 2 with --quick; evaluation and loader take more batches."""
    quick: bool = False
    """Under a minute on two cores."""
    device: str = "auto"
    """auto takes CUDA, then MPS, then the CPU; or cpu, cuda, cuda:N, mps."""
    output: str | None = None
    """JSON file to write; one that exists is not overwritten."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.throughput", __doc__)


class Bench:
    """Images, splits and device; builds each job both ways.

    Args:
        dataset: images of 100 classes.
        args: flags.
        steps: gradient steps in a stretch.
    """

    def __init__(self, dataset: Dataset, args: Args, steps: int) -> None:
        self.dataset, self.batch_size, self.steps = dataset, args.batch_size, steps
        self.precision = choose_precision(choose_device(args.device))
        self.device = self.precision.device
        self.splits = make_splits(dataset, "random:0.1")
        self.sets = ImageSets(dataset, self.splits, Augmentation(), self.device, seed=0)
        if self.batch_size > len(self.splits.forget):
            most = len(self.splits.forget)
            raise UserError(f"--batch_size {self.batch_size}: a tenth is forgotten, {most} images; give at most that")

    def model(self, channels_last: bool) -> nn.Module:
        """ResNet-18 with its ImageNet stem; the same first weights each time."""
        seed_everything(0)
        layout = torch.channels_last if channels_last else torch.contiguous_format
        return get_model("resnet18", NUM_CLASSES, stem="imagenet").to(self.device, memory_format=layout)

    def plain(self, step: Callable, *streams: tuple[str, bool], factor: int = 1) -> Measure:
        """`step` on streams, each a part of the splits and whether it is augmented."""
        data, splits = self.dataset, self.splits
        images = [
            plain.PilImages(data.images, splits.labels, getattr(splits, part), data.mean, data.std, augment)
            for part, augment in streams
        ]
        return plain.Plain(images, step, factor * self.steps, self.batch_size, self.device)

    def full_batches(self, part: str, augment: bool, stream: int = 0):
        """A training loader over a part less the images that would make a short last batch."""
        indices = getattr(self.splits, part)
        indices = indices[: len(indices) // self.batch_size * self.batch_size]
        return self.sets.training(indices, self.batch_size, augment=augment, stream=stream)

    def loop(self, solver: Solver, schedule_name: str, batches: Iterator[dict], prepare: Callable) -> Measure:
        """Steps of a solver in the loop that the scripts use."""
        schedule = get_schedule(schedule_name, solver.primal, SCHEDULE_STEPS)

        def step(batch: dict) -> dict:
            prepare()
            figures = solver.step(batch)
            schedule.step()
            return figures

        def run(steps: int) -> int:
            cost = Cost()
            run_phase(Phase("benchmark", 1, Taken(batches, steps), step, device=self.device, cost=cost))
            return cost.images

        return lambda: self.rate(run, self.steps)

    def rate(self, run: Callable[[int], int], steps: int) -> float:
        """Images/s of `run(steps)`, which gives a number of images; one step before it is not counted."""
        run(1)
        began = plain.clock(self.device)
        images = run(steps)
        return images / (plain.clock(self.device) - began)


class Taken:
    """The next few batches of an endless stream, as a sized iterable."""

    def __init__(self, batches: Iterator, steps: int) -> None:
        self.batches, self.steps = batches, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator:
        return itertools.islice(self.batches, self.steps)


def forever(loader: Iterable) -> Iterator[Batch]:
    """Pass after pass."""
    while True:
        yield from loader


def training(bench: Bench, use_sam: bool = False) -> tuple[Measure, Measure]:
    """A training step by SGD or SAM."""
    model, recipe = bench.model(channels_last=True), Recipe(use_sam=use_sam)
    solver = Solver(EmpiricalRisk(model, bench.precision), build_optimizer(model, recipe), model)
    batches = ({"train": batch} for batch in forever(bench.full_batches("train", augment=True)))
    step = (plain.sam_step if use_sam else plain.training_step)(bench.model(channels_last=False))
    return bench.loop(solver, recipe.schedule, batches, model.train), bench.plain(step, ("train", True))


def sam(bench: Bench) -> tuple[Measure, Measure]:
    """A training step by SAM."""
    return training(bench, use_sam=True)


def constrained(bench: Bench) -> tuple[Measure, Measure]:
    """A step of constrained unlearning with the defaults of train_constrained_unlearning.py on a random forget set."""
    model, args, splits, precision = bench.model(channels_last=True), UnlearnArgs(), bench.splits, bench.precision
    unseen_losses = F.cross_entropy(*predict(model, bench.sets.evaluation(splits.unseen), precision), reduction="none")
    given = splits.labels
    target = UnseenTarget(matching_weights(given[splits.unseen], given[splits.forget], NUM_CLASSES))
    target.refresh(unseen_losses)
    streams = TwoStreams(model, precision, args.bn)
    problem = ForgetSubjectToRetain(
        streams, RetainAgainstOriginal(model, precision, args.bn), target, AIMED_SHARE * args.retain_budget,
        args.solver, args.multiplier, args.penalty_coefficient,
    )  # fmt: skip
    solver = Solver(problem, build_optimizer(model, args), model, args.dual_learning_rate, args.max_grad_norm)
    streams.prepare(model)
    retain = CyclingLoader(bench.full_batches("retain", augment=True, stream=1))
    batches = forever(PairedLoader(bench.full_batches("forget", augment=False, stream=2), retain))
    step = plain.constrained_step(bench.model(channels_last=False))
    ours = bench.loop(solver, args.schedule, batches, lambda: None)
    return ours, bench.plain(step, ("forget", False), ("retain", True))


def evaluation(bench: Bench) -> tuple[Measure, Measure]:
    """Accuracy and loss of images that are not augmented."""
    model, factor = bench.model(channels_last=True), 4
    wanted = min(factor * bench.steps * bench.batch_size, len(bench.splits.test))
    # Whole batches, as nearly all of a real evaluation are.
    wanted = max(wanted // EVALUATION_BATCH, 1) * EVALUATION_BATCH

    def run(images: int) -> int:
        logits, labels = predict(model, bench.sets.evaluation(bench.splits.test[:images]), bench.precision)
        top1, loss = calculate_accuracy(logits, labels)[0], F.cross_entropy(logits, labels)
        torch.stack([top1, loss]).tolist()  # the one transfer
        return len(labels)

    step = plain.evaluation_step(bench.model(channels_last=False))
    return lambda: bench.rate(run, wanted), bench.plain(step, ("test", False), factor=factor)


def loader(bench: Bench) -> tuple[Measure, Measure]:
    """The training loader alone, with crop and flip."""
    batches, factor = forever(bench.full_batches("train", augment=True)), 40

    def run(steps: int) -> int:
        return sum(len(labels) for _, labels in itertools.islice(batches, steps))

    ours = lambda: bench.rate(run, factor * bench.steps)  # noqa: E731
    return ours, bench.plain(plain.loading_step, ("train", True), factor=factor)


# Each gives two measures: ours and the plain way.
JOBS = {"train": training, "sam": sam, "constrained": constrained, "evaluation": evaluation, "loader": loader}


def load_images(data_dir: str) -> Dataset:
    """CIFAR-100, or random images of its shape where `data_dir` does not hold it.

    Raises:
        UserError: it is there but damaged.
    """
    if (Path(data_dir) / "cifar-100-python").exists():
        return load_dataset("cifar100", data_dir, download=False)
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(256, (60_000, 32, 32, 3), generator=generator, dtype=torch.uint8)
    labels = torch.arange(60_000) % NUM_CLASSES
    names = tuple(str(number) for number in range(NUM_CLASSES))
    # Uniform pixels: mean 1/2, variance 1/12.
    mean, std = (0.5,) * 3, (12**-0.5,) * 3
    return Dataset("random images", images.permute(0, 3, 1, 2), labels, names, 50_000, mean, std)


def summary(values: list[float], form: str) -> str:
    """Median and range."""
    low, middle, high = (format(value, form) for value in (min(values), statistics.median(values), max(values)))
    return f"{middle} [{low}-{high}]"
