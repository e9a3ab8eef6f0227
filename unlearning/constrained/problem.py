"""Constrained unlearning: forget subject to the retain budget, then fine-tune subject to staying forgotten.

Stage 1: min −L_f(θ) (bounded: see `unlearning.constrained.targets`) subject to the fall of retain accuracy ≤ budget.
Stage 2: min L_r(θ) subject to the forget data's distance from its target ≤ tolerance.
"""

import math
from collections.abc import Callable

import cooper
import torch
from torch import Tensor
from torch.nn import functional as F

from optimizer.problems import Batch, Problem
from optimizer.solver import SolverName, dual_figures, inequality
from unlearning.constrained.targets import Target
from unlearning.streams import Original, TwoStreams

# Images over which the fall of accuracy is smoothed: its standard error is then about half a point.
SMOOTHING_IMAGES = 1000


class OnTarget(Problem):
    """A problem on both streams, with a forget target that may learn along.

    Args:
        streams: the model's forward passes.
        target: from `unlearning.constrained.targets` or `unlearning.constrained.discriminator_target`.
    """

    def __init__(self, streams: TwoStreams, target: Target) -> None:
        super().__init__()
        self.streams = streams
        self.target = target
        self.kept = target.state_dict()

    def keep_history(self) -> None:
        """Keep the target's state beside the weights that are kept."""
        self.kept = self.target.state_dict()

    def forget_history(self) -> None:
        """Back to the target's state that was kept: it learned from weights that the run has gone back from."""
        self.target.load_state_dict(self.kept)

    def commit(self, state: cooper.CMPState) -> None:
        """Let the target learn from the batch."""
        state.misc |= self.target.commit()

    def state_dict(self) -> dict:
        """Multiplier, penalty coefficient and the target's state."""
        return {**super().state_dict(), "target": self.target.state_dict(), "kept": self.kept}

    def load_state_dict(self, state_dict: dict) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict({key: state_dict[key] for key in ("multipliers", "penalty_coefficients")})
        self.target.load_state_dict(state_dict["target"])
        self.kept = state_dict["kept"]


class ForgetSubjectToRetain(OnTarget):
    """Stage 1: the target's objective on forget data, with the retain budget as its constraint.

    The strict violation, which moves the multiplier, is the smoothed fall of retain accuracy minus `aim`, in points.
    The violation that is differentiated is the retain loss minus ε, ε the original's retain loss on the same inputs
    plus `margin` (proxy constraints: Cotter et al. 2019).

    Args:
        streams: the model's forward passes.
        original: its answers on a retain batch.
        rise: one of `RETAIN_LOSSES`, the retain loss less the original's.
        target: from `unlearning.constrained.targets` or `unlearning.constrained.discriminator_target`.
        aim: accuracy points that may be lost while training; below the budget, to leave room for its noise.
        solver: the constraint's formulation.
        multiplier: first value of the multiplier.
        penalty_coefficient: first value of the penalty coefficient; None takes the solver's own.
    """

    def __init__(
        self,
        streams: TwoStreams,
        original: Original,
        rise: Callable[[Tensor, Tensor, Tensor], Tensor],
        target: Target,
        aim: float,
        solver: SolverName,
        multiplier: float,
        penalty_coefficient: float | None,
    ) -> None:
        super().__init__(streams, target)
        device = streams.precision.device
        self.original = original
        self.rise = rise
        self.aim = aim
        self.margin = torch.zeros((), device=device)
        self.smoothed = torch.zeros(2, device=device)  # fall in points, and the weight that it has gathered
        self.budget = inequality(solver, multiplier, penalty_coefficient, device)

    def compute_cmp_state(self, forget: Batch, retain: Batch) -> cooper.CMPState:
        """Objective and constraint on one batch of each stream."""
        forget_logits, retain_logits = self.streams(forget[0], retain[0])
        objective, reached = self.target.objective(forget_logits, forget[1])
        original_logits = self.original(retain[0])
        fall = 100 * (_right(original_logits, retain[1]) - _right(retain_logits, retain[1]))
        smoothed = self._smooth(fall, len(retain[1]))
        fall = smoothed[0] / smoothed[1]
        violation = self.rise(original_logits, retain_logits, retain[1]) - self.margin
        state = cooper.ConstraintState(
            violation=violation,
            strict_violation=fall - self.aim,
            contributes_to_dual_update=self.budget.multiplier is not None,
        )
        misc = {
            "forget/objective": objective.detach(),
            "forget/batch_loss": F.cross_entropy(forget_logits.detach(), forget[1]),
            "forget/reached": reached,
            "retain/batch_loss": F.cross_entropy(retain_logits.detach(), retain[1]),
            "constraint/violation": fall - self.aim,
            "constraint/surrogate": violation.detach(),
            **dual_figures(self.budget),
        }
        return cooper.CMPState(
            loss=objective, observed_constraints={self.budget: state}, misc={**misc, "smoothed": smoothed}
        )

    def commit(self, state: cooper.CMPState) -> None:
        """Take over the smoothed fall of accuracy, and let the target learn."""
        self.smoothed = state.misc.pop("smoothed")
        super().commit(state)

    def refit_margin(self, fall: float, measured: float) -> None:
        """Move the margin towards the rise of retain loss at which the fall of accuracy would be `aim`.

        Args:
            fall: of retain accuracy so far, in points.
            measured: rise of the retain loss so far on the same images, in nats.
        """
        # A smaller fall is noise, and dividing by it would let the loss rise to anywhere.
        if fall >= self.aim / 2 and 0 < measured < math.inf:
            self.margin = (self.margin + measured * self.aim / max(fall, 1e-9)) / 2

    def forget_history(self) -> None:
        """Begin the smoothing anew, and the target's learning where it was kept."""
        super().forget_history()
        self.smoothed = torch.zeros_like(self.smoothed)

    def _smooth(self, fall: Tensor, images: int) -> Tensor:
        decay = math.exp(-images / SMOOTHING_IMAGES)
        return self.smoothed * decay + torch.stack([fall, torch.ones_like(fall)]) * (1 - decay)

    def state_dict(self) -> dict:
        """Multiplier, penalty coefficient, the target's state, margin and smoothed fall."""
        return {**super().state_dict(), "margin": self.margin, "smoothed": self.smoothed}

    def load_state_dict(self, state_dict: dict) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state_dict)
        self.margin = state_dict["margin"].to(self.margin.device)
        self.smoothed = state_dict["smoothed"].to(self.smoothed.device)


class RetainSubjectToForget(OnTarget):
    """Stage 2: the retain loss, with the forget data's objective ≤ its floor + `tolerance` as its constraint.

    Args:
        streams: the model's forward passes.
        target: from `unlearning.constrained.targets` or `unlearning.constrained.discriminator_target`.
        tolerance: of its objective.
        solver: the constraint's formulation.
        multiplier: first value of the multiplier.
        penalty_coefficient: first value of the penalty coefficient; None takes the solver's own.
    """

    def __init__(
        self,
        streams: TwoStreams,
        target: Target,
        tolerance: float,
        solver: SolverName,
        multiplier: float,
        penalty_coefficient: float | None,
    ) -> None:
        super().__init__(streams, target)
        self.tolerance = tolerance
        self.forgotten = inequality(solver, multiplier, penalty_coefficient, streams.precision.device)

    def compute_cmp_state(self, forget: Batch, retain: Batch) -> cooper.CMPState:
        """Objective and constraint on one batch of each stream."""
        forget_logits, retain_logits = self.streams(forget[0], retain[0])
        objective, reached = self.target.objective(forget_logits, forget[1])
        retain_loss = F.cross_entropy(retain_logits, retain[1])
        violation = objective - self.target.floor - self.tolerance
        state = cooper.ConstraintState(
            violation=violation, contributes_to_dual_update=self.forgotten.multiplier is not None
        )
        misc = {
            "forget/objective": objective.detach(),
            "forget/batch_loss": F.cross_entropy(forget_logits.detach(), forget[1]),
            "forget/reached": reached,
            "retain/batch_loss": retain_loss.detach(),
            "constraint/violation": violation.detach(),
            **dual_figures(self.forgotten),
        }
        return cooper.CMPState(loss=retain_loss, observed_constraints={self.forgotten: state}, misc=misc)


def _right(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.detach().argmax(1) == labels).float().mean()
