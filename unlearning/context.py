"""What a method works on, `MethodContext`, and who listens to its trainer, `RunListener`."""

import copy
import dataclasses
from collections.abc import Iterable
from typing import Protocol

import torch
from torch import Tensor, nn

from data.streams import CyclingLoader, PairedLoader
from data.views import evaluation_view
from helper_functions.progress import progress
from helper_functions.record import RunRecord
from helper_functions.training.devices import Precision
from helper_functions.training.loop import Cost, NamedLoader
from models.weights import reinitialised
from unlearning.arguments import MethodArgs
from unlearning.evaluator import Evaluation, Evaluator
from unlearning.streams import OriginalAnswers, TwoStreams


@dataclasses.dataclass
class MethodContext:
    """What is to be forgotten, and by which means.

    Args:
        target: name of the forget target.
        model: the original, whose weights are still to move.
        loaders: `retain` and `forget`, shuffled batches; `unseen` and `validation`; for constrained fine-tuning
            `finetune_retain`, augmented, and `finetune_forget`, which are the first two where there are none.
        evaluator: what was measured of the original, and measures again.
        args: flags, the method's own among them.
        precision: device and dtype.
        seed: of everything that a method draws.
        cost: is added to, where a method takes gradients outside of the loop.
    """

    target: str
    model: nn.Module
    loaders: dict[str, Iterable]
    evaluator: Evaluator
    args: MethodArgs
    precision: Precision
    seed: int
    cost: Cost = dataclasses.field(default_factory=Cost)

    def __post_init__(self) -> None:
        self.streams = TwoStreams(self.model, self.precision, self.args.bn)
        # On the device, so that no draw waits for a transfer; its state goes into the checkpoint.
        self.generator = torch.Generator(self.precision.device).manual_seed(self.seed)
        # Those that a method has asked for, in that order, which is the same in a resumed run.
        self.opened: list[NamedLoader | PairedLoader] = []
        self.num_classes = self.evaluator.num_classes

    def logits(self, inputs: Tensor, model: nn.Module | None = None) -> Tensor:
        """Float32 logits `[B, K]` of the model, or of another, in whichever mode it is.

        Of several ranks, all take the pass through the model together, for a step of the optimizer; through a model
        that is named, and be it the same one, each takes a pass of its own, for gradients by hand.
        """
        with self.precision.autocast():
            return (self.streams.forward_pass if model is None else model)(inputs).float()

    def original(self) -> OriginalAnswers:
        """A frozen copy of the model as it is now, in eval mode."""
        return OriginalAnswers(self.model, self.precision, "frozen")

    def fresh(self) -> nn.Module:
        """A copy of the model with every weight drawn anew from the seed."""
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(self.seed)
            # On the CPU whatever the device: one seed is one model everywhere.
            drawn = reinitialised(copy.deepcopy(self.model).cpu())
        return drawn.to(self.precision.device)

    def stream(self, name: str) -> NamedLoader:
        """Passes over the `forget` or the `retain` images, alone."""
        return self._open(NamedLoader(name, self.loaders[name]))

    def pairs(self, leader: str, prefix: str = "") -> PairedLoader:
        """Passes over the `forget` or the `retain` images, with as many batches of the other ones beside them.

        `prefix` stands before the names of the loaders, where there are such.
        """
        beside = {"forget": "retain", "retain": "forget"}[leader]
        first, other = (self.loaders.get(prefix + name, self.loaders[name]) for name in (leader, beside))
        return self._open(PairedLoader(first, CyclingLoader(other), (leader, beside)))

    def _open(self, stream: NamedLoader | PairedLoader) -> NamedLoader | PairedLoader:
        self.opened.append(stream)
        return stream

    def images(self, name: str, limit: int | None = None) -> Iterable[tuple[Tensor, Tensor]]:
        """Batches of a stream's images in a fixed order, not augmented, on the device; at most about `limit` images."""
        for inputs, labels in progress(evaluation_view(self.loaders[name], limit, self.seed), f"reading {name} images"):
            yield inputs.to(self.precision.device), labels.to(self.precision.device)

    def state_dict(self) -> dict:
        """The generator's state and the places of all streams."""
        return {"generator": self.generator.get_state(), "streams": [stream.state_dict() for stream in self.opened]}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        self.generator.set_state(state["generator"])
        for stream, place in zip(self.opened, state["streams"], strict=True):
            stream.load_state_dict(place)


class RunListener(Protocol):
    """Whoever listens to a trainer: measures the model, writes down epochs and checkpoints.

    `name` is the method's, `original` holds the original's figures, `epochs` those of each epoch so far.
    """

    name: str
    record: RunRecord
    log_interval: int
    on_nan: str
    original: dict[str, float]
    epochs: list[dict[str, float]]

    def measure(self) -> Evaluation:
        """Measure the model as it is."""

    def take(self, evaluation: Evaluation) -> None:
        """Take what was measured as the end of an epoch, and keep the weights if they may be the ones to end with."""

    def close_epoch(self, name: str, epoch: int, num_epochs: int, evaluation: Evaluation, trainer: dict) -> None:
        """Write down what epoch `epoch`, from 1, of the stage `name` gave, and save with the trainer's own state."""

    def save(self, trainer: dict) -> None:
        """Write down everything that a resumed run needs, with the trainer's own state."""
