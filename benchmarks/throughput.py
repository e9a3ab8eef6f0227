"""Images a second of our steps and of the same steps as they are usually written, measured side by side.

    python -m benchmarks.throughput --data_dir data/cifar100 --output throughput.json
    python -m benchmarks.throughput --quick

torchvision's ResNet-18 with its ImageNet stem, 32 x 32 images, 100 classes. Ours and the plain way (see
`benchmarks.plain`) take turns, so that a machine that slows down slows both; a ratio is that of two neighbours.
"""

import dataclasses
import statistics
import sys
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from itertools import chain, islice, repeat
from pathlib import Path

import PIL
import torch
from torch import nn
from torch.nn import functional as F

from benchmarks import plain
from data.augmentation import Augmentation
from data.datasets import Dataset, load_dataset
from data.image_sets import EVALUATION_BATCH, ImageSets
from data.loaders import TensorLoader
from data.splits import make_splits
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
from unlearning.arguments import MethodArgs
from unlearning.case import Case
from unlearning.constrained import ForgetSubjectToRetain
from unlearning.examination import Examination
from unlearning.methods import METHODS
from unlearning.streams import rise_on_original
from unlearning.two_stages import AIMED_SHARE

NUM_CLASSES = 100
SCHEDULE_STEPS = 100_000  # so many that no schedule comes to its end
# Batches for each of --steps: what is fast needs more of them to be timed well.
EVALUATION_BATCHES, LOADER_BATCHES = 4, 40

Measure = Callable[[], float]  # times one stretch, in images/s


@dataclasses.dataclass
class Args:
    """Flags of benchmarks.throughput."""

    data_dir: str = "data/cifar100"
    """Folder of CIFAR-100; where it is absent, the images are random ones of the same shape."""
    batch_size: PositiveInt = 128
    """Images in a batch; the constrained step takes as many forget images and as many retain images."""
    pairs: PositiveInt | None = None
    """Measurements of ours and of the plain way, in turns: 5, or 3 with --quick."""
    steps: PositiveInt | None = None
    """Gradient steps in a measurement: 10, or 2 with --quick; evaluation takes 4, the loader 40 batches for each."""
    quick: bool = False
    """Under a minute on two cores."""
    device: str = "auto"
    """auto takes CUDA, then MPS, then the CPU; or cpu, cuda, cuda:N, mps."""
    output: str | None = None
    """JSON file to write, in a folder that exists; a file that exists is not overwritten."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.throughput", __doc__)


class Bench:
    """What all jobs share: images, splits, device, and how ours is timed."""

    def __init__(self, dataset: Dataset, device: torch.device, batch_size: int, steps: int) -> None:
        self.device, self.batch_size, self.steps = device, batch_size, steps
        self.precision = choose_precision(device)
        self.splits = make_splits(dataset, "random:0.1")
        self.sets = ImageSets(dataset, self.splits, Augmentation(), device, seed=0)
        if batch_size > (most := len(self.splits.forget)):
            raise UserError(f"--batch_size {batch_size}: the forget set has {most} images; give at most as many")

    def model(self, memory_format: torch.memory_format = torch.channels_last) -> nn.Module:
        """The same first weights each time."""
        seed_everything(0)
        return get_model("resnet18", NUM_CLASSES, stem="imagenet").to(self.device, memory_format=memory_format)

    def loader(self, part: str, augment: bool = True) -> TensorLoader:
        """Ours for training on a part, less the images that would make a short last batch."""
        indices = getattr(self.splits, part)
        whole = len(indices) // self.batch_size * self.batch_size
        return self.sets.training(indices[:whole], self.batch_size, augment=augment)

    def plain(self, step: Callable, *loaders: TensorLoader, factor: int = 1) -> Measure:
        """A step the plain way, on the images of our loaders."""
        return plain.Plain(step, loaders, self.batch_size, factor * self.steps)

    def ours(self, run: Callable[[int], int], amount: int, warm_up: int = 1) -> Measure:
        """Ours: `run` takes an amount and gives the number of images."""
        return partial(plain.images_per_second, run, amount, self.device, warm_up)

    def our_steps(self, solver: Solver, schedule: str, batches: Iterable[dict], prepare: Callable) -> Measure:
        """Time steps of a solver in the loop that all scripts use; `prepare` sets the model's mode before each."""
        scheduler, stream = get_schedule(schedule, solver.primal, SCHEDULE_STEPS), iter(batches)

        def step(batch: dict) -> dict:
            prepare()
            figures = solver.step(batch)
            scheduler.step()
            return figures

        def run(steps: int) -> int:
            cost = Cost()
            run_phase(Phase("benchmark", 1, Taken(stream, steps), step, device=self.device, cost=cost))
            return cost.images

        return self.ours(run, self.steps)


class Taken:
    """The next few batches of an endless stream, as the sized iterable that the loop wants."""

    def __init__(self, stream: Iterator, steps: int) -> None:
        self.stream, self.steps = stream, steps

    def __len__(self) -> int:
        return self.steps

    def __iter__(self) -> Iterator:
        return islice(self.stream, self.steps)


def forever(loader: Iterable) -> Iterator:
    """Pass after pass."""
    return chain.from_iterable(repeat(loader))


def training(bench: Bench, use_sam: bool = False) -> tuple[Measure, Measure]:
    """A step of train.py."""
    model, recipe, loader = bench.model(), Recipe(use_sam=use_sam), bench.loader("train")
    solver = Solver(EmpiricalRisk(model, bench.precision), build_optimizer(model, recipe), model)
    batches = ({"train": batch} for batch in forever(loader))
    step = (plain.sam_step if use_sam else plain.training_step)(bench.model(torch.contiguous_format))
    return bench.our_steps(solver, recipe.schedule, batches, model.train), bench.plain(step, loader)


def unlearning(bench: Bench, method: str) -> Measure:
    """A step of train_constrained_unlearning.py, with its defaults, on a random forget set."""
    model, args, precision = bench.model(), MethodArgs(), bench.precision
    # As much of each part as a method needs to begin with; what it examines later is no step.
    parts = ("retain", "forget", "unseen", "validation")
    views = {name: bench.sets.evaluation(getattr(bench.splits, name)[:1000]) for name in parts}
    examination = Examination(model, views, precision, 0, rise_on_original)
    loaders = views | {name: bench.loader(name, augment=False) for name in ("forget", "retain")}
    case = Case("unseen", model, loaders, examination, args, precision, 0)
    procedure = METHODS[method].procedure(case)
    procedure.target.refresh(examination.losses(model, "unseen"))
    problem = ForgetSubjectToRetain(
        case.streams, procedure.frozen, rise_on_original, procedure.target, AIMED_SHARE * args.retain_budget,
        args.solver, args.multiplier, args.penalty_coefficient,
    )  # fmt: skip
    solver = Solver(problem, build_optimizer(model, args), model, args.dual_learning_rate, args.max_grad_norm)
    case.streams.prepare(model)
    return bench.our_steps(solver, args.schedule, forever(procedure.loader), lambda: None)


def constrained(bench: Bench) -> tuple[Measure, Measure]:
    """A step of the method constrained."""
    step = plain.constrained_step(bench.model(torch.contiguous_format))
    forget, retain = bench.loader("forget", augment=False), bench.loader("retain", augment=False)
    return unlearning(bench, "constrained"), bench.plain(step, forget, retain)


def contrastive(bench: Bench) -> tuple[Measure, Measure]:
    """A step of the method untrain_contrastive."""
    model = bench.model(torch.contiguous_format)
    step = plain.constrained_step(model, plain.AgainstRegression(model))
    loaders = (bench.loader(name, augment=False) for name in ("forget", "retain", "unseen"))
    return unlearning(bench, "untrain_contrastive"), bench.plain(step, *loaders)


def against_constrained(bench: Bench) -> tuple[Measure, Measure]:
    """What the discriminator adds: a step of untrain_contrastive beside one of constrained, both ours."""
    return unlearning(bench, "untrain_contrastive"), unlearning(bench, "constrained")


def evaluation(bench: Bench) -> tuple[Measure, Measure]:
    """Loss and accuracy of images that are not augmented."""
    model, test = bench.model(), bench.splits.test
    wanted = min(EVALUATION_BATCHES * bench.steps * bench.batch_size, len(test))

    def run(images: int) -> int:
        logits, labels = predict(model, bench.sets.evaluation(test[:images]), bench.precision)
        torch.stack([*calculate_accuracy(logits, labels), F.cross_entropy(logits, labels)]).tolist()
        return images

    step = plain.evaluation_step(bench.model(torch.contiguous_format))
    # Whole batches, as nearly all of a real evaluation are.
    ours = bench.ours(run, max(wanted // EVALUATION_BATCH, 1) * EVALUATION_BATCH, warm_up=EVALUATION_BATCH)
    return ours, bench.plain(step, bench.sets.evaluation(test), factor=EVALUATION_BATCHES)


def loading(bench: Bench) -> tuple[Measure, Measure]:
    """The training loader alone, with crop and flip."""
    loader = bench.loader("train")
    batches = forever(loader)
    ours = bench.ours(lambda n: sum(len(labels) for _, labels in islice(batches, n)), LOADER_BATCHES * bench.steps)
    return ours, bench.plain(plain.loading_step, loader, factor=LOADER_BATCHES)


sam = partial(training, use_sam=True)
# Each gives ours and the plain way.
JOBS = {
    "train": training, "sam": sam, "constrained": constrained, "contrastive": contrastive, "evaluation": evaluation,
    "loader": loading,
}  # fmt: skip


def images_from(data_dir: str) -> Dataset:
    """CIFAR-100, or random images of its shape where the folder does not hold it."""
    if (Path(data_dir) / "cifar-100-python").exists():
        return load_dataset("cifar100", data_dir, download=False)
    pixels = torch.randint(256, (60_000, 32, 32, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    labels, names = torch.arange(60_000) % NUM_CLASSES, tuple(map(str, range(NUM_CLASSES)))
    # Uniform values: mean 1/2, variance 1/12.
    return Dataset("random images", pixels.permute(0, 3, 1, 2), labels, names, 50_000, (0.5,) * 3, (12**-0.5,) * 3)


def measure(name: str, job: Callable[[Bench], tuple[Measure, Measure]], bench: Bench, pairs: int) -> dict:
    """Time one job both ways in turns; prints medians and ranges, gives the medians."""
    ours, other = job(bench)
    rates = [(ours(), other()) for _ in range(pairs)]
    columns = {"ours": [a for a, _ in rates], "plain": [b for _, b in rates], "ratio": [a / b for a, b in rates]}
    row, medians = f"{name:<12}", {key: statistics.median(values) for key, values in columns.items()}
    for key, values in columns.items():
        form = ".2f" if key == "ratio" else ",.0f"
        row += f"{f'{medians[key]:{form}} [{min(values):{form}}-{max(values):{form}}]':>25}"
    print(row, flush=True)
    return {"name": name, **medians}


def main(args: Args) -> dict:
    """Measure every job; returns what the JSON file holds."""
    if args.output is not None and Path(args.output).exists():
        raise UserError(f"--output {args.output}: it exists and is not overwritten; name a new file")
    if args.output is not None and not Path(args.output).parent.is_dir():
        raise UserError(f"--output {args.output}: there is no such folder; make it first")
    device = choose_device(args.device)
    pairs, steps = args.pairs or (3 if args.quick else 5), args.steps or (2 if args.quick else 10)
    dataset = images_from(args.data_dir)
    bench = Bench(dataset, device, args.batch_size, steps)
    environment = {**describe_environment(device), "pillow": PIL.__version__, "our_dtype": str(bench.precision.dtype)}
    hardware = {key: environment.pop(key) for key in ("device", "cpu", "cpu_threads", "our_dtype", "platform")}

    print(f"images/s of {dataset.name}, batches of {args.batch_size}, median [range] of {pairs} pairs of {steps} steps")
    print(f"{'':<12}{'ours':>25}{'plain':>25}{'ratio':>25}")
    result = {"pairs": [measure(name, job, bench, pairs) for name, job in JOBS.items()]}
    print(f"{'methods':<12}{'contrastive':>25}{'constrained':>25}{'ratio':>25}")
    beside = measure("both ours", against_constrained, bench, pairs)
    result["methods"] = {"contrastive": beside["ours"], "constrained": beside["plain"], "ratio": beside["ratio"]}
    result |= {"hardware": hardware, "versions": environment}
    print(f"hardware    {', '.join(f'{key} {value}' for key, value in hardware.items())}")
    print(f"versions    {', '.join(f'{key} {value}' for key, value in environment.items())}")
    if args.output is not None:
        write_json(args.output, result)
    return result


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
