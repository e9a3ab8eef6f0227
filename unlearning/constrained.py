"""Constrained unlearning: forget subject to the retain budget, then fine-tune subject to staying forgotten.

Stage 1: min −L_f(θ) (bounded: see `unlearning.targets`) subject to the fall of retain accuracy ≤ budget.
Stage 2: min L_r(θ) subject to the forget data's distance from its target ≤ tolerance.
"""

import copy
import math
from typing import Literal

import cooper
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helper_functions.batch_norm import no_running_stats_update, set_batch_norm_eval
from helper_functions.devices import Precision
from optimizer.problems import Batch, Problem
from optimizer.solver import SolverName, inequality

BatchNormMode = Literal["frozen", "train"]
# Images over which the fall of accuracy is smoothed: its standard error is then about half a point.
SMOOTHING_IMAGES = 1000


class TwoStreams:
    """Forward passes of one model on a forget and a retain batch, in the batch-norm mode that was asked for.

    `frozen` uses the running statistics, as evaluation does, so that what training sees is what the budget is judged
    by, and one pass serves both streams. `train` normalises by the batch: then each stream has a pass of its own,
    and the forget stream moves no running statistics.
    """

    def __init__(self, model: nn.Module, precision: Precision, batch_norm: BatchNormMode) -> None:
        self.model = model
        self.precision = precision
        self.batch_norm = batch_norm

    def prepare(self, model: nn.Module) -> None:
        """Put the model into training mode, with batch norm as asked for."""
        model.train()
        if self.batch_norm == "frozen":
            set_batch_norm_eval(model)

    def __call__(self, forget: Tensor, retain: Tensor) -> tuple[Tensor, Tensor]:
        """Float32 logits of the forget inputs and of the retain inputs."""
        with self.precision.autocast():
            if self.batch_norm == "frozen":
                logits = self.model(torch.cat([forget, retain])).float()
                return logits[: len(forget)], logits[len(forget) :]
            retain_logits = self.model(retain).float()
            with no_running_stats_update(self.model):
                return self.model(forget).float(), retain_logits


class RetainAgainstOriginal:
    """How far retain accuracy and retain loss are from the original model's on the same inputs.

    A no-gradient pass of the frozen original on each retain batch; the original is put into the same batch-norm mode
    as the model, so that the two differ in their weights alone.
    """

    def __init__(self, model: nn.Module, precision: Precision, batch_norm: BatchNormMode) -> None:
        self.original = copy.deepcopy(model).eval().requires_grad_(False)
        if batch_norm == "train":
            self.original.train()
        self.precision = precision

    def __call__(self, inputs: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean loss and number of right answers of the original, both 0-d."""
        with torch.no_grad(), no_running_stats_update(self.original), self.precision.autocast():
            logits = self.original(inputs).float()
        return F.cross_entropy(logits, labels), (logits.argmax(1) == labels).float().sum()


class ForgetSubjectToRetain(Problem):
    """Stage 1: the target's objective on forget data, with the retain budget as its constraint.

    The strict violation, which moves the multiplier, is the smoothed fall of retain accuracy minus `aim`, in points;
    the violation that is differentiated is the retain loss minus ε, ε the original's loss on the same inputs plus
    `margin` (proxy constraints: Cotter et al. 2019).

    Args:
        streams: the model's forward passes.
        reference: the original's loss and right answers on a retain batch.
        target: from `unlearning.targets`.
        aim: accuracy points that may be lost while training; below the budget, to leave room for its noise.
        solver: the constraint's formulation.
        multiplier: first value of the multiplier.
        penalty_coefficient: first value of the penalty coefficient; None takes the solver's own.
    """

    def __init__(
        self,
        streams: TwoStreams,
        reference: RetainAgainstOriginal,
        target,
        aim: float,
        solver: SolverName,
        multiplier: float,
        penalty_coefficient: float | None,
    ) -> None:
        super().__init__()
        device = streams.precision.device
        self.streams = streams
        self.reference = reference
        self.target = target
        self.aim = aim
        self.margin = torch.zeros((), device=device)
        self.smoothed = torch.zeros(2, device=device)  # fall in points, and the weight that it has gathered
        self.budget = inequality(solver, multiplier, penalty_coefficient, device)

    def compute_cmp_state(self, forget: Batch, retain: Batch) -> cooper.CMPState:
        """Objective and constraint on one batch of each stream."""
        forget_logits, retain_logits = self.streams(forget[0], retain[0])
        objective, reached = self.target.objective(forget_logits, forget[1])
        retain_loss = F.cross_entropy(retain_logits, retain[1])
        original_loss, original_right = self.reference(*retain)
        right = (retain_logits.detach().argmax(1) == retain[1]).float().sum()
        smoothed = self._smooth((original_right - right) * (100 / len(retain[1])), len(retain[1]))
        fall = smoothed[0] / smoothed[1]
        violation = retain_loss - original_loss - self.margin
        state = cooper.ConstraintState(
            violation=violation,
            strict_violation=fall - self.aim,
            contributes_to_dual_update=self.budget.multiplier is not None,
        )
        misc = {
            "forget/objective": objective.detach(),
            "forget/batch_loss": F.cross_entropy(forget_logits.detach(), forget[1]),
            "forget/reached": reached,
            "retain/batch_loss": retain_loss.detach(),
            "constraint/violation": fall - self.aim,
            "constraint/surrogate": violation.detach(),
            **dual_figures(self.budget),
        }
        return cooper.CMPState(
            loss=objective, observed_constraints={self.budget: state}, misc={**misc, "smoothed": smoothed}
        )

    def commit(self, state: cooper.CMPState) -> None:
        """Take over the smoothed fall of accuracy."""
        self.smoothed = state.misc.pop("smoothed")

    def refit_margin(self, fall: float, rise: float) -> None:
        """Move the margin towards the rise of retain loss at which the fall of accuracy would be `aim`.

        Args:
            fall: of retain accuracy so far, measured, in points.
            rise: of retain loss so far, measured on the same images, in nats.
        """
        if rise <= 0:
            return
        # Where no accuracy is lost yet, the loss may rise at least as far as it has.
        proposed = rise * self.aim / fall if fall > 0 else max(rise, self.margin.item())
        self.margin = (self.margin + proposed) / 2

    def forget_history(self) -> None:
        """Begin the smoothing anew."""
        self.smoothed = torch.zeros_like(self.smoothed)

    def _smooth(self, fall: Tensor, images: int) -> Tensor:
        decay = math.exp(-images / SMOOTHING_IMAGES)
        return self.smoothed * decay + torch.stack([fall, torch.ones_like(fall)]) * (1 - decay)

    def state_dict(self) -> dict:
        """Multiplier, penalty coefficient, margin and smoothed fall."""
        return {**super().state_dict(), "margin": self.margin, "smoothed": self.smoothed}

    def load_state_dict(self, state_dict: dict) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict({key: state_dict[key] for key in ("multipliers", "penalty_coefficients")})
        self.margin = state_dict["margin"].to(self.margin.device)
        self.smoothed = state_dict["smoothed"].to(self.smoothed.device)


class RetainSubjectToForget(Problem):
    """Stage 2: the retain loss, with the forget data's objective ≤ `tolerance` as its constraint.

    Args:
        streams: the model's forward passes.
        target: from `unlearning.targets`; its objective is 0 where everything is forgotten.
        tolerance: of that objective.
        solver: the constraint's formulation.
        multiplier: first value of the multiplier.
        penalty_coefficient: first value of the penalty coefficient; None takes the solver's own.
    """

    def __init__(
        self,
        streams: TwoStreams,
        target,
        tolerance: float,
        solver: SolverName,
        multiplier: float,
        penalty_coefficient: float | None,
    ) -> None:
        super().__init__()
        self.streams = streams
        self.target = target
        self.tolerance = tolerance
        self.forgotten = inequality(solver, multiplier, penalty_coefficient, streams.precision.device)

    def compute_cmp_state(self, forget: Batch, retain: Batch) -> cooper.CMPState:
        """Objective and constraint on one batch of each stream."""
        forget_logits, retain_logits = self.streams(forget[0], retain[0])
        objective, reached = self.target.objective(forget_logits, forget[1])
        retain_loss = F.cross_entropy(retain_logits, retain[1])
        violation = objective - self.tolerance
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


def dual_figures(constraint: cooper.Constraint) -> dict[str, Tensor]:
    """The multiplier and the penalty coefficient of a constraint, those that it has."""
    figures = {}
    if constraint.multiplier is not None:
        figures["constraint/multiplier"] = constraint.multiplier.weight.detach().reshape(()).clone()
    if constraint.penalty_coefficient is not None:
        figures["constraint/penalty_coefficient"] = constraint.penalty_coefficient.value.reshape(())
    return figures
