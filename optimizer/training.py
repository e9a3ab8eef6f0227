"""Fit a classifier by plain or sharpness-aware SGD; the original and the retrained model both come from here."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import Literal

import torch
from torch import nn

from helper_functions.config import HalfOpenUnitInterval, NonNegativeFloat, PositiveFloat, PositiveInt
from helper_functions.devices import Precision
from helper_functions.errors import UserError
from helper_functions.files import load_tensors, save_tensors, write_json
from helper_functions.loop import Cost, Phase, run_phase
from helper_functions.record import RunRecord
from optimizer.optimizers import OPTIMIZERS, get_optimizer
from optimizer.problems import EmpiricalRisk
from optimizer.schedules import SCHEDULES, get_schedule
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


def fit_classifier(
    model: nn.Module,
    loader: Iterable,
    recipe: Recipe,
    precision: Precision,
    record: RunRecord,
    *,
    name: str = "training",
    checkpoint: dict | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] = lambda model: {},
    log_interval: int = 50,
) -> Cost:
    """Train `model` in place on everything in `loader`, with a checkpoint after each epoch.

    Args:
        name: of this training in the record; a checkpoint of the same name is gone on with.
        checkpoint: what `RunRecord.load_checkpoint` gave, or None.
        evaluate: figures of the model after an epoch, by their names in the record.

    Raises:
        UserError: the loss is no longer finite.
    """
    solver = Solver(EmpiricalRisk(model, precision), build_optimizer(model, recipe), model)
    steps = len(loader)
    schedule = get_schedule(
        recipe.schedule, solver.primal, recipe.num_epochs * steps, warmup_steps=round(recipe.warmup_epochs * steps)
    )
    cost, start_epoch = Cost(), 0
    if checkpoint is not None and checkpoint["name"] == name:
        model.load_state_dict(checkpoint["model"])
        solver.load_full_state(checkpoint["solver"])
        schedule.load_state_dict(checkpoint["schedule"])
        cost, start_epoch = Cost(**checkpoint["cost"]), checkpoint["epoch"]
        torch.set_rng_state(checkpoint["rng"])
    if hasattr(loader, "epoch"):
        loader.epoch = start_epoch
    watch = cost.stopwatch()

    def step(batch: dict) -> dict:
        model.train()
        figures = solver.step(batch)
        schedule.step()
        return figures

    def on_epoch(means: dict[str, float], epoch: int) -> None:
        if means["train/loss"] != means["train/loss"]:
            raise UserError(f"{name}: the loss is no number after epoch {epoch}; lower --learning_rate")
        watch.lap(precision.device)
        figures = {**means, **evaluate(model), "train/learning_rate": schedule.get_last_lr()[0]}
        record.scalars({f"{name}/{key}": value for key, value in figures.items()}, cost.gradient_steps)
        record.print_row(name, epoch, recipe.num_epochs, {**figures, "seconds": cost.seconds})
        record.save_checkpoint(
            {
                "name": name,
                "epoch": epoch,
                "step": cost.gradient_steps,
                "model": model.state_dict(),
                "solver": solver.full_state(),
                "schedule": schedule.state_dict(),
                "cost": dataclasses.asdict(cost),
                "rng": torch.get_rng_state(),
            }
        )
        watch.skip()

    run_phase(
        Phase(
            name,
            recipe.num_epochs,
            _Single(loader),
            step,
            on_epoch=on_epoch,
            log_interval=log_interval,
            shown=("train/loss", "train/top1"),
            start_epoch=start_epoch,
            device=precision.device,
            cost=cost,
        )
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
    if cost_file.exists():
        model.load_state_dict(load_tensors(weights, "start a new run"))
        return Cost(**json.loads(cost_file.read_text()))
    cost = fit_classifier(model, loader, recipe, precision, record, **options)
    save_tensors(model.state_dict(), weights)
    write_json(cost_file, dataclasses.asdict(cost))
    return cost


class _Single:
    """A loader as the loop's stream `train`."""

    def __init__(self, loader: Iterable) -> None:
        self.loader = loader

    def __len__(self) -> int:
        return len(self.loader)

    def __iter__(self):
        for batch in self.loader:
            yield {"train": tuple(batch)}
