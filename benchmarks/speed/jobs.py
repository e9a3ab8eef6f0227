"""The jobs of `benchmarks.speed.throughput`, each ours and the plain way."""

from collections.abc import Callable
from functools import partial
from itertools import islice
from types import SimpleNamespace

import torch
from torch.nn import functional as F

from benchmarks.speed import plain
from benchmarks.speed.bench import SCHEDULE_STEPS, Bench, Measure, Ours, forever
from helper_functions.metrics import calculate_accuracy
from helper_functions.training.inference import predict
from optimizer.training import EmpiricalRisk, GradientSteps, Recipe
from unlearning.arguments import MethodArgs
from unlearning.context import MethodContext
from unlearning.evaluator import Evaluator
from unlearning.methods import METHODS
from unlearning.streams import original_divergence

# Batches for each of --steps: what is fast needs more of them to be timed well.
EVALUATION_BATCHES, LOADER_BATCHES = 4, 40

Pair = tuple[Ours, Measure]


def our_training(bench: Bench, use_sam: bool = False) -> Ours:
    """A step of train.py."""
    model, recipe = bench.model(), Recipe(use_sam=use_sam)
    steps = GradientSteps(EmpiricalRisk(model, bench.precision), model, recipe, SCHEDULE_STEPS // recipe.num_epochs)
    return bench.our_steps(steps, ({"train": batch} for batch in forever(bench.loader("train"))))


def our_unlearning(bench: Bench, method: str) -> Ours:
    """A step of train_constrained_unlearning.py, with its defaults, on a random forget set."""
    model, args, precision = bench.model(), MethodArgs(), bench.precision
    # As much of each part as a method needs to begin with; what it examines later is no step.
    parts = ("retain", "forget", "unseen", "validation")
    views = {name: bench.sets.evaluation(bench.indices(name)[:1000]) for name in parts}
    evaluator = Evaluator(model, views, precision, 0, original_divergence)
    loaders = views | {name: bench.loader(name, augment=False) for name in ("forget", "retain")}
    context = MethodContext("unseen", model, loaders, evaluator, args, precision, 0)
    trainer = METHODS[method].trainer(context)
    trainer.target.refresh(evaluator.losses(model, "unseen"))
    trainer.listener = SimpleNamespace(record=SimpleNamespace(scalars=lambda figures, step: None), on_nan="rewind")
    trainer.set_up_stage(0, SCHEDULE_STEPS // len(trainer.batches))
    context.streams.prepare(model)
    return bench.our_steps(trainer.step, forever(trainer.batches))


def training(bench: Bench, use_sam: bool = False) -> Pair:
    """A step of SGD, or of SAM."""
    step = (plain.sam_step if use_sam else plain.training_step)(bench.plain_model())
    return our_training(bench, use_sam), bench.plain(step, bench.loader("train"))


def constrained(bench: Bench) -> Pair:
    """A step of the method constrained."""
    loaders = (bench.loader(name, augment=False) for name in ("forget", "retain"))
    return our_unlearning(bench, "constrained"), bench.plain(plain.constrained_step(bench.plain_model()), *loaders)


def contrastive(bench: Bench) -> Pair:
    """A step of the method untrain_contrastive."""
    model = bench.plain_model()
    step = plain.constrained_step(model, plain.AgainstRegression(model))
    loaders = (bench.loader(name, augment=False) for name in ("forget", "retain", "unseen"))
    return our_unlearning(bench, "untrain_contrastive"), bench.plain(step, *loaders)


def evaluation(bench: Bench) -> Pair:
    """Loss and accuracy of images that are not augmented."""
    model, test = bench.model(), bench.indices("test")
    wanted, whole = min(EVALUATION_BATCHES * bench.steps * bench.batch_size, len(test)), bench.sets.evaluation(test)

    def run(images: int) -> int:
        batches = map(bench.formatted, bench.sets.evaluation(test[:images]))
        logits, labels = predict(model, batches, bench.precision)
        torch.stack([*calculate_accuracy(logits, labels), F.cross_entropy(logits, labels)]).tolist()
        return images

    # Whole batches, as nearly all of a real evaluation are.
    ours = bench.ours(run, max(wanted // whole.batch_size, 1) * whole.batch_size, warm_up=whole.batch_size)
    step = plain.evaluation_step(bench.plain_model())
    return ours, bench.plain(step, whole, factor=EVALUATION_BATCHES)


def loading(bench: Bench) -> Pair:
    """The training loader alone, with crop and flip."""
    loader = bench.loader("train")
    batches = map(bench.formatted, forever(loader))
    ours = bench.ours(lambda n: sum(len(labels) for _, labels in islice(batches, n)), LOADER_BATCHES * bench.steps)
    return ours, bench.plain(plain.loading_step, loader, factor=LOADER_BATCHES)


JOBS: dict[str, Callable[[Bench], Pair]] = {
    "train": training,
    "sam": partial(training, use_sam=True),
    "constrained": constrained,
    "contrastive": contrastive,
    "evaluation": evaluation,
    "loader": loading,
}
