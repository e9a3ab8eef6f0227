"""When to stop forgetting: criteria on the figures of the epochs so far, by name."""

from collections.abc import Callable

Epochs = list[dict[str, float]]


def _forgotten_as_validation(epochs: Epochs, original: dict[str, float]) -> bool:
    """Forget loss has reached the validation loss."""
    return epochs[-1]["forget/loss"] >= epochs[-1]["validation/loss"]


def _validation_rises_twice(epochs: Epochs, original: dict[str, float]) -> bool:
    """Validation loss rose in two epochs running, and the budget is kept."""
    losses = [epoch["validation/loss"] for epoch in epochs[-3:]]
    rose = len(losses) == 3 and losses[0] < losses[1] < losses[2]
    return rose and bool(epochs[-1]["constraint/feasible"])


def _retain_has_paid(epochs: Epochs, original: dict[str, float]) -> bool:
    """Retain top-5 accuracy fell to 90 % of the original's."""
    return epochs[-1]["retain/top5"] <= 0.9 * original["retain/top5"]


def _confused(epochs: Epochs, original: dict[str, float]) -> bool:
    """Forget loss has reached that of a wholly re-initialised network."""
    return epochs[-1]["forget/loss"] >= original["reinitialised/forget_loss"]


def _indistinguishable(epochs: Epochs, original: dict[str, float]) -> bool:
    """A fresh discriminator was at chance on held-out pairs in two epochs running, and the budget is kept."""
    at_chance = [epoch["forget/distance"] == 0 for epoch in epochs[-2:]]
    return at_chance == [True, True] and bool(epochs[-1]["constraint/feasible"])


STOP_CRITERIA: dict[str, Callable[[Epochs, dict[str, float]], bool]] = {
    "none": lambda epochs, original: False,
    "unlearning": _forgotten_as_validation,
    "refining": _validation_rises_twice,
    "forget-forever": _retain_has_paid,
    "confusion": _confused,
    "discriminator": _indistinguishable,
}
