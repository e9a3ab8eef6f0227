"""Forward passes of the model and of the original on the streams, and what the retain loss compares them by."""

import copy
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.loaders import TensorLoader
from helper_functions.training.batch_norm import lent_statistics, no_running_stats_update
from helper_functions.training.devices import Precision
from helper_functions.training.spread import spread


class TwoStreams:
    """Forward passes of one model on a forget and a retain batch, in the batch-norm mode that was asked for.

    `frozen` uses the running statistics, as evaluation does, so that what training sees is what the budget is judged
    by, and one pass serves both streams. `train` normalises each stream by its own batch, `retain` both by the retain
    batch: by itself, a batch of one class would lose what tells that class from others. In both, each stream has a pass
    of its own, and the forget stream moves no running statistics.
    """

    def __init__(self, model: nn.Module, precision: Precision, batch_norm: str) -> None:
        self.model = model
        self.forward_pass = spread(model, precision.compile_mode)
        self.precision = precision
        self.batch_norm = batch_norm

    def prepare(self, model: nn.Module) -> None:
        """Put the model into the mode that was asked for; frozen, dropout is off, as in the original."""
        model.train(self.batch_norm != "frozen")

    def measure(
        self, see: Callable[[Tensor, Tensor], Tensor], view: Iterable[tuple[Tensor, Tensor]], retain: Tensor, size: int,
        seed: int,
    ) -> Tensor:  # fmt: skip
        """What `see` gives of a view's logits and labels, `[n, ...]`, passed as batches of `size` forget images are.

        Without gradient. A view that is no `TensorLoader` keeps its batches.
        """
        device, order, found = self.precision.device, None, []
        if isinstance(view, TensorLoader):
            # Images of one class may stand side by side.
            order = torch.randperm(view.num_images, generator=torch.Generator().manual_seed(seed))
            view = view.in_order(view.indices[order], size)
        with torch.no_grad(), no_running_stats_update(self.model), self.precision.autocast(), (
            self._beside(retain) if self.batch_norm == "retain" else nullcontext()
        ):
            for inputs, labels in view:
                logits = self.forward_pass(inputs.to(device)).float()
                found.append(see(logits, labels.to(device)))
        seen = torch.cat(found)
        return seen if order is None else seen[order.argsort().to(device)]

    def __call__(self, forget: Tensor, retain: Tensor) -> tuple[Tensor, Tensor]:
        """Float32 logits of the forget inputs and of the retain inputs."""
        with self.precision.autocast():
            if self.batch_norm == "frozen":
                logits = self.forward_pass(torch.cat([forget, retain])).float()
                return logits[: len(forget)], logits[len(forget) :]
            with self._beside(retain) as retain_logits:
                return self.forward_pass(forget).float(), retain_logits

    @contextmanager
    def _beside(self, retain: Tensor) -> Iterator[Tensor]:
        """The retain logits; inside, passes are those of forget images."""
        if self.batch_norm == "retain":
            with lent_statistics(self.model) as lend:
                logits = self.forward_pass(retain).float()
                lend()
                yield logits
        else:
            logits = self.forward_pass(retain).float()
            with no_running_stats_update(self.model):
                yield logits


class OriginalAnswers:
    """The frozen original model, asked for its answers on each retain batch in a pass without gradient.

    It is put into the same batch-norm mode as the model, so that the two differ in their weights alone.
    """

    def __init__(self, model: nn.Module, precision: Precision, batch_norm: str) -> None:
        self.model = copy.deepcopy(model).eval().requires_grad_(False)
        if batch_norm == "train":
            self.model.train()
        self.forward_pass = spread(self.model, precision.compile_mode)
        self.precision = precision

    def __call__(self, inputs: Tensor) -> Tensor:
        """Float32 logits `[B, K]`."""
        with torch.no_grad(), no_running_stats_update(self.model), self.precision.autocast():
            return self.forward_pass(inputs).float()


def label_loss_gap(original_logits: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy on labels `[B]`, less the original's on the same inputs, in nats, 0-d; logits `[B, K]`."""
    return F.cross_entropy(logits, labels) - F.cross_entropy(original_logits, labels)


def original_divergence(original_logits: Tensor, logits: Tensor, labels: Tensor) -> Tensor:
    """Mean cross-entropy against the original's own answers, less the original's: KL(original || model), in nats, 0-d.

    Arguments as for `label_loss_gap`; the labels play no part.
    """
    return F.kl_div(logits.log_softmax(1), original_logits.log_softmax(1), log_target=True, reduction="batchmean")


# Which answers the retain loss compares with. The original's are the better record of what is to be kept: its gradient
# is zero there, so that nothing of the budget is spent before anything is forgotten. But where labels or classes have
# to go, the original's answers are part of what is wrong.
RETAIN_LOSSES = {"labels": label_loss_gap, "original": original_divergence}
OWN_RETAIN_LOSS = {"unseen": "original", "zero": "labels", "chance": "labels"}
