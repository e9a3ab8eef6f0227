"""Keep a run inside its budget whatever its step size: roll back, shorten the step, weigh the constraint more."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from optimizer.schedules import rescale_schedule
from optimizer.solver import Solver

# Longest step, in multiples of the one asked for.
LONGEST = 64.0
# Epochs that ask for a step size which failed before it is tried again: the multiplier has been raised since.
PATIENCE = 3


class Safeguard:
    """Holds the last good state in memory: the original, then the end of the last epoch that kept the budget.

    - The violation runs away, or is NaN: weights and optimizer roll back, the step is halved, multipliers and penalty
      coefficients are doubled, or quadrupled while the step is no shorter than was asked for (`check`).
    - An epoch ends far outside of the budget: the step is halved; an epoch after it that comes no nearer rolls back
      (`check_far_outside`).
    - An epoch leaves most of the budget unspent and is far from its target: the step is doubled (`lengthen_step`), or
      the multipliers are halved where the retain loss has fallen (`relax_multipliers`).

    So the result depends little on the learning rate that was asked for.

    Args:
        model: whose weights are guarded.
        solver: its multipliers, penalty coefficients and optimizer.
        schedule: of the optimizer's learning rate.
        limit: strict violation, in points, above which a run counts as running away.
    """

    def __init__(self, model: nn.Module, solver: Solver, schedule: LRScheduler, limit: float) -> None:
        self.model, self.solver, self.schedule, self.limit = model, solver, schedule, limit
        # Step size in multiples of the one asked for, the largest that has not failed, and requests above it.
        self.scale, self.ceiling, self.refused = 1.0, LONGEST, 0
        self.relaxed = False
        self.events: list[dict[str, float]] = []
        self._first_multipliers = self._current_multipliers()
        self._unraised: list[float] | None = None  # multipliers before the first raise
        self.keep()
        self.holds_original = True

    def keep(self) -> None:
        """Take the present weights and multipliers as the last good state."""
        self.holds_original, self.nearest = False, math.inf
        self.solver.problem.snapshot()
        self._multipliers = self._current_multipliers()
        self._weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def check(self, violation: float, step: int) -> bool:
        """Act on the mean violation since the last check; True where the run was rolled back."""
        if violation <= self.limit:  # false for NaN
            return False
        self.shorten_step()
        self._roll_back(violation, step)
        return True

    def check_far_outside(self, violation: float, step: int) -> bool:
        """Act on an epoch that ended far outside of the budget; True where the run was rolled back.

        Repairing the damage costs less than forgetting anew; but ever shorter steps alone would leave the weights
        outside.
        """
        if self.nearest == math.inf:
            self.shorten_step()
        if violation < self.nearest:
            self.nearest = violation
            return False
        self._roll_back(violation, step)
        return True

    @property
    def learned_multipliers(self) -> list[float]:
        """The multipliers without what is left of the raises of rolling back.

        A fall since then is taken off the raise first: at the value of before, which counts as 1 where it was less,
        nothing of the raise is left. None once they were relaxed: a forget set that is still whole would run away.
        """
        if self.relaxed:
            return []
        current = [value.item() for value in self._current_multipliers()]
        raised = math.prod(_raise_factor(event["scale"]) for event in self.events)
        before = current if self._unraised is None else self._unraised
        return [max(now / raised, min(now, then)) for now, then in zip(current, before, strict=True)]

    def shorten_step(self) -> None:
        """Halve the step; `PATIENCE` requests are needed before it is as long again."""
        self.ceiling, self.refused = self.scale / 2, 0
        self._rescale(0.5)

    def lengthen_step(self) -> bool:
        """Double the step unless one so long has failed, or until `PATIENCE` epochs have asked; True where doubled.

        Multipliers return to at least their first values: they fell for want of steps, not of a constraint.
        """
        if self.scale * 2 > LONGEST:
            return False
        if self.scale * 2 > self.ceiling:
            self.refused += 1
            if self.refused < PATIENCE:
                return False
            self.ceiling *= 2
        self.refused = 0
        self._rescale(2.0)
        for multiplier, first in zip(self.solver.problem.multipliers(), self._first_multipliers, strict=True):
            multiplier.weight.data.clamp_(min=first)
        return True

    def relax_multipliers(self) -> None:
        """Halve the multipliers, down to 1: below that their own steps are absolute, and 0 is within reach."""
        self.relaxed = True
        for multiplier in self.solver.problem.multipliers():
            weight = multiplier.weight.data
            weight.copy_(torch.minimum(weight, (weight / 2).clamp(min=1)))

    def _roll_back(self, violation: float, step: int) -> None:
        self.nearest = math.inf
        self.model.load_state_dict(self._weights)
        # Momentum points to where the run went wrong.
        optimizer = getattr(self.solver.optimizer, "base_optimizer", self.solver.optimizer)
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):  # Adam's step count as well: its bias correction begins anew
                    value.zero_()
        self._raise_multipliers()
        self.events.append({"step": step, "violation": violation, "scale": self.scale})

    @torch.no_grad()
    def _raise_multipliers(self) -> None:
        problem, factor = self.solver.problem, _raise_factor(self.scale)
        if self._unraised is None:
            self._unraised = [max(1.0, value.item()) for value in self._multipliers]
        # From their values in the last good state: what they climbed to since reflects the runaway.
        for multiplier, value in zip(problem.multipliers(), self._multipliers, strict=True):
            multiplier.weight.copy_(value.clamp(min=1) * factor)
        self._multipliers = self._current_multipliers()
        for coefficient in problem.penalty_coefficients():
            coefficient.value = coefficient.value * factor
        problem.rollback()

    def _current_multipliers(self) -> list[torch.Tensor]:
        return [multiplier.weight.detach().clone() for multiplier in self.solver.problem.multipliers()]

    def _rescale(self, factor: float) -> None:
        self.scale *= factor
        rescale_schedule(self.schedule, factor)

    STATE = (
        "scale", "ceiling", "refused", "events", "holds_original", "nearest", "relaxed", "_weights", "_multipliers",
        "_unraised",
    )  # fmt: skip

    def state_dict(self) -> dict:
        """Scale, events and the last good state."""
        return {name: getattr(self, name) for name in self.STATE}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`; the learning rates come back with the schedule's own state."""
        vars(self).update({name: state[name] for name in self.STATE}, events=list(state["events"]))


def _raise_factor(scale: float) -> int:
    """By how much the constraint weighs more after rolling back to a step of this scale.

    A step that was lengthened has time to make up for: under a weight that holds the constraint it may be lengthened
    again, and under one that hardly does it stays short.
    """
    return 4 if scale >= 1 else 2
