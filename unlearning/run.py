"""One run of a method: measure, train, write down, keep checkpoints, end with the chosen weights."""

import dataclasses
from collections.abc import Iterable, Sequence

from torch import nn

from helper_functions.record import RunRecord
from helper_functions.training.devices import Precision, generator_states, restore_generators
from helper_functions.training.distribution import from_main
from helper_functions.training.loop import Cost
from models.trainable import set_trainable
from unlearning.arguments import MethodArgs
from unlearning.choice import BestFeasible, LastEpoch, ScrubRewind
from unlearning.constrained.line_search import Weights, snapshot
from unlearning.context import MethodContext, RunListener
from unlearning.dial import FINER_SHARES, SHARES, Dial
from unlearning.evaluator import Evaluation, Evaluator
from unlearning.methods import check_classes, get_method
from unlearning.methods.method import ClassCounts
from unlearning.methods.own import label_of
from unlearning.streams import OWN_RETAIN_LOSS, RETAIN_LOSSES

COLUMNS = (
    "retain/top1", "forget/top1", "unseen/top1", "validation/top1", "constraint/fall", "held_out/fall",
    "forget/distance", "discriminator/auc",
)  # fmt: skip


@dataclasses.dataclass
class Unlearned:
    """What a run of unlearning gave.

    `epochs` holds each epoch's figures; `chosen` is the number, from 1, of the one that was chosen, None where no epoch
    of a constrained method kept the budget: then it is the one that came nearest to keeping it. `dial` are the points
    measured on the line from the original to it, on which the model's weights lie at `share`, with `figures`. `events`
    are the passes that the line search shortened or lengthened. `multiplier` is the last one while forgetting; None for
    methods without one. `held_out_auc` is a fresh discriminator's on held-out pairs, of the `original` and the
    `unlearned`; empty for methods without one.
    """

    epochs: list[dict[str, float]]
    figures: dict[str, float]
    chosen: int | None
    original: dict[str, float]
    target: str
    method: str
    events: list[dict[str, float]]
    cost: Cost
    multiplier: float | None
    held_out_auc: dict[str, float]
    dial: list[dict[str, float]] = dataclasses.field(default_factory=list)
    share: float = 1.0


class UnlearningRun(RunListener):
    """One run of a method on loaders; listens to the method's trainer.

    Args:
        model: the original; changed in place.
        loaders: `retain`, `forget`, `unseen` and `validation`.
        args: flags.
        target: name of the forget target.
        method: as of --method.
        precision: device and dtype.
        record: the run's record.
        seed: of the fixed retain sample, and of what the method draws.
        log_interval: steps between two transfers.
        on_nan: `stop` or `rewind`; None is as for --on_nan.
    """

    def __init__(
        self, model: nn.Module, loaders: dict[str, Iterable], args: MethodArgs, target: str, method: str,
        precision: Precision, record: RunRecord, seed: int = 0, log_interval: int = 50, on_nan: str | None = None,
    ) -> None:  # fmt: skip
        set_trainable(model, args.trainable)
        self.model, self.args, self.record, self.log_interval = model, args, record, log_interval
        self.name, self.asked, self.method = label_of(method), method, get_method(method)
        self.on_nan = on_nan or ("rewind" if self.method.constrained else "stop")
        self.cost = Cost()
        self.watch = self.cost.stopwatch(precision.device)
        retain_loss = OWN_RETAIN_LOSS[target] if args.retain_loss == "auto" else args.retain_loss
        self.evaluator = Evaluator(model, loaders, precision, seed, RETAIN_LOSSES[retain_loss])
        check_classes(method, target, ClassCounts(*self.evaluator.class_counts()))
        self.context = MethodContext(target, model, loaders, self.evaluator, args, precision, seed, self.cost)
        self.original_weights = snapshot(model)
        self.trainer = self.method.trainer(self.context)
        self.target = self.trainer.target
        outputs = self.evaluator.original_outputs
        self.original = self._figures(self.evaluator.of_outputs(outputs, self.target, args.retain_budget))
        own = BestFeasible(self.target.tolerances) if self.method.constrained else LastEpoch()
        self.choice = ScrubRewind(record) if args.rewind else own
        self.epochs: list[dict[str, float]] = []

    def run(self, checkpoint: dict | None = None) -> Unlearned:
        """All of the method's epochs, then the choice; a checkpoint of an earlier run is continued.

        Raises NotFinite where a figure or a weight is not finite, Stopped after a signal, at which everything is saved.
        """
        state = checkpoint if checkpoint is not None and checkpoint["name"] == "unlearning" else None
        if state is not None:
            self._restore(state)
        self.target.attach(self.model)
        try:
            self.trainer.run(self, None if state is None else state["trainer"])
        finally:
            self.target.detach()
        place, weights = self.choice.settle(self.epochs)
        self.model.load_state_dict(weights)
        outcome = Unlearned(
            self.epochs, self.epochs[place], place + 1, self.original | self.trainer.original, self.target.name,
            self.asked, self.trainer.events, self.cost, self.trainer.multiplier, {},
        )  # fmt: skip
        if self.method.constrained and self.trainer.moved:
            self._settle_on_line(outcome, weights, SHARES, {1.0: outcome.figures})
        return self._ended(outcome)

    def turn(self, weights: Weights) -> Unlearned:
        """Without a gradient step: the best point within the budget of the line from the original to `weights`."""
        outcome = Unlearned([], {}, 1, self.original, self.target.name, self.asked, [], self.cost, None, {})
        self._settle_on_line(outcome, weights, FINER_SHARES, {})
        outcome.epochs.append(outcome.figures)
        return self._ended(outcome)

    def _settle_on_line(
        self, outcome: Unlearned, weights: Weights, shares: Sequence[float], known: dict[float, dict[str, float]]
    ) -> None:
        """Go to the best of some shares of the line from the original to `weights`; `outcome` takes what was measured.

        `known` are figures by share.
        """
        known = {0.0: self.original, **known}
        dial = Dial(self.model, self.original_weights, weights, lambda: self.measure().figures, known)
        outcome.share = dial.settle(shares, self.target.tolerances)
        outcome.dial, outcome.figures = dial.points(), dial.known[outcome.share]

    def _ended(self, outcome: Unlearned) -> Unlearned:
        self.model.eval()
        self.watch.lap()
        final = outcome.figures
        if self.method.constrained and not final["constraint/feasible"]:
            outcome.chosen = None
        if (auc := "discriminator/auc") in final:
            outcome.held_out_auc = {"original": self.original[auc], "unlearned": final[auc]}
        return outcome

    def measure(self) -> Evaluation:
        evaluation = self.evaluator(self.model, self.target, self.args.retain_budget)
        evaluation.figures = self._figures(evaluation)
        return evaluation

    def take(self, evaluation: Evaluation) -> None:
        self.epochs.append(evaluation.figures)
        self.choice.consider(self.epochs, self.model)

    def _figures(self, evaluation: Evaluation) -> dict[str, float]:
        """With the target's own; the first rank's on all ranks, which could decide differently by a rounding error."""
        figures = evaluation.figures | self.target.examine(self.model, *evaluation.forget)
        return from_main(lambda: figures)

    def close_epoch(self, name: str, epoch: int, num_epochs: int, evaluation: Evaluation, trainer: dict) -> None:
        self.watch.lap()
        figures, step = evaluation.figures, self.cost.gradient_steps
        self.record.scalars(figures, step)
        self.record.histograms({f"{name}/losses": evaluation.losses[name] for name in ("forget", "unseen")}, step)
        row = {column: figures[column] for column in COLUMNS if column in figures}
        self.record.print_row(name, epoch, num_epochs, {**row, "seconds": self.cost.seconds})
        # Writing does not count as the method's time.
        self.watch.skip()
        self.save(trainer)
        self.watch.skip()

    def save(self, trainer: dict) -> None:
        self.watch.lap()
        self.record.save_checkpoint(
            {
                "name": "unlearning",
                "step": self.cost.gradient_steps,
                "model": self.model.state_dict(),
                "epochs": self.epochs,
                "choice": self.choice.state_dict(),
                "cost": dataclasses.asdict(self.cost),
                "generators": generator_states(),
                "context": self.context.state_dict(),
                "trainer": trainer,
            }
        )

    def _restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.epochs = state["epochs"]
        self.choice.load_state_dict(state["choice"])
        vars(self.cost).update(state["cost"])
        restore_generators(state["generators"])
        self.context.load_state_dict(state["context"])
