"""Was the budget kept, and was it forgotten? The verdict on final figures."""

import dataclasses
import math

# Accuracy points by which forget accuracy may lie above unseen accuracy and still count as forgotten.
UNSEEN_TOLERANCE = 5.0
# Per cent of the images of a forgotten class that may still be named so.
ZERO_TOLERANCE = 1.0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether the run kept its promise.

    `slack` is what is left of the budget, in accuracy points on the retain set; negative where it is overdrawn.
    `margin`, in points, is what a one-sided 95 % bound adds to the fall where a sample of the retain set was looked
    at: then the bound has to keep the budget. 0 where all of it was.
    """

    feasible: bool
    forgotten: bool
    retain_budget: float
    slack: float
    margin: float = 0.0

    def __str__(self) -> str:
        change = self.slack - self.retain_budget
        state = "feasible" if self.feasible else "infeasible"
        forgotten = "forgotten" if self.forgotten else "NOT forgotten"
        sampled = f" (at most {self.margin:.1f} lower, by a sample at 95 %)" if self.margin else ""
        allowed = f"{self.retain_budget:g} allowed{sampled}"
        return f"{state}: retain accuracy {change:+.1f} points of the {allowed}; {forgotten}"


def next_try(verdict: Verdict, epochs: int) -> str | None:
    """Which flags may do better than a run of so many epochs; None where there is nothing left to wish for."""
    if not verdict.feasible:
        return "a larger --retain_budget or a lower --learning_rate may get there; retraining does"
    if verdict.forgotten:
        return None
    longer = f"--num_epochs {2 * epochs} or " if epochs else ""
    return f"{longer}a larger --retain_budget may get there; retraining does"


def is_forgotten(target: str, figures: dict[str, float], num_classes: int) -> bool:
    """Whether the forget set counts as forgotten, by the target that was steered to.

    `chance`: the given labels cost at least log K on average and are named no more often than by chance; `zero`: at
    most 1 % of the images are named as their class; `unseen`: accuracy at most 5 points above unseen images'.
    """
    if target == "zero":
        return figures["forget_top1"] <= ZERO_TOLERANCE
    if target == "chance":
        return figures["forget_loss"] >= math.log(num_classes) and figures["forget_top1"] <= 100 / num_classes
    return figures["forget_top1"] <= figures["unseen_top1"] + UNSEEN_TOLERANCE


def give_verdict(
    original: dict[str, float],
    unlearned: dict[str, float],
    retain_budget: float,
    target: str,
    num_classes: int,
    margin: float = 0.0,
) -> Verdict:
    """Verdict from the figures of both models (names as in `evaluation.judge`); margin as in `Verdict`."""
    slack = retain_budget - (original["retain_top1"] - unlearned["retain_top1"])
    # Percentages carry float32's rounding; a budget kept to the image must not fail by it.
    feasible = slack - margin >= -1e-4 and math.isfinite(unlearned["retain_loss"])
    return Verdict(feasible, is_forgotten(target, unlearned, num_classes), retain_budget, slack, margin)
