"""Keep a run inside its budget whatever its step size: go back, step shorter, weigh the constraint more."""

import math

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler

from optimizer.schedules import rescale_schedule
from optimizer.solver import Solver

# Times as long as it was asked for.
LONGEST = 64.0
# Epochs that ask for a step which proved too long before it is tried again: the multiplier that it ran away with has
# been raised since.
PATIENCE = 3


class Safeguard:
    """Watches the smoothed violation between epochs' ends and holds the last good state in memory: the original, then
    the end of the last epoch that kept the budget when it was measured.

    When the violation runs away, or is no longer a number, the weights and the optimizer go back to the last good
    state, the primal step is halved and the multiplier (or penalty coefficient) is doubled, or quadrupled while the
    step is no shorter than was asked for. An epoch that ends far outside of the budget halves the step, too, and one
    after it that comes no nearer goes back. One that leaves most of the budget unspent, is far from its target and has
    not lowered the retain loss either doubles it; to a step that proved too long only when `PATIENCE` epochs since have
    asked for it. One that leaves most of the budget unspent and has lowered the retain loss halves the multipliers,
    where the target wants images to the last. So the outcome depends little on the learning rate that was asked for.

    Args:
        model: whose weights are guarded.
        solver: its multipliers, penalty coefficients and optimizer.
        schedule: of the primal learning rate.
        limit: strict violation, in points, from which on a run counts as running away.
    """

    def __init__(self, model: nn.Module, solver: Solver, schedule: LRScheduler, limit: float) -> None:
        self.model = model
        self.solver = solver
        self.schedule = schedule
        self.limit = limit
        self.scale = 1.0
        self.ceiling = LONGEST
        self.refused = 0
        self.relaxed = False
        self.events: list[dict[str, float]] = []
        self._first_multipliers = self._current_multipliers()
        self._unraised: list[float] | None = None
        self.keep()
        self.holds_original = True

    def keep(self) -> None:
        """Take the present weights and multipliers for good."""
        self.holds_original, self.nearest = False, math.inf
        self.solver.problem.snapshot()
        self._multipliers = self._current_multipliers()
        self._weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}

    def check(self, violation: float, step: int) -> bool:
        """Act on the mean smoothed violation since the last look; True where the run went back."""
        if violation <= self.limit:  # a NaN is not
            return False
        self.shorten_step()
        self._go_back(violation, step)
        return True

    def check_far_outside(self, violation: float, step: int) -> bool:
        """Act on an epoch that ended far outside of the budget: halve the step at the first, go back where one after it
        has come no nearer.

        Repairing what forgetting broke costs less than forgetting anew, but shorter and shorter steps alone would leave
        the weights where they are. True where the run went back.
        """
        if self.nearest == math.inf:
            self.shorten_step()
        if violation < self.nearest:
            self.nearest = violation
            return False
        self._go_back(violation, step)
        return True

    @property
    def learned_multipliers(self) -> list[float]:
        """The multipliers as the budget taught them: less what is left of the raises of going back.

        What one has fallen by since is taken off the raise first: at its value of before, which counts as 1 where it
        was less, nothing of it is left.
        """
        current = [value.item() for value in self._current_multipliers()]
        raised = math.prod(_raise(event["scale"]) for event in self.events)
        before = current if self._unraised is None else self._unraised
        return [max(now / raised, min(now, then)) for now, then in zip(current, before, strict=True)]

    def _go_back(self, violation: float, step: int) -> None:
        self.nearest = math.inf
        self.model.load_state_dict(self._weights)
        # Momentum points to where the run went wrong.
        primal = getattr(self.solver.optimizer, "base_optimizer", self.solver.optimizer)
        for state in primal.state.values():
            for value in state.values():
                if isinstance(value, torch.Tensor):  # Adam's step count, too: its bias correction begins anew
                    value.zero_()
        self._weigh_more()
        self.events.append({"step": step, "violation": violation, "scale": self.scale})

    def shorten_step(self) -> None:
        """Halve the primal step; `lengthen_step` has to be patient before it is as long again."""
        self.ceiling, self.refused = self.scale / 2, 0
        self._rescale(0.5)

    def lengthen_step(self) -> bool:
        """Double the primal step where none so long has run away yet, or not lately; True where it was doubled.

        Multipliers come back to their first values: they fell for want of steps, not for want of a constraint.
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
        """Halve the multipliers, down to 1: below that their own steps are plain ones, and 0 is within reach."""
        self.relaxed = True
        for multiplier in self.solver.problem.multipliers():
            weight = multiplier.weight.data
            weight.copy_(torch.minimum(weight, (weight / 2).clamp(min=1)))

    def _current_multipliers(self) -> list[torch.Tensor]:
        return [multiplier.weight.detach().clone() for multiplier in self.solver.problem.multipliers()]

    def _rescale(self, factor: float) -> None:
        self.scale *= factor
        rescale_schedule(self.schedule, factor)

    @torch.no_grad()
    def _weigh_more(self) -> None:
        problem = self.solver.problem
        factor = _raise(self.scale)
        if self._unraised is None:
            self._unraised = [max(1.0, value.item()) for value in self._multipliers]
        # Of what it was when all was well: what it climbed to since is the runaway's echo.
        for multiplier, value in zip(problem.multipliers(), self._multipliers, strict=True):
            multiplier.weight.copy_(value.clamp(min=1) * factor)
        self._multipliers = self._current_multipliers()
        for coefficient in problem.penalty_coefficients():
            coefficient.value = coefficient.value * factor
        problem.rollback()

    def state_dict(self) -> dict:
        """Scale, events and the last good state."""
        return {
            "scale": self.scale,
            "ceiling": self.ceiling,
            "refused": self.refused,
            "events": self.events,
            "holds_original": self.holds_original,
            "nearest": self.nearest,
            "eased": self.relaxed,
            "weights": self._weights,
            "multipliers": self._multipliers,
            "unraised": self._unraised,
        }

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`; the learning rates come back with the schedule's own state."""
        self.scale, self.ceiling, self.refused = state["scale"], state["ceiling"], state["refused"]
        self.events, self._weights = list(state["events"]), state["weights"]
        self._multipliers = state["multipliers"]
        self.holds_original = state["holds_original"]
        # Checkpoints of before runs were let repair, multipliers eased, or the raise was noted, lack these.
        self.nearest, self.relaxed = state.get("nearest", math.inf), state.get("eased", False)
        self._unraised = state.get("unraised", [0.0] * len(self._multipliers) if self.events else None)


def _raise(scale: float) -> int:
    """How many times as much the constraint weighs after going back to a step of this scale.

    A step that was lengthened has time to make up for: under a weight that holds the constraint it may be lengthened
    again, and under one that hardly does it stays short.
    """
    return 4 if scale >= 1 else 2
