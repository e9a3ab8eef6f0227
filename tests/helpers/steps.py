"""What tests do to gradient steps, whichever trainer takes them: they watch them, interrupt them and break them."""

import functools
import itertools
import math
from collections.abc import Callable

import pytest
from torch import nn

from optimizer.solver import Descent
from optimizer.training import GradientSteps
from unlearning.constrained.problem import ForgetSubjectToRetain
from unlearning.constrained.trainer import ConstrainedTrainer
from unlearning.methods.baseline import BaselineTrainer

Step = Callable[[dict], dict]
SHORT = {
    "num_epochs": 2, "momentum": 0.9, "schedule": "cosine", "finetune_num_epochs": 1, "bn": "train",
    "learning_rate": 0.01, "noise_steps": 2,
}  # fmt: skip


def around_steps(around: Callable[[object, Step, dict], dict], patch: Callable = setattr) -> None:
    """Have `around(trainer, step, batch)` take the place of every gradient step in this process.

    Args:
        around: `step(batch)` takes the step itself.
        patch: as `setattr`, after which the steps stay so; or a MonkeyPatch's, which puts them back.
    """
    for owner, name in ((GradientSteps, "__call__"), (ConstrainedTrainer, "step"), (BaselineTrainer, "step")):
        own = getattr(owner, name)

        def taken(trainer: object, batch: dict, own: Callable = own) -> dict:
            return around(trainer, functools.partial(own, trainer), batch)

        patch(owner, name, taken)


def model_of(trainer: object) -> nn.Module:
    """The model that a trainer moves."""
    return trainer.context.model if hasattr(trainer, "context") else trainer.model


def break_steps(kind: str, first: int, last: float | None = None, patch: Callable = setattr) -> None:
    """Make the loss, the gradient, the constraint or the weights of this process NaN or infinite.

    Args:
        kind: loss, gradient, constraint or weights.
        first: number of the gradient step, from 1.
        last: of the last such step, `first` by default.
        patch: as in `around_steps`.
    """
    numbers, last = itertools.count(1), last or first

    def broken(trainer: object, step: Step, batch: dict) -> dict:
        if not first <= next(numbers) <= last:
            return step(batch)
        with pytest.MonkeyPatch.context() as within:
            if kind in BREAK:
                BREAK[kind](within)
            figures = step(batch)
        if kind == "weights":
            nn.init.constant_(next(model_of(trainer).parameters()), math.nan)
        losses = kind == "loss"
        return {name: value * math.nan if losses and name.endswith("/loss") else value
                for name, value in figures.items()}  # fmt: skip

    around_steps(broken, patch)


def _break_loss(patch) -> None:
    step = Descent.step
    patch.setattr(Descent, "step", lambda descent, loss, again: step(descent, loss * math.nan, again))


def _break_gradient(patch) -> None:
    clip = Descent._clip

    def broken_clip(descent, norm=None):
        next(value for value in descent.model.parameters() if value.grad is not None).grad.fill_(math.inf)
        return clip(descent, norm)

    patch.setattr(Descent, "_clip", broken_clip)
    patch.setattr("optimizer.solver._grad_norm", lambda model: next(model.parameters()).new_tensor(math.inf))


def _break_constraint(patch) -> None:
    compute = ForgetSubjectToRetain.compute_cmp_state

    def computed(problem, **batch):
        state = compute(problem, **batch)
        for constraint in state.observed_constraints.values():
            constraint.violation = constraint.strict_violation = constraint.violation * math.nan
        state.misc["constraint/violation"] = state.misc["constraint/violation"] * math.nan
        return state

    patch.setattr(ForgetSubjectToRetain, "compute_cmp_state", computed)


BREAK = {"loss": _break_loss, "gradient": _break_gradient, "constraint": _break_constraint}
