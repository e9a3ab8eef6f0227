"""The jobs of `benchmarks.speed.throughput`, each our way and the plain way, on the same images and network."""

import dataclasses
from collections.abc import Callable, Iterable
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional as F

from benchmarks.speed import plain
from benchmarks.speed.forgetting_cost import Unrecorded
from benchmarks.speed.utilisation import flops_of, rate_of
from data.datasets import Dataset, load_dataset
from data.image_sets import ImageSets
from data.loaders import TensorLoader
from helper_functions.metrics import calculate_accuracy
from helper_functions.training.devices import Precision, seed_everything
from helper_functions.training.inference import predict
from helper_functions.training.loop import LoopConfig, NamedLoader, Stretch, run_loop
from models import get_model
from optimizer.training import EmpiricalRisk, GradientSteps, Recipe
from unlearning.arguments import MethodArgs
from unlearning.run import UnlearningRun

NUM_CLASSES = 100
SCHEDULE_STEPS = 100_000  # so many that no schedule ends
MEASURED = 1000  # images of each part that unlearning has at least
EVALUATION_BATCHES, LOADER_BATCHES = 4, 40  # for each of --steps, since fast work needs more to be timed well


def images_from(data_dir: str) -> Dataset:
    """CIFAR-100, or random images of its shape where the folder does not hold it."""
    if (Path(data_dir) / "cifar-100-python").exists():
        return load_dataset("cifar100", data_dir)
    pixels = torch.randint(256, (60_000, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, names = torch.arange(60_000) % NUM_CLASSES, tuple(map(str, range(NUM_CLASSES)))
    # Uniform values: mean 1/2, variance 1/12.
    return Dataset("random images", pixels.permute(0, 3, 1, 2), labels, names, 50_000, (0.5,) * 3, (12**-0.5,) * 3)


@dataclasses.dataclass
class Ours:
    """One job our way; a call times a stretch and gives images/s."""

    run: Callable[[int], int]  # takes an amount and returns the number of images
    amount: int  # of a stretch
    device: torch.device
    warm_up: int = 1  # amount before a stretch that is not timed; FLOPs are counted on it

    def __call__(self) -> float:
        return rate_of(self.run, self.amount, self.device, self.warm_up)

    def flops_per_image(self) -> float:
        """Floating-point operations for each image that is counted."""
        images, flops = flops_of(partial(self.run, self.warm_up))
        return flops / images


Pair = tuple[Ours, plain.Plain]


@dataclasses.dataclass
class Bench:
    """Images and settings of one round of jobs; the precision is that of our way."""

    sets: ImageSets
    precision: Precision
    batch_size: int  # of each stream
    steps: int  # gradient steps in a stretch

    def resized(self, batch_size: int) -> "Bench":
        """The same with another batch size, and as many images in a stretch."""
        steps = max(1, round(self.steps * self.batch_size / batch_size))
        return dataclasses.replace(self, batch_size=batch_size, steps=steps)

    def model(self) -> nn.Module:
        """Our network; the same first weights each time."""
        seed_everything(0)
        return get_model("resnet18", NUM_CLASSES).to(self.precision.device, memory_format=torch.channels_last)

    def loader(self, part: str, augment: bool = True, batches: int | None = None) -> TensorLoader:
        """Our loader for training on a part of the splits, or on so many batches of it, each of them whole."""
        indices = getattr(self.sets.splits, part)
        count = min(len(indices) // self.batch_size, batches or len(indices))
        return self.sets.training(indices[: count * self.batch_size], self.batch_size, augment=augment)

    def plain(self, step: plain.Step, *loaders: TensorLoader, factor: int = 1) -> plain.Plain:
        """A step the plain way, on the images of our loaders."""
        return plain.Plain(step, loaders, self.batch_size, factor * self.steps)

    def our_steps(self, step: Callable[[dict], dict], batches: Iterable[dict]) -> Ours:
        """Steps of a trainer in the loop that all scripts use."""
        stream = chain.from_iterable(repeat(batches))

        def run(steps: int) -> int:
            config = LoopConfig(1, self.precision.device)
            run_loop(Stretch(stream, steps, step), config)
            return config.cost.images

        return Ours(run, self.steps, self.precision.device)


def training(bench: Bench, use_sam: bool = False) -> Pair:
    """A step of train.py: SGD, or SAM."""
    model, recipe = bench.model(), Recipe(use_sam=use_sam)
    steps = GradientSteps(EmpiricalRisk(model, bench.precision), model, recipe, SCHEDULE_STEPS // recipe.num_epochs)
    ours = bench.our_steps(steps, NamedLoader("train", bench.loader("train")))
    step = plain.training_step(plain.network(bench.model()), rho=0.05 if use_sam else 0.0)
    return ours, bench.plain(step, bench.loader("train"))


def unlearning(bench: Bench, method: str) -> Pair:
    """A step of train_constrained_unlearning.py, in the stage that forgets, on a random forget set."""
    model, names = bench.model(), ("retain", "forget", "unseen", "validation")
    # All of these images are measured before the first step, which is not timed.
    loaders = {name: bench.loader(name, augment=False, batches=-(-MEASURED // bench.batch_size)) for name in names}
    run = UnlearningRun(model, loaders, MethodArgs(), "unseen", method, bench.precision, Unrecorded())
    trainer, losses = run.trainer, run.evaluator.original_losses
    trainer.listener = run
    trainer.target.refresh(losses["unseen"], losses["forget"])
    trainer.set_up_stage(0, SCHEDULE_STEPS // len(trainer.stage_batches[0]))
    run.context.streams.prepare(model)

    model, parts, objective = plain.network(bench.model()), ["forget", "retain"], plain.ascent
    if method == "untrain_contrastive":
        parts, objective = [*parts, "unseen"], plain.against_regression(model)
    streams = (bench.loader(name, augment=False) for name in parts)
    step = plain.constrained_step(model, objective)
    return bench.our_steps(trainer.step, trainer.batches), bench.plain(step, *streams)


def evaluation(bench: Bench) -> Pair:
    """Loss and accuracy of images that are not augmented."""
    model, test = bench.model(), bench.sets.splits.test
    wanted, whole = min(EVALUATION_BATCHES * bench.steps * bench.batch_size, len(test)), bench.sets.evaluation(test)

    def run(images: int) -> int:
        logits, labels = predict(model, bench.sets.evaluation(test[:images]), bench.precision)
        torch.stack([*calculate_accuracy(logits, labels), F.cross_entropy(logits, labels)]).tolist()
        return images

    # Whole batches, as nearly all of a real evaluation are.
    amount = max(wanted // whole.batch_size, 1) * whole.batch_size
    ours = Ours(run, amount, bench.precision.device, whole.batch_size)
    return ours, bench.plain(plain.evaluation_step(plain.network(bench.model())), whole, factor=EVALUATION_BATCHES)


def loading(bench: Bench) -> Pair:
    """The training loader alone, with crop and flip."""
    loader = bench.loader("train")
    batches = chain.from_iterable(repeat(loader))

    def run(count: int) -> int:
        return sum(len(labels) for _, labels in islice(batches, count))

    ours = Ours(run, LOADER_BATCHES * bench.steps, bench.precision.device)
    return ours, bench.plain(lambda batch: (), loader, factor=LOADER_BATCHES)


JOBS: dict[str, Callable[[Bench], Pair]] = {
    "train": training,
    "sam": partial(training, use_sam=True),
    "constrained": partial(unlearning, method="constrained"),
    "contrastive": partial(unlearning, method="untrain_contrastive"),
    "evaluation": evaluation,
    "loader": loading,
}
