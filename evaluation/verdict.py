"""The verdict on final figures: was the budget kept, and was the forget set forgotten?"""

import dataclasses
import math

from helper_functions.run_folder import INFEASIBLE, NOT_FORGOTTEN, RESULT
from unlearning.evaluator import is_forgotten, keeps_budget, met_before


@dataclasses.dataclass(frozen=True)
class Verdict:
    """Whether the run kept the budget and forgot.

    `slack`: rest of the budget, in accuracy points on the retain set; negative where it is exceeded. `margin`: points
    that a one-sided 95 % bound adds to the fall where a sample of the retain set was evaluated; the bound then has to
    keep the budget. 0 where the whole set was evaluated. `held_out_fall`: points lost on images that no model has
    learned, of classes that stay; less its `held_out_margin`, of a one-sided 95 % bound, it has to keep the budget.
    `met_before`: the original itself counts as forgotten. `outcome`: the verdict in words.
    """

    feasible: bool
    forgotten: bool
    retain_budget: float
    slack: float
    margin: float = 0.0
    held_out_fall: float = 0.0
    held_out_margin: float = 0.0
    met_before: bool = False
    outcome: str = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        forgotten = "forgotten" if self.forgotten else "NOT forgotten"
        before = " (the original met this already)" if self.forgotten and self.met_before else ""
        outcome = f"{forgotten}{before}, budget {'kept' if self.feasible else 'NOT kept'}"
        object.__setattr__(self, "outcome", outcome)  # frozen

    @property
    def weights(self) -> str:
        """Name of the file of weights that a run with this verdict ends with."""
        if not self.feasible:
            return INFEASIBLE
        return RESULT if self.forgotten else NOT_FORGOTTEN

    def __str__(self) -> str:
        lost = round(self.retain_budget - self.slack, 1)
        gained = f" ({-lost:.1f} gained)" if lost < 0 else ""
        sampled = f" (at most {self.margin:.1f} lower, by a sample at 95 %)" if self.margin else ""
        retain = f"{max(0.0, lost):.1f} points lost of the {self.retain_budget:g} allowed{gained}{sampled}"
        held_out = round(self.held_out_fall, 1)
        held_out = f"{abs(held_out):.1f} ± {self.held_out_margin:.1f} {'lost' if held_out >= 0 else 'gained'}"
        return f"{self.outcome}: retain accuracy {retain}, held-out {held_out}"


def next_try(verdict: Verdict, stage: str, epochs: int) -> str | None:
    """Flags that may improve on a run, None where the verdict is good.

    `epochs` are those of its last stage, whose flags begin with `stage`: `finetune_`, or nothing.
    """
    if not verdict.feasible:
        return f"a larger --retain_budget or a lower --{stage}learning_rate may get there; retraining does"
    if verdict.forgotten:
        return None
    longer = f"--{stage}num_epochs {2 * epochs} or " if epochs else ""
    return f"{longer}a larger --retain_budget may get there; retraining does"


def give_verdict(
    original: dict[str, float], unlearned: dict[str, float], retain_budget: float, target: str, num_classes: int,
    retain: tuple[float, float], held_out: tuple[float, float],
) -> Verdict:  # fmt: skip
    """The verdict from the figures of the original and of the unlearned model (names as in `evaluation.judge`).

    `retain` and `held_out` are the falls of accuracy with their margins, as of `unlearning.evaluator.paired_fall`.
    """
    feasible = keeps_budget(retain_budget, retain, held_out) and math.isfinite(unlearned["retain_loss"])
    forgotten = is_forgotten(target, unlearned, num_classes)
    before = met_before(target, original, num_classes)
    return Verdict(feasible, forgotten, retain_budget, retain_budget - retain[0], retain[1], *held_out, before)
