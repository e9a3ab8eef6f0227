"""Fit a classifier by plain or sharpness-aware SGD; the original and the retrained model both come from here."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import Tensor, nn

from helper_functions.config import HalfOpenUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt
from helper_functions.files import load_tensors, save_tensors, write_json
from helper_functions.record import RunRecord
from helper_functions.training.devices import Precision
from helper_functions.training.distribution import from_main
from helper_functions.training.generators import generator_states, restore_generators
from helper_functions.training.loop import Cost, NamedLoader, Phase, run_phase
from optimizer.nan_guard import NanGuard
from optimizer.optimizers import OPTIMIZERS, get_optimizer
from optimizer.problems import EmpiricalRisk, Problem
from optimizer.schedules import SCHEDULES, get_schedule, rescale_schedule
from optimizer.solver import Solver


@dataclasses.dataclass
class Recipe:
    """How a classifier is trained."""

    num_epochs: PositiveInt = 30
    """Passes over the training set."""
    batch_size: PositiveInt = 128
    """Images in one gradient step."""
    learning_rate: PositiveFloat = 0.1
    """Peak learning rate."""
    optimizer: Literal[*OPTIMIZERS] = "sgd"
    """Of the weights."""
    momentum: HalfOpenUnitInterval = 0.9
    """Nesterov momentum of SGD."""
    weight_decay: NonNegativeFloat = 5e-4
    """Of all weights, or of all but norms and biases: see --decay_norm_and_bias."""
    decay_norm_and_bias: bool = True
    """Whether norms and biases decay, too."""
    schedule: Literal[*SCHEDULES] = "one_cycle"
    """Of the learning rate, step by step."""
    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs of linear warm-up before the schedule (one_cycle warms up by itself)."""
    use_sam: bool = False
    """Sharpness-aware minimisation (Foret et al. 2021)."""
    adaptive_sam: bool = False
    """With --use_sam: ASAM (Kwon et al. 2021), whose neighbourhood scales with the weights."""
    rho: PositiveFloat = 0.05
    """Radius of SAM's neighbourhood."""


def build_optimizer(model: nn.Module, recipe) -> torch.optim.Optimizer:
    """The optimizer that a recipe, or any arguments with the same fields, asks for."""
    return get_optimizer(
        recipe.optimizer,
        model,
        recipe.learning_rate,
        momentum=recipe.momentum,
        weight_decay=recipe.weight_decay,
        decay_norm_and_bias=recipe.decay_norm_and_bias,
        use_sam=recipe.use_sam,
        adaptive_sam=recipe.adaptive_sam,
        rho=recipe.rho,
    )


class GradientSteps:
    """A solver and the schedule of its learning rate, as steps of the loop on the stream `train`.

    Args:
        problem: what is optimised.
        model: whose weights move; put into training mode before each step.
        recipe: a `Recipe`, or any arguments with the same fields.
        steps_per_epoch: batches in a pass.
        max_grad_norm: longer gradients are scaled down to it; None leaves them.
    """

    def __init__(
        self, problem: Problem, model: nn.Module, recipe, steps_per_epoch: int, max_grad_norm: float | None = None
    ) -> None:
        self.model = model
        self.solver = Solver(problem, build_optimizer(model, recipe), model, max_grad_norm=max_grad_norm)
        warmup = round(getattr(recipe, "warmup_epochs", 0) * steps_per_epoch)
        total = recipe.num_epochs * steps_per_epoch
        self.schedule = get_schedule(recipe.schedule, self.solver.primal, total, warmup_steps=warmup)

    def __call__(self, batch: dict) -> dict[str, Tensor]:
        self.model.train()
        figures = self.solver.step(batch)
        self.schedule.step()
        return figures

    def rescale(self, factor: float) -> None:
        """Multiply all learning rates."""
        rescale_schedule(self.schedule, factor)
        self.solver.cmp.rescale(factor)

    def figures(self) -> dict[str, float]:
        """What the record shows beside an epoch's means."""
        return {"train/learning_rate": self.schedule.get_last_lr()[0]}

    def state_dict(self) -> dict:
        """What a resumed run needs, the model's weights apart."""
        return {"solver": self.solver.full_state(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        self.solver.load_full_state(state["solver"])
        self.schedule.load_state_dict(state["schedule"])


def fit_classifier(
    model: nn.Module, loader: Iterable, recipe: Recipe, precision: Precision, record: RunRecord, **options
) -> Cost:
    """Train `model` in place on everything in `loader` by mean cross-entropy; options as of `fit`."""
    steps = GradientSteps(EmpiricalRisk(model, precision), model, recipe, len(loader))
    return fit(steps, model, loader, recipe.num_epochs, precision, record, **options)


def fit(
    steps,
    model: nn.Module,
    loader: Iterable,
    num_epochs: int,
    precision: Precision,
    record: RunRecord,
    *,
    name: str = "training",
    checkpoint: dict | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] = lambda model: {},
    log_interval: int = 50,
    shown: tuple[str, ...] = ("train/loss", "train/top1"),
    columns: tuple[str, ...] | None = None,
    on_nan: str | None = None,
    rate_flag: str = "--learning_rate",
) -> Cost:
    """Pass over a loader `num_epochs` times, with a checkpoint after each epoch, and where a signal stops it.

    Args:
        steps: `GradientSteps`, or what has the same methods.
        name: of this training in the record; a checkpoint of the same name is gone on with.
        checkpoint: what `RunRecord.load_checkpoint` gave, or None.
        evaluate: figures of the model after an epoch, by their names in the record.
        shown: figures beside the progress bar.
        columns: figures in the table of epochs; all of them by default.
        on_nan: `stop`, by default, or `rewind`.
        rate_flag: the learning rate's name on the command line, for errors.

    Raises:
        NotFinite: a figure, or a weight, is no number any more.
        Stopped: a signal has come.
    """
    cost, start_epoch, place = Cost(), 0, None
    guard = NanGuard(on_nan or "stop", {"model": model, "steps": steps}, steps.rescale, record, rate_flag)
    if checkpoint is not None and checkpoint["name"] == name:
        model.load_state_dict(checkpoint["model"])
        steps.load_state_dict(checkpoint)
        guard.load_state_dict(checkpoint["guard"])
        cost, start_epoch, place = Cost(**checkpoint["cost"]), checkpoint["epoch"], checkpoint["place"]
        restore_generators(checkpoint["generators"])
    if hasattr(loader, "epoch"):
        loader.epoch = start_epoch
    watch = cost.stopwatch(precision.device)

    def save(place: dict | None, epoch: int) -> None:
        watch.lap()
        record.save_checkpoint(
            {
                "name": name,
                "epoch": epoch,
                "place": place,
                "step": cost.gradient_steps,
                "model": model.state_dict(),
                "cost": dataclasses.asdict(cost),
                "generators": generator_states(),
                "guard": guard.state_dict(),
                **steps.state_dict(),
            }
        )

    def on_epoch(means: dict[str, float], epoch: int) -> None:
        watch.lap()
        figures = {**means, **evaluate(model), **steps.figures()}
        record.scalars({f"{name}/{key}": value for key, value in figures.items()}, cost.gradient_steps)
        row = figures if columns is None else {key: figures[key] for key in columns}
        record.print_row(name, epoch, num_epochs, {**row, "seconds": cost.seconds})
        watch.skip()
        save(None, epoch)
        watch.skip()

    run_phase(
        Phase(
            name, num_epochs, NamedLoader("train", loader), steps, on_epoch=on_epoch, on_pass=guard.keep,
            on_fault=guard.hear, on_stop=save, log_interval=log_interval, shown=shown, start_epoch=start_epoch,
            place=place, model=model, device=precision.device, cost=cost,
        )  # fmt: skip
    )
    return cost


def fit_once(
    model: nn.Module, loader: Iterable, recipe: Recipe, precision: Precision, record: RunRecord, **options
) -> Cost:
    """`fit_classifier`, or its result where a resumed run had finished it: `name.pt` and `name.json` in the run folder.

    Returns:
        The cost of the training, as `fit_classifier` does.
    """
    weights, cost_file = record.path(f"{options['name']}.pt"), record.path(f"{options['name']}.json")

    def finished() -> tuple[dict, Cost] | None:
        if not cost_file.exists():
            return None
        return load_tensors(weights, "start a new run"), Cost(**json.loads(cost_file.read_text()))

    if (found := from_main(finished)) is not None:
        model.load_state_dict(found[0])
        return found[1]
    cost = fit_classifier(model, loader, recipe, precision, record, rate_flag="--train_learning_rate", **options)
    save_tensors(model.state_dict(), weights)
    write_json(cost_file, dataclasses.asdict(cost))
    return cost
