"""A published method as a plan: what it does to the weights at once, then epochs of passes, each by its own loss."""

import dataclasses
from collections.abc import Callable, Iterable

import cooper
import torch
from torch import Tensor, nn

from optimizer.problems import Problem

# Takes the batches of a pass by their streams' names, gives the loss, 0-d; or it and further figures by name.
Loss = Callable[..., Tensor | dict[str, Tensor]]


class WeightedSum(Problem):
    """A loss without constraints: whatever it trades off, it does so at weights that were fixed beforehand.

    Args:
        loss: takes batches `(inputs, labels)` by the names of the streams; gives the loss, 0-d, alone or as `loss`
            among further 0-d figures.
    """

    def __init__(self, loss: Loss) -> None:
        super().__init__()
        self.loss = loss

    def compute_cmp_state(self, **batch: tuple[Tensor, Tensor]) -> cooper.CMPState:
        """The loss of one batch of each stream; `misc` holds what is logged."""
        found = self.loss(**batch)
        figures = found if isinstance(found, dict) else {"loss": found}
        misc = {f"unlearning/{name}": value.detach() for name, value in figures.items()}
        return cooper.CMPState(loss=figures["loss"], misc=misc)


@dataclasses.dataclass(eq=False)  # each is one of its own
class Pass:
    """One pass over a stream of the case.

    Args:
        name: in the record.
        batches: from `Case.stream` or `Case.pairs`, opened once for all epochs.
        loss: of one batch of each of its streams, or of what `answers` made of it.
        answers: turns the batches of a step, by their streams' names, into what the loss takes: draws, and answers of
            other models. Once a step and without gradient, where SAM takes the loss twice.
        begin: called before each time that the pass begins; what it gives, plain values, is `found` until the next
            time, and in a run that goes on in the middle of the pass.
    """

    name: str
    batches: Iterable[dict]
    loss: Loss
    answers: Callable[[dict], dict] = lambda batch: batch
    begin: Callable[[], dict[str, float]] = dict

    def __post_init__(self) -> None:
        self.problem = WeightedSum(self.loss)
        self.found: dict[str, float] = {}


@dataclasses.dataclass
class Plan:
    """What a published method does. Building it may look at the model, and must not change it.

    Args:
        passes: those of an epoch, by its number from 0.
        begin: changes weights at once, before the first epoch; called in a run that is not resumed.
        frozen: modules whose own weights and running statistics, not those of their children, stay as they are from
            then on.
        mask: bool tensors by parameter name: the weights that may move; all of them where it is None.
    """

    passes: Callable[[int], list[Pass]] = lambda epoch: []
    begin: Callable[[], None] = lambda: None
    frozen: tuple[nn.Module, ...] = ()
    mask: dict[str, Tensor] | None = None


class Mask:
    """Holds the weights outside of a mask where they are, whatever momentum and weight decay would make of them.

    Args:
        model: whose weights are held at their present values.
        mask: as of `Plan`.
    """

    def __init__(self, model: nn.Module, mask: dict[str, Tensor]) -> None:
        parameters = dict(model.named_parameters())
        self.held = [(parameters[name], moves, parameters[name].detach().clone()) for name, moves in mask.items()]

    @torch.no_grad()
    def restore(self) -> None:
        """Put every weight outside of the mask back; after each step of the optimizer."""
        for parameter, moves, value in self.held:
            parameter.copy_(torch.where(moves, parameter, value))
