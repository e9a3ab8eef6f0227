"""When to stop forgetting: criteria on the figures of the epochs so far and of the original, by name."""

from collections.abc import Callable

Epochs = list[dict[str, float]]
# How far from 0.5 an AUC may be and still count as chance.
AUC_TOLERANCE = 0.05


def _validation_rises_twice(epochs: Epochs, original: dict[str, float]) -> bool:
    losses = [epoch["validation/loss"] for epoch in epochs[-3:]]
    rose = len(losses) == 3 and losses[0] < losses[1] < losses[2]
    return rose and bool(epochs[-1]["constraint/feasible"])


def _indistinguishable_twice(epochs: Epochs, original: dict[str, float]) -> bool:
    # Of few images, an interval that holds chance says little.
    at_chance = [abs(epoch["discriminator/auc"] - 0.5) <= AUC_TOLERANCE for epoch in epochs[-2:]]
    return at_chance == [True, True] and bool(epochs[-1]["constraint/feasible"])


STOP_CRITERIA: dict[str, Callable[[Epochs, dict[str, float]], bool]] = {
    "none": lambda epochs, original: False,
    # The forget loss has reached the validation loss.
    "unlearning": lambda epochs, original: epochs[-1]["forget/loss"] >= epochs[-1]["validation/loss"],
    # The validation loss rose in two epochs running, and the budget is kept.
    "refining": _validation_rises_twice,
    # Retain top-5 accuracy fell to 90 % of the original's.
    "forget-forever": lambda epochs, original: epochs[-1]["retain/top5"] <= 0.9 * original["retain/top5"],
    # The forget loss has reached that of a wholly re-initialised network.
    "confusion": lambda epochs, original: epochs[-1]["forget/loss"] >= original["reinitialised/forget_loss"],
    # A fresh discriminator was at chance on held-out pairs in two epochs running, and the budget is kept.
    "discriminator": _indistinguishable_twice,
}


def is_met(asked: str, epochs: Epochs, original: dict[str, float]) -> bool:
    """Whether the criterion that was asked for ends forgetting; `auto` is a discriminator's where there is one."""
    if asked == "auto":
        asked = "discriminator" if "discriminator/auc" in original else "none"
    return STOP_CRITERIA[asked](epochs, original)
