"""How far to go along what a pass has found: a line search on measured figures.

A pass of stage 1 moves the weights from θ to θ + d. Forward passes measure θ + αd: at α = 1 first; where the budget is
broken there, at 1/2, 1/4 and 1/8, until it is kept; where little of it is spent and the target is far, at 2 and 4, as
long as that comes nearer. The run goes on from the last such point, with steps α times as long.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

Weights = dict[str, Tensor]
# Shortest and longest stretch of a pass's displacement.
SHORTEST, LONGEST = 1 / 8, 4.0


class LineSearch:
    """The straight line from the weights at the beginning of a pass to those at its end.

    Args:
        model: whose weights move.
        accepts: whether a measurement, of a model at a point of the line, keeps the budget.
        measure: gives a measurement of the model as it is.
    """

    def __init__(self, model: nn.Module, measure: Callable, accepts: Callable) -> None:
        self.model, self.measure, self.accepts = model, measure, accepts
        self.start: Weights = {}

    def begin(self) -> None:
        """Take the present weights as the line's beginning."""
        self.start = snapshot(self.model)

    def state_dict(self) -> dict:
        """The line's beginning."""
        return {"start": self.start}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        self.start = state["start"]

    def search(self, lengthens: Callable, distance: Callable):
        """Move the model to the point to go on from; gives its share of the displacement and its measurement.

        Share 0, without a measurement, means that the budget is broken even at the shortest stretch: the pass is
        undone.

        Args:
            lengthens: whether, by a measurement, a longer stretch may pay.
            distance: to the target, by a measurement.
        """
        end, share, found = snapshot(self.model), 1.0, self.measure()
        while not self.accepts(found):
            share = share / 2 if share > SHORTEST else 0.0
            self.go_to(end, share)
            if share == 0:
                return share, None
            found = self.measure()
        while 1 <= share < LONGEST and lengthens(found):
            self.go_to(end, 2 * share)
            farther = self.measure()
            if not self.accepts(farther) or distance(farther) >= distance(found):
                self.go_to(end, share)
                break
            share, found = 2 * share, farther
        return share, found

    def go_to(self, end: Weights, share: float) -> None:
        """Put the model at a share of the line to `end`."""
        self.model.load_state_dict(on_line(self.model, self.start, end, share))


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
