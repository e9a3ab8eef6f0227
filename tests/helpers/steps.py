"""What tests do to gradient steps, whichever trainer takes them."""

import functools
from collections.abc import Callable

from torch import nn

Step = Callable[[dict], dict]


def around_steps(around: Callable[[object, Step, dict], dict], patch: object = None) -> None:
    """Have `around(trainer, step, batch)` take the place of every gradient step in this process.

    Args:
        around: `step(batch)` takes the step itself.
        patch: a MonkeyPatch that puts the steps back; without it they stay.
    """
    from optimizer.training import GradientSteps
    from unlearning.constrained.trainer import ConstrainedTrainer
    from unlearning.methods.baseline import BaselineTrainer

    for owner, name in ((GradientSteps, "__call__"), (ConstrainedTrainer, "step"), (BaselineTrainer, "step")):
        own = getattr(owner, name)

        def taken(trainer: object, batch: dict, own: Callable = own) -> dict:
            return around(trainer, functools.partial(own, trainer), batch)

        (setattr if patch is None else patch.setattr)(owner, name, taken)


def model_of(trainer: object) -> nn.Module:
    """The model that a trainer moves."""
    return trainer.context.model if hasattr(trainer, "context") else trainer.model
