"""The trainer that the published methods share, and the specification that each of them gives it.

A specification says what a method does to the weights at once and which passes an epoch has, each with a loss of its
own. One optimizer and one schedule serve all passes.
"""

import dataclasses
import functools
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

from helper_functions.training.distribution import from_main
from helper_functions.training.loop import LoopConfig, Trainer, run_loop
from helper_functions.training.passes import WEIGHTS, Fault, all_finite
from optimizer.nan_guard import NanGuard, stopped_by
from optimizer.optimizers import build_optimizer
from optimizer.schedules import get_schedule, rescale_schedule
from optimizer.solver import Descent
from unlearning.constrained.targets import own_target
from unlearning.context import MethodContext, RunListener

# Takes the batches of a pass by their streams' names, gives the loss, 0-d; or it and further figures by name.
Loss = Callable[..., Tensor | dict[str, Tensor]]


@dataclasses.dataclass(eq=False)
class LossPass:
    """One pass over a stream of the context.

    Args:
        name: in the record.
        batches: from `MethodContext.stream` or `MethodContext.pairs`, opened once for all epochs.
        loss: of one batch of each of its streams, or of what `answers` made of it; 0-d, alone or as `loss` among
            further 0-d figures.
        answers: turns the batches of a step, by their streams' names, into what the loss takes: draws, and answers of
            other models. Once a step and without gradient, where SAM takes the loss twice.
        begin: called before each time that the pass begins; what it gives, plain values, is `found` until the next
            time, and in a run that is resumed in the middle of the pass.
    """

    name: str
    batches: Iterable[dict]
    loss: Loss
    answers: Callable[[dict], dict] = lambda batch: batch
    begin: Callable[[], dict[str, object]] = dict
    found: dict[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class BaselineSpec:
    """What a published method does. Building it may look at the model, and must not change it.

    Args:
        passes: those of an epoch, by its number from 0; None for a method that does all at once.
        begin: changes weights at once, before the first epoch; called in a run that is not resumed.
        frozen: modules whose own weights and running statistics, not those of their children, stay as they are from
            then on.
        mask: bool tensors by parameter name: the weights that may move; all of a parameter that is not in it.
        done: asked after each epoch; True ends the run.
    """

    passes: Callable[[int], list[LossPass]] | None = None
    begin: Callable[[], None] = lambda: None
    frozen: tuple[nn.Module, ...] = ()
    mask: dict[str, Tensor] = dataclasses.field(default_factory=dict)
    done: Callable[[], bool] = lambda: False


class BaselineTrainer(Trainer):
    """Runs the specification of a published method, which `build_spec` gives."""

    def __init__(self, context: MethodContext, build_spec: Callable[[MethodContext], BaselineSpec]) -> None:
        self.context, self.args = context, context.args
        # No published method is steered by it: the distance of its forget set is measured from it.
        self.target = own_target(context)
        self.spec = build_spec(context)
        self.original: dict[str, float] = {}
        self.events: list[dict[str, float]] = []
        self.multiplier = None

    def run(self, listener: RunListener, state: dict | None) -> None:
        """What is done at once, then all epochs, or what a checkpoint's state leaves of them."""
        self.listener = listener
        if state is None:
            self.spec.begin()
        if self.spec.passes is None:
            if state is None:
                if not all_finite(self.context.model):
                    fault = Fault(WEIGHTS, listener.name, 1, 0, 0, 0, {})
                    raise stopped_by(fault, listener.record, "give the method milder flags", may_rewind=False)
                self._close_epoch(1, 1, {"epoch": 1})
            return
        held = [p for module in self.spec.frozen for p in module.parameters(recurse=False) if p.requires_grad]
        for parameter in held:
            parameter.requires_grad_(False)
        try:
            self._set_up()
            if state is not None:
                self._restore(state)
            run_loop(self, self.config)
        finally:
            for parameter in held:
                parameter.requires_grad_(True)

    def planned(self) -> list[tuple[str, int, int, int]]:
        """Name, passes over streams, gradient steps and images in them; empty where all is done at once."""
        if self.spec.passes is None:
            return []
        parts = [part.batches for epoch in range(self.args.num_epochs) for part in self.spec.passes(epoch)]
        return [("unlearn", len(parts), sum(map(len, parts)), sum(part.num_images for part in parts))]

    def _set_up(self) -> None:
        context, args, listener = self.context, self.args, self.listener
        self.descent = Descent(build_optimizer(context.model, args), context.model, args.max_grad_norm)
        lengths = [sum(len(part.batches) for part in self.spec.passes(epoch)) for epoch in range(args.num_epochs)]
        tenths = [sum(lengths[:epoch]) for epoch in args.decay_epochs or [] if epoch < args.num_epochs]
        self.schedule = get_schedule(args.schedule, self.descent.optimizer, sum(lengths), tenths=tenths)
        weights = {name: (value, value.detach().clone()) for name, value in context.model.named_parameters()}
        self.held = [(*weights[name], moves) for name, moves in self.spec.mask.items()]
        stepping = {"optimizer": self.descent.optimizer, "schedule": self.schedule}
        rescale = functools.partial(rescale_schedule, self.schedule)
        self.guard = NanGuard(
            listener.on_nan, {"model": context.model, "context": context, **stepping}, rescale, listener.record
        )
        self.resumed = {"guard": self.guard, **stepping}
        self.config = LoopConfig(
            args.num_epochs, context.precision.device, listener.log_interval, ("unlearning/loss",),
            model=context.model, cost=context.cost,
        )  # fmt: skip
        self.found: dict[str, float] = {}

    def passes(self, epoch: int) -> list[tuple[str, Iterable[dict]]]:
        """Names and batches of the passes of an epoch."""
        self.parts = self.spec.passes(epoch)
        return [(part.name, part.batches) for part in self.parts]

    def on_pass(self, epoch: int, number: int, resumed: bool) -> None:
        """Begin a pass; the model's mode is as --bn asks for, that of frozen modules themselves is eval."""
        self.part = self.parts[number]
        self.part.found = self.found if resumed else self.part.begin()
        self.context.streams.prepare(self.context.model)
        for module in self.spec.frozen:
            module.training = False
        self.guard.keep()

    def step(self, batch: dict) -> dict[str, Tensor]:
        """One gradient step on the loss of the pass; gives the figures to log."""
        with torch.no_grad():
            batch = self.part.answers(batch)
        figures = self._figures(batch)
        norm = self.descent.step(figures["loss"], lambda: self._figures(batch)["loss"])
        with torch.no_grad():
            # Whatever momentum and weight decay make of the weights that the mask holds.
            for parameter, value, moves in self.held:
                parameter.copy_(torch.where(moves, parameter, value))
        self.schedule.step()
        return {**{f"unlearning/{name}": value.detach() for name, value in figures.items()}, "gradient/norm": norm}

    def _figures(self, batch: dict) -> dict[str, Tensor]:
        found = self.part.loss(**batch)
        return found if isinstance(found, dict) else {"loss": found}

    def on_interval(self, figures: dict[str, float], step: int) -> None:
        """Write down the means since the last interval."""
        self.listener.record.scalars({**figures, "learning_rate": self.schedule.get_last_lr()[0]}, step)

    def on_epoch(self, means: dict[str, float], epoch: int) -> bool:
        """Measure the model and write down what was found."""
        # The first rank's, since ranks could decide differently by a rounding error.
        done = self.spec.done()
        stopped = from_main(lambda: done)
        self._close_epoch(epoch, self.config.num_epochs, {**self._state(epoch), "stopped": stopped})
        return stopped

    def _close_epoch(self, epoch: int, num_epochs: int, state: dict) -> None:
        evaluation = self.listener.measure()
        self.listener.take(evaluation)
        self.listener.close_epoch(self.listener.name, epoch, num_epochs, evaluation, state)

    def on_fault(self, fault: Fault) -> bool:
        """Stop, or go back to where the pass was entered."""
        return self.guard.on_fault(fault)

    def on_stop(self, place: dict, epoch: int) -> None:
        """Save everything in the middle of an epoch."""
        self.listener.save(self._state(epoch, place))

    def _state(self, epoch: int, place: dict | None = None) -> dict:
        """What a resumed run needs after `epoch`, and at a place in the next one."""
        parts = {name: part.state_dict() for name, part in self.resumed.items()}
        return {"epoch": epoch, "place": place, "found": {} if place is None else self.part.found, **parts}

    def _restore(self, state: dict) -> None:
        self.config.start_epoch, self.config.place, self.found = state["epoch"], state["place"], state["found"]
        if state.get("stopped"):
            self.config.num_epochs = state["epoch"]
        for name, part in self.resumed.items():
            part.load_state_dict(state[name])
