"""Faults of a run: signals in the middle of a pass, and figures, gradients or weights that become NaN or infinite."""

import itertools
import math
import signal

import pytest
from torch import nn

from optimizer.solver import Descent
from optimizer.training import Fit
from unlearning.constrained.problem import ForgetSubjectToRetain
from unlearning.constrained.trainer import ConstrainedTrainer
from unlearning.methods.baseline import BaselineTrainer

SHORT = {
    "num_epochs": 2, "momentum": 0.9, "schedule": "cosine", "finetune_num_epochs": 1, "bn": "train",
    "learning_rate": 0.01, "noise_steps": 2,
}  # fmt: skip
TRAINERS = (Fit, BaselineTrainer, ConstrainedTrainer)


def interrupt(monkeypatch, at: int, number: int = signal.SIGTERM) -> None:
    """Send this process a signal during its gradient step of this number."""
    step, numbers = Descent.step, itertools.count(1)

    def interrupted(descent, *losses):
        if next(numbers) == at:
            signal.raise_signal(number)
        return step(descent, *losses)

    monkeypatch.setattr(Descent, "step", interrupted)


def break_steps(kind: str, first: int, last: float | None = None, patch=setattr) -> None:
    """Make the loss, the gradient, the constraint or the weights of this process NaN or infinite.

    Args:
        kind: loss, gradient, constraint or weights.
        first: number of the gradient step, from 1.
        last: of the last such step, `first` by default.
        patch: as `setattr`.
    """
    numbers, last = itertools.count(1), last or first
    for trainer in TRAINERS:
        patch(trainer, "step", _broken(trainer.step, kind, lambda: first <= next(numbers) <= last))


def _broken(step, kind: str, is_due):
    def broken(trainer, batch):
        if not is_due():
            return step(trainer, batch)
        with pytest.MonkeyPatch.context() as patch:
            if kind in BREAK:
                BREAK[kind](patch)
            figures = step(trainer, batch)
        if kind == "weights":
            nn.init.constant_(next(trainer.config.model.parameters()), math.nan)
        losses = kind == "loss"
        return {name: value * math.nan if losses and name.endswith("/loss") else value
                for name, value in figures.items()}  # fmt: skip

    return broken


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
