"""How far to go along what a pass has found: a line search on measured figures.

A pass of stage 1 moves the weights from θ to θ + d. Forward passes measure θ + αd: at α = 1 first; where the budget is
broken there, at 1/2, 1/4 and 1/8, until it is kept; where little of it is spent and the target is far, at 2 and 4, as
long as that comes nearer. The run goes on from the last such point, with steps α times as long.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]
# Shortest and longest stretch of a pass's displacement.
SHORTEST, LONGEST = 1 / 8, 4.0
SHORTENED = (1.0, 1 / 2, 1 / 4, SHORTEST, 0.0)


class Line:
    """The straight line between two weights of one model, measured by forward passes.

    Args:
        model: is put at points of the line.
        start: weights of share 0.
        end: weights of share 1.
        measure: gives a measurement of the model as it is.
        known: measurements by share that need not be taken.
    """

    def __init__(
        self, model: nn.Module, start: Weights, end: Weights, measure: Callable, known: dict[float, Any] | None = None
    ) -> None:
        self.model, self.start, self.end, self.measure, self.known = model, start, end, measure, dict(known or {})

    def go_to(self, share: float) -> Any:
        """Put the model at a share of the line; gives its measurement there."""
        self.model.load_state_dict(on_line(self.model, self.start, self.end, share))
        if share not in self.known:
            self.known[share] = self.measure()
        return self.known[share]

    def first(self, shares: Sequence[float], accepts: Callable) -> tuple[float, Any]:
        """Go to the first share whose measurement is accepted, else to the last; gives it and its measurement."""
        for share in shares:
            if accepts(found := self.go_to(share)):
                break
        return share, found

    def search(self, accepts: Callable, lengthens: Callable, distance: Callable) -> tuple[float, Any]:
        """Go to the point to go on from; gives its share and its measurement.

        Args:
            accepts: whether, by a measurement, the budget is kept.
            lengthens: whether a longer stretch may pay.
            distance: to the target.
        """
        share, found = self.first(SHORTENED, accepts)
        while 1 <= share < LONGEST and lengthens(found):
            farther = self.go_to(2 * share)
            # A distance that counts images stays as it is until the first of them has moved.
            if not accepts(farther) or distance(farther) > distance(found):
                break
            share, found = 2 * share, farther
        return share, self.go_to(share)


def snapshot(model: nn.Module) -> Weights:
    """A copy of the weights and buffers."""
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def on_line(model: nn.Module, start: Weights, end: Weights, share: float) -> Weights:
    """Weights at start + share · (end − start), at 0 and 1 bit for bit these; buffers never beyond the two.

    Args:
        model: tells weights from buffers.
        start: of share 0.
        end: of share 1.
        share: any number from 0 on.
    """
    if share in (0, 1):
        return dict(end if share else start)
    weights, found = {name for name, _ in model.named_parameters(remove_duplicate=False)}, {}
    for name, present in model.state_dict().items():
        # After a checkpoint, either may lie on the CPU.
        first, last = (values[name].to(present.device) for values in (start, end))
        part = share if name in weights else min(share, 1.0)
        found[name] = torch.lerp(first, last, part) if first.is_floating_point() else last
    return found
