"""What is minimised: an objective without constraints, or one of cooper's constrained problems, with hooks."""

import cooper
from torch import Tensor

Batch = tuple[Tensor, Tensor]


class Objective:
    """A loss without constraints, which may learn beside the weights. All hooks do nothing unless overridden."""

    def __call__(self, **batch: Batch) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a batch of each stream, 0-d, and 0-d figures to log; SAM calls it twice a step."""
        raise NotImplementedError

    def commit(self) -> dict[str, Tensor]:
        """Learn from the batch, once after each step; further 0-d figures."""
        return {}

    def rescale(self, factor: float) -> None:
        """Multiply the learning rates of what learns beside the weights."""

    def state_dict(self) -> dict:
        """What a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""


class Problem(cooper.ConstrainedMinimizationProblem):
    """A constrained problem whose running statistics move once a step, however often its state is computed.

    SAM computes the state twice a step; what a problem smooths over steps is therefore updated in `commit`.
    """

    def commit(self, state: cooper.CMPState) -> None:
        """Take over running statistics after a step, from the state of its first pass."""

    def snapshot(self) -> None:
        """Keep what has been learned beside the weights, together with the present weights."""

    def rollback(self) -> None:
        """Go back to the last snapshot; running statistics begin anew."""
