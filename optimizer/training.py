"""Fit a classifier by plain or sharpness-aware SGD; the original and the retrained model both come from here."""

import dataclasses
import json
from collections.abc import Callable, Iterable
from typing import Literal

from torch import Tensor, nn
from torch.nn import functional as F

from helper_functions.config import NonNegativeFloat, PositiveFloat, PositiveInt
from helper_functions.files import load_tensors, save_tensors, write_json
from helper_functions.record import RunRecord
from helper_functions.training.devices import Precision, generator_states, restore_generators
from helper_functions.training.distribution import from_main
from helper_functions.training.loop import Cost, LoopConfig, NamedLoader, Trainer, run_loop
from helper_functions.training.passes import Fault
from helper_functions.training.spread import spread
from optimizer.nan_guard import NanGuard
from optimizer.optimizers import OptimizerArgs, build_optimizer
from optimizer.problems import Batch, Objective
from optimizer.schedules import SCHEDULES, get_schedule, rescale_schedule
from optimizer.solver import Descent


@dataclasses.dataclass
class Recipe(OptimizerArgs):
    """How a classifier is trained."""

    num_epochs: PositiveInt = 30
    """Passes over the training set."""
    batch_size: PositiveInt = 128
    """Images in one gradient step."""
    learning_rate: PositiveFloat = 0.1
    """Peak learning rate."""
    weight_decay: NonNegativeFloat = 5e-4
    """Of all weights, or of all but norms and biases: see --decay_norm_and_bias."""
    schedule: Literal[*SCHEDULES] = "one_cycle"
    """Of the learning rate, step by step."""
    warmup_epochs: NonNegativeFloat = 0.0
    """Epochs of linear warm-up before the schedule (one_cycle warms up by itself)."""


class EmpiricalRisk(Objective):
    """Mean cross-entropy on the stream `train`."""

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        self.forward_pass = spread(model, precision.compile_mode)
        self.precision = precision

    def __call__(self, train: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """Loss of one batch; figures are `train/loss` and `train/top1` in percent."""
        inputs, labels = train
        with self.precision.autocast():
            logits = self.forward_pass(inputs)
        loss = F.cross_entropy(logits.float(), labels)
        accuracy = (logits.detach().argmax(1) == labels).float().mean() * 100
        return loss, {"train/loss": loss.detach(), "train/top1": accuracy}


class GradientSteps:
    """Steps on the stream `train` that descend along an objective, with the schedule of their learning rate.

    Args:
        objective: what is minimised.
        model: whose weights move; put into training mode before each step.
        recipe: a `Recipe`, or any arguments with the same fields.
        steps_per_epoch: batches in a pass.
        max_grad_norm: longer gradients are scaled down to it; None leaves them.
    """

    def __init__(
        self, objective: Objective, model: nn.Module, recipe, steps_per_epoch: int, max_grad_norm: float | None = None
    ) -> None:
        self.objective, self.model = objective, model
        self.descent = Descent(build_optimizer(model, recipe), model, max_grad_norm)
        warmup = round(getattr(recipe, "warmup_epochs", 0) * steps_per_epoch)
        total = recipe.num_epochs * steps_per_epoch
        self.schedule = get_schedule(recipe.schedule, self.descent.optimizer, total, warmup)
        self.parts = {"optimizer": self.descent.optimizer, "schedule": self.schedule, "objective": objective}

    def __call__(self, batch: dict) -> dict[str, Tensor]:
        self.model.train()
        loss, figures = self.objective(**batch)
        norm = self.descent.step(loss, lambda: self.objective(**batch)[0])
        self.schedule.step()
        return {**figures, **self.objective.commit(), "gradient/norm": norm}

    def rescale(self, factor: float) -> None:
        """Multiply all learning rates."""
        rescale_schedule(self.schedule, factor)
        self.objective.rescale(factor)

    def figures(self) -> dict[str, float]:
        """What the record shows beside an epoch's means."""
        return {"train/learning_rate": self.schedule.get_last_lr()[0]}

    def state_dict(self) -> dict:
        """What a resumed run needs, the model's weights apart."""
        return {name: part.state_dict() for name, part in self.parts.items()}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        for name, part in self.parts.items():
            part.load_state_dict(state[name])


def fit_classifier(
    model: nn.Module, loader: Iterable, recipe: Recipe, precision: Precision, record: RunRecord, **options
) -> Cost:
    """Train `model` in place on everything in `loader` by mean cross-entropy; options as of `Fit`."""
    steps = GradientSteps(EmpiricalRisk(model, precision), model, recipe, len(loader))
    return Fit(steps, model, loader, recipe.num_epochs, precision, record, **options).run()


class Fit(Trainer):
    """Passes over a loader, with a checkpoint after each epoch, and where a signal stops it.

    Args:
        steps: `GradientSteps`, or what has the same methods.
        model: changed in place.
        loader: of the stream `train`.
        num_epochs: passes.
        precision: device and dtype.
        record: the run's record.
        name: of this training in the record; a checkpoint of the same name is continued.
        checkpoint: what `RunRecord.load_checkpoint` gave, or None.
        evaluate: figures of the model after an epoch, by their names in the record.
        log_interval: steps between two transfers.
        shown: figures beside the progress bar.
        columns: figures in the table of epochs; all of them by default.
        on_nan: `stop`, by default, or `rewind`.
        rate_flag: the learning rate's name on the command line, for errors.
    """

    def __init__(
        self, steps: GradientSteps, model: nn.Module, loader: Iterable, num_epochs: int, precision: Precision,
        record: RunRecord, *, name: str = "training", checkpoint: dict | None = None,
        evaluate: Callable[[nn.Module], dict[str, float]] = lambda model: {}, log_interval: int = 50,
        shown: tuple[str, ...] = ("train/loss", "train/top1"), columns: tuple[str, ...] | None = None,
        on_nan: str | None = None, rate_flag: str = "--learning_rate",
    ) -> None:  # fmt: skip
        self.name, self.batches = name, NamedLoader("train", loader)
        self.steps, self.step, self.model, self.record = steps, steps, model, record
        self.evaluate, self.columns = evaluate, columns
        self.guard = NanGuard(on_nan or "stop", {"model": model, "steps": steps}, steps.rescale, record, rate_flag)
        self.config = LoopConfig(num_epochs, precision.device, log_interval, shown, model=model)
        if checkpoint is not None and checkpoint["name"] == name:
            self._restore(checkpoint)
        if hasattr(loader, "epoch"):
            loader.epoch = self.config.start_epoch
        self.watch = self.config.cost.stopwatch(precision.device)

    def run(self) -> Cost:
        """Train to the end. Raises NotFinite where a figure or a weight is not finite, Stopped after a signal."""
        run_loop(self, self.config)
        return self.config.cost

    def on_pass(self, epoch: int, number: int, resumed: bool) -> None:
        self.guard.keep()

    def on_fault(self, fault: Fault) -> bool:
        return self.guard.on_fault(fault)

    def on_epoch(self, means: dict[str, float], epoch: int) -> bool:
        self.watch.lap()
        cost, figures = self.config.cost, {**means, **self.evaluate(self.model), **self.steps.figures()}
        self.record.scalars({f"{self.name}/{key}": value for key, value in figures.items()}, cost.gradient_steps)
        row = figures if self.columns is None else {key: figures[key] for key in self.columns}
        self.record.print_row(self.name, epoch, self.config.num_epochs, {**row, "seconds": cost.seconds})
        self.watch.skip()
        self.on_stop(None, epoch)
        self.watch.skip()
        return False

    def on_stop(self, place: dict | None, epoch: int) -> None:
        self.watch.lap()
        self.record.save_checkpoint(
            {
                "name": self.name,
                "epoch": epoch,
                "place": place,
                "step": self.config.cost.gradient_steps,
                "model": self.model.state_dict(),
                "cost": dataclasses.asdict(self.config.cost),
                "generators": generator_states(),
                "guard": self.guard.state_dict(),
                "steps": self.steps.state_dict(),
            }
        )

    def _restore(self, checkpoint: dict) -> None:
        self.model.load_state_dict(checkpoint["model"])
        self.steps.load_state_dict(checkpoint["steps"])
        self.guard.load_state_dict(checkpoint["guard"])
        self.config.cost = Cost(**checkpoint["cost"])
        self.config.start_epoch, self.config.place = checkpoint["epoch"], checkpoint["place"]
        restore_generators(checkpoint["generators"])


def fit_once(
    model: nn.Module, loader: Iterable, recipe: Recipe, precision: Precision, record: RunRecord, **options
) -> Cost:
    """`fit_classifier`, or its result where a resumed run had finished it: `name.pt` and `name.json` in the folder."""
    weights, cost_file = record.path(f"{options['name']}.pt"), record.path(f"{options['name']}.json")

    def finished() -> tuple[dict, Cost] | None:
        if not (cost_file.exists() and weights.exists()):
            return None
        return load_tensors(weights, "start a new run"), Cost(**json.loads(cost_file.read_text()))

    if (found := from_main(finished)) is not None:
        model.load_state_dict(found[0])
        return found[1]
    cost = fit_classifier(model, loader, recipe, precision, record, rate_flag="--train_learning_rate", **options)
    save_tensors(model.state_dict(), weights)
    write_json(cost_file, dataclasses.asdict(cost))
    return cost
