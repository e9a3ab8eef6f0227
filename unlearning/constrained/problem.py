"""The two constrained problems: forget subject to the retain budget; then fine-tune subject to staying forgotten.

    Stage 1:  min F(θ)    subject to  h(θ) ≤ 0
    Stage 2:  min L_r(θ)  subject to  F(θ) ≤ F* + tolerance

F is the objective of a target (`unlearning.constrained.targets`), h the fall of retain accuracy minus the part of the
budget that training aims at, L_r the cross-entropy on retain images, F* what F is where everything is forgotten.
"""

import math
from collections.abc import Callable

import cooper
import torch
from torch import Tensor
from torch.nn import functional as F

from data.loaders import TensorLoader
from data.streams import PairedLoader
from optimizer.problems import Batch, Problem
from optimizer.solver import dual_figures, inequality
from unlearning.arguments import BATCH_SIZE, UnlearnArgs
from unlearning.constrained.targets import Target
from unlearning.streams import OriginalAnswers, TwoStreams

# Images over which the fall of accuracy is smoothed: its standard error is then about half a point.
SMOOTHING_IMAGES = 1000
# Part of the budget that training aims at; the rest is room for the noise of what it measures.
AIMED_SHARE = 0.8
# Objective that fine-tuning may leave on the forget data.
FINETUNE_TOLERANCE = 0.01
# Violation by which the multiplier of fine-tuning rises at most, in a step.
LARGEST_VIOLATION = 0.1

RetainLossGap = Callable[[Tensor, Tensor, Tensor], Tensor]


class UnlearningProblem(Problem):
    """One inequality constraint on a forget and a retain batch, with a forget target that may learn along.

    Args:
        streams: the model's forward passes.
        target: from `unlearning.constrained.targets` or `unlearning.constrained.discriminator_target`.
        args: `solver`, `multiplier` and `penalty_coefficient`.
    """

    # What figures of the constraint begin with.
    constrains: str

    def __init__(self, streams: TwoStreams, target: Target, args: UnlearnArgs) -> None:
        super().__init__()
        self.streams, self.target = streams, target
        device = streams.precision.device
        self.constraint = inequality(args.solver, args.multiplier, args.penalty_coefficient, device)
        self.kept_target: dict = {}

    def forward(self, forget: Batch, retain: Batch) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The target's objective, 0-d, the logits of the retain images `[B, K]`, and figures to log."""
        forget_logits, retain_logits = self.streams(forget[0], retain[0])
        objective, reached = self.target.objective(forget_logits, forget[1])
        figures = {
            "forget/objective": objective.detach(),
            "forget/batch_loss": F.cross_entropy(forget_logits.detach(), forget[1]),
            "forget/reached": reached,
        }
        return objective, retain_logits, figures

    def state_of(
        self, loss: Tensor, violation: Tensor, strict_violation: Tensor | None, figures: dict[str, Tensor]
    ) -> cooper.CMPState:
        """cooper's state of one batch; `misc` holds what is logged."""
        state = cooper.ConstraintState(
            violation=violation, strict_violation=strict_violation,
            contributes_to_dual_update=self.constraint.multiplier is not None,
        )  # fmt: skip
        misc = {**figures, **dual_figures(self.constraint, self.constrains)}
        return cooper.CMPState(loss=loss, observed_constraints={self.constraint: state}, misc=misc)

    def commit(self, state: cooper.CMPState) -> None:
        """Let the target learn from the batch."""
        state.misc |= self.target.commit()

    def snapshot(self) -> None:
        """Keep the target's state beside the weights that are kept."""
        self.kept_target = self.target.state_dict()

    def rollback(self) -> None:
        """Back to the target's state at the last snapshot."""
        self.target.load_state_dict(self.kept_target)

    def state_dict(self) -> dict:
        """Multiplier, penalty coefficient and the target's state."""
        return {**super().state_dict(), "target": self.target.state_dict(), "kept_target": self.kept_target}

    def load_state_dict(self, state_dict: dict) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict({key: state_dict[key] for key in ("multipliers", "penalty_coefficients")})
        self.target.load_state_dict(state_dict["target"])
        self.kept_target = state_dict["kept_target"]


class ForgetSubjectToRetain(UnlearningProblem):
    """Stage 1: the target's objective on forget data, with the retain budget as its constraint.

    The strict violation h, which moves the multiplier, is the smoothed fall of retain accuracy minus `aim`, in points.
    The violation g that is differentiated is the retain loss minus ε, ε the original's retain loss on the same inputs
    plus `margin` (proxy constraints: Cotter et al. 2019).

    Args, beside those of every problem:
        original: its answers on a retain batch.
        retain_loss_gap: one of `RETAIN_LOSSES`, the retain loss less the original's.
    """

    constrains = "constraint"

    def __init__(
        self, streams: TwoStreams, target: Target, args: UnlearnArgs, original: OriginalAnswers,
        retain_loss_gap: RetainLossGap,
    ) -> None:  # fmt: skip
        super().__init__(streams, target, args)
        self.original, self.retain_loss_gap = original, retain_loss_gap
        self.aim = AIMED_SHARE * args.retain_budget
        self.margin = torch.zeros((), device=streams.precision.device)
        # Fall in points, and the weight that it has gathered.
        self.smoothed = torch.zeros(2, device=streams.precision.device)

    def compute_cmp_state(self, forget: Batch, retain: Batch) -> cooper.CMPState:
        """F, g and h on one batch of each stream."""
        objective, retain_logits, figures = self.forward(forget, retain)  # F
        original_logits = self.original(retain[0])
        fall = 100 * (_top1(original_logits, retain[1]) - _top1(retain_logits, retain[1]))
        decay = math.exp(-len(retain[1]) / SMOOTHING_IMAGES)
        smoothed = self.smoothed * decay + torch.stack([fall, torch.ones_like(fall)]) * (1 - decay)
        excess = smoothed[0] / smoothed[1] - self.aim  # h
        gap = self.retain_loss_gap(original_logits, retain_logits, retain[1]) - self.margin  # g
        figures |= {
            "retain/batch_loss": F.cross_entropy(retain_logits.detach(), retain[1]),
            "constraint/violation": excess,
            "constraint/surrogate": gap.detach(),
        }
        state = self.state_of(objective, gap, excess, figures)
        state.misc["smoothed"] = smoothed
        return state

    def commit(self, state: cooper.CMPState) -> None:
        """Take over the smoothed fall of accuracy, and let the target learn."""
        self.smoothed = state.misc.pop("smoothed")
        super().commit(state)

    def refit_margin(self, fall: float, loss_gap: float) -> None:
        """Move the margin towards the retain loss gap at which the fall of accuracy would be `aim`.

        Args:
            fall: of retain accuracy so far, in points.
            loss_gap: retain loss less the original's on the same images, in nats.
        """
        # A smaller fall is noise, and dividing by it would let the loss rise without bound.
        if fall >= self.aim / 2 and 0 < loss_gap < math.inf:
            self.margin = (self.margin + loss_gap * self.aim / max(fall, 1e-9)) / 2

    def rollback(self) -> None:
        """Begin the smoothing anew; back to the target's state at the last snapshot."""
        super().rollback()
        self.smoothed = torch.zeros_like(self.smoothed)

    def state_dict(self) -> dict:
        """Multiplier, penalty coefficient, the target's state, margin and smoothed fall."""
        return {**super().state_dict(), "margin": self.margin, "smoothed": self.smoothed}

    def load_state_dict(self, state_dict: dict) -> None:
        """Inverse of `state_dict`."""
        super().load_state_dict(state_dict)
        self.margin = state_dict["margin"].to(self.margin.device)
        self.smoothed = state_dict["smoothed"].to(self.smoothed.device)


class RetainSubjectToForget(UnlearningProblem):
    """Stage 2: the retain loss, subject to the forget objective ≤ its floor + `FINETUNE_TOLERANCE`."""

    constrains = "forget"

    def compute_cmp_state(self, forget: Batch, retain: Batch) -> cooper.CMPState:
        """Objective and constraint on one batch of each stream."""
        objective, retain_logits, figures = self.forward(forget, retain)
        retain_loss = F.cross_entropy(retain_logits, retain[1])
        violation = objective - self.target.floor - FINETUNE_TOLERANCE  # g
        # Bounded above: the multiplier must not wind up while forget images are still on their way.
        bounded = violation.detach().clamp(max=LARGEST_VIOLATION)  # h
        figures |= {"retain/batch_loss": retain_loss.detach(), "forget/violation": violation.detach()}
        return self.state_of(retain_loss, violation, bounded, figures)


def dual_rate(args: UnlearnArgs, loader: PairedLoader) -> float:
    """The multiplier's step: in proportion to the batch, so that its size does not change the trade.

    Where a smaller batch follows from a small forget set, the pass has fewer images and as many steps: then the step
    stays.
    """
    own = getattr(loader.leader, "batch_size", None) or BATCH_SIZE
    foreign = not isinstance(loader.leader, TensorLoader)
    share = own / BATCH_SIZE
    return args.dual_learning_rate * (share if args.batch_size or foreign else max(1.0, share))


def _top1(logits: Tensor, labels: Tensor) -> Tensor:
    return (logits.detach().argmax(1) == labels).float().mean()
