"""The verdict on final figures: was the budget kept, and was the forget set forgotten?"""

import dataclasses
import math

# Maximum accuracy points of forget above unseen images that count as forgotten.
UNSEEN_TOLERANCE = 5.0
# Maximum percentage of images of a forgotten class that are still classified as that class.
ZERO_TOLERANCE = 1.0


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether the run kept the budget and forgot.

    `slack`: rest of the budget, in accuracy points on the retain set; negative where it is exceeded. `margin`: points
    that a one-sided 95 % bound adds to the fall where a sample of the retain set was evaluated; the bound then has to
    keep the budget. 0 where the whole set was evaluated.
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
    """Flags that may improve on a run of so many epochs; None where the verdict is good."""
    if not verdict.feasible:
        return "a larger --retain_budget or a lower --learning_rate may get there; retraining does"
    if verdict.forgotten:
        return None
    longer = f"--num_epochs {2 * epochs} or " if epochs else ""
    return f"{longer}a larger --retain_budget may get there; retraining does"


def is_forgotten(target: str, figures: dict[str, float], num_classes: int) -> bool:
    """Whether the forget set counts as forgotten, by the target of the run.

    `chance`: mean loss on the given labels at least log K and accuracy at most 1/K; `zero`: accuracy at most 1 %;
    `unseen`: accuracy at most 5 points above that of unseen images.
    """
    if target == "zero":
        return figures["forget_top1"] <= ZERO_TOLERANCE
    if target == "chance":
        return figures["forget_loss"] >= math.log(num_classes) and figures["forget_top1"] <= 100 / num_classes
    return figures["forget_top1"] <= figures["unseen_top1"] + UNSEEN_TOLERANCE


def give_verdict(
    original: dict[str, float], unlearned: dict[str, float], retain_budget: float, target: str, num_classes: int,
    margin: float = 0.0,
) -> Verdict:  # fmt: skip
    """The verdict from the figures of both models (names as in `evaluation.judge`); margin as in `Verdict`."""
    slack = retain_budget - (original["retain_top1"] - unlearned["retain_top1"])
    # Percentages carry float32 rounding, which must not break a budget that is kept exactly.
    feasible = slack - margin >= -1e-4 and math.isfinite(unlearned["retain_loss"])
    return Verdict(feasible, is_forgotten(target, unlearned, num_classes), retain_budget, slack, margin)
