"""Problems that a solver can work on: cooper's, with one hook more, and plain training as the simplest of them."""

import cooper
from torch import Tensor, nn
from torch.nn import functional as F

from helper_functions.training.devices import Precision
from helper_functions.training.spread import spread

Batch = tuple[Tensor, Tensor]


class Problem(cooper.ConstrainedMinimizationProblem):
    """A cooper problem whose running statistics move once a step, however often its state is computed.

    SAM computes the state twice a step; what a problem smooths over steps is therefore updated in `commit`, which
    the solver calls with the state of the first pass.
    """

    def commit(self, state: cooper.CMPState) -> None:
        """Take over running statistics after a step."""

    def keep_history(self) -> None:
        """Take what has been learned beside the weights for good, together with the present weights."""

    def rescale(self, factor: float) -> None:
        """Multiply the learning rates of what learns beside the weights."""

    def forget_history(self) -> None:
        """Drop running statistics, which belong to weights that a run has gone back from."""


class EmpiricalRisk(Problem):
    """Mean cross-entropy on the stream `train`, without constraints."""

    def __init__(self, model: nn.Module, precision: Precision) -> None:
        super().__init__()
        self.forward_pass = spread(model, precision.compile_mode)
        self.precision = precision

    def compute_cmp_state(self, train: Batch) -> cooper.CMPState:
        """Loss of one batch; `misc` holds what is logged: `train/loss` and `train/top1` in percent."""
        inputs, labels = train
        with self.precision.autocast():
            logits = self.forward_pass(inputs)
        loss = F.cross_entropy(logits.float(), labels)
        accuracy = (logits.detach().argmax(1) == labels).float().mean() * 100
        return cooper.CMPState(loss=loss, misc={"train/loss": loss.detach(), "train/top1": accuracy})
