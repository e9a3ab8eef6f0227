"""Run constrained unlearning from loaders to chosen weights: two stages, stop criteria, rewind."""

import dataclasses
import math
from collections.abc import Callable, Iterable

import torch
from torch import nn

from data.streams import CyclingLoader, PairedLoader
from helper_functions.devices import Precision
from helper_functions.loop import Cost
from helper_functions.record import RunRecord
from models.reinitialise import reinitialised
from unlearning.arguments import UnlearnArgs
from unlearning.constrained import (
    OWN_RETAIN_LOSS,
    RETAIN_LOSSES,
    ForgetSubjectToRetain,
    Original,
    RetainSubjectToForget,
    TwoStreams,
)
from unlearning.examination import Examination, Findings
from unlearning.methods import METHODS, Case, check_method
from unlearning.stage import Stage, StageSettings
from unlearning.stopping import STOP_CRITERIA

# Part of the budget that training aims at; the rest is room for the noise of what it measures.
AIMED_SHARE = 0.8
# Objective that fine-tuning may leave on the forget data.
FINETUNE_TOLERANCE = 0.01
# Epochs whose distances to the target differ by less than this are told apart by validation accuracy.
DISTANCE_TOLERANCE = 0.02


@dataclasses.dataclass
class Unlearned:
    """What a run of unlearning gave.

    `epochs` holds each epoch's figures; `chosen` is the number, from 1, of the one rewound to, None where no epoch
    kept the budget: then the weights are those of the epoch that came nearest to keeping it. `held_out_auc` is a fresh
    discriminator's on held-out pairs, of the `original` and the `unlearned`; empty for methods without one.
    """

    epochs: list[dict[str, float]]
    chosen: int | None
    original: dict[str, float]
    target: str
    method: str
    events: list[dict[str, float]]
    cost: Cost
    held_out_auc: dict[str, float]


def is_better(candidate: dict[str, float], incumbent: dict[str, float]) -> bool:
    """Whether an epoch is the better one to rewind to.

    Feasible beats infeasible; of two infeasible ones the smaller fall wins; of two feasible ones the nearer to the
    target (a discriminator's first, then the forget set's own), where they are equally near (within 0.02) the one with
    the higher accuracy on validation images.
    """
    return _rank(candidate) <= _rank(incumbent)


def _rank(epoch: dict[str, float]) -> tuple[float, ...]:
    """The lower, the better; distances in steps of the tolerance, so that many small ones cannot add up."""
    if not epoch["constraint/feasible"]:
        return (1, epoch["constraint/fall_bound"])
    distances = [epoch[name] for name in ("forget/distance", "forget/own_distance")]
    distances = [value // DISTANCE_TOLERANCE if math.isfinite(value) else math.inf for value in distances]
    return (0, *distances, -epoch["validation/top1"])


class Unlearning:
    """One run of constrained unlearning on loaders.

    Args:
        model: the original; changed in place.
        loaders: `retain`, `forget`, `unseen` and `validation`.
        args: flags.
        target: name of the forget target.
        method: one of `METHODS`.
        precision: device and dtype.
        record: the run's record.
        seed: of the fixed retain sample.
        log_interval: steps between two transfers.
    """

    def __init__(
        self,
        model: nn.Module,
        loaders: dict[str, Iterable],
        args: UnlearnArgs,
        target: str,
        method: str,
        precision: Precision,
        record: RunRecord,
        seed: int = 0,
        log_interval: int = 50,
    ) -> None:
        check_method(method, args)
        self.model, self.args, self.precision, self.record = model, args, precision, record
        self.method, self.log_interval = method, log_interval
        self.cost = Cost()
        self.watch = self.cost.stopwatch()
        loss = OWN_RETAIN_LOSS[target] if args.retain_loss == "auto" else args.retain_loss
        self.rise = RETAIN_LOSSES[loss]
        self.examination = Examination(model, loaders, precision, seed, self.rise)
        self.streams = TwoStreams(model, precision, args.bn)
        self.frozen = Original(model, precision, args.bn)
        if args.stop_criterion == "confusion":
            fresh = self.examination.losses(reinitialised(model), "forget").mean().item()
        # After the copies, which a model that is listened to does not allow.
        self.target = METHODS[method](Case(target, model, self.examination, args, precision, seed))
        findings = self.examination.of_original(self.target, args.retain_budget)
        self.original = findings.figures | self.target.examine(model, *findings.forget)
        if args.stop_criterion == "confusion":
            self.original["reinitialised/forget_loss"] = fresh
        self.stop = self._stop_criterion()
        self.loader = PairedLoader(loaders["forget"], CyclingLoader(loaders["retain"]))
        self.epochs: list[dict[str, float]] = []
        self.chosen = 0
        self.chosen_weights: dict[str, torch.Tensor] = {}
        self.events: list[dict[str, float]] = []

    def _stop_criterion(self) -> Callable[[list[dict[str, float]], dict[str, float]], bool]:
        asked = self.args.stop_criterion
        if asked == "auto":
            asked = "discriminator" if "discriminator/auc" in self.original else "none"
        return STOP_CRITERIA[asked]

    def run(self, checkpoint: dict | None = None) -> Unlearned:
        """Both stages, then the rewind; a checkpoint of an earlier run is gone on with."""
        state = checkpoint if checkpoint is not None and checkpoint["name"] == "unlearning" else None
        if state is not None:
            self._restore(state)
        self.target.listen(self.model)
        try:
            for number, settings in enumerate([self._forget(), self._finetune()]):
                if settings.num_epochs == 0 or (state is not None and state["stage"] > number):
                    continue
                self._run_stage(number, settings, state if state is not None and state["stage"] == number else None)
        finally:
            self.target.close()
        self.model.load_state_dict(self.chosen_weights)
        self.model.eval()
        self.watch.lap(self.precision.device)
        chosen, auc = self.epochs[self.chosen], "discriminator/auc"
        return Unlearned(
            self.epochs, self.chosen + 1 if chosen["constraint/feasible"] else None, self.original, self.target.name,
            self.method, self.events, self.cost,
            {"original": self.original[auc], "unlearned": chosen[auc]} if auc in chosen else {},
        )  # fmt: skip

    def _forget(self) -> StageSettings:
        args, aim = self.args, AIMED_SHARE * self.args.retain_budget
        problem = ForgetSubjectToRetain(
            self.streams, self.frozen, self.rise, self.target, aim,
            args.solver, args.multiplier, args.penalty_coefficient,
        )  # fmt: skip
        return StageSettings("forget", problem, args.num_epochs, aim)

    def _finetune(self) -> StageSettings:
        args = self.args
        problem = RetainSubjectToForget(
            self.streams, self.target, FINETUNE_TOLERANCE, args.solver, args.multiplier, args.penalty_coefficient
        )
        return StageSettings("finetune", problem, args.finetune_num_epochs, None)

    def _run_stage(self, number: int, settings: StageSettings, state: dict | None) -> None:
        stage = Stage(
            settings, self.model, self.loader, self.args, self.record, self.cost,
            lambda: self._examine(stage), self.original["forget/distance"],
            lambda findings, epoch: self._on_epoch(stage, number, findings, epoch), self.log_interval,
        )  # fmt: skip
        if state is not None:
            if state["stopped"]:
                self.events += state["safeguard"]["events"]
                # The next stage goes on with what the target had learned.
                self.target.load_state_dict(state["solver"]["problem"]["target"])
                return
            stage.load_state_dict(state, state["epoch"])
        self.target.refresh(self.examination.losses(self.model, "unseen"))
        stage.run()
        self.events += stage.safeguard.events

    def _examine(self, stage: Stage) -> Findings:
        """Measure the model, and keep its weights if they are the best: the safeguard may go back from them."""
        findings = self.examination(self.model, self.target, self.args.retain_budget)
        figures = findings.figures
        figures |= self.target.examine(self.model, *findings.forget)
        if stage.went_back and stage.safeguard.holds_original:
            figures["constraint/feasible"] = 0.0  # the original kept its own budget; that is no result
        self.epochs.append(figures)
        if not self.chosen_weights or is_better(figures, self.epochs[self.chosen]):
            self.chosen = len(self.epochs) - 1
            self.chosen_weights = {name: value.detach().clone() for name, value in self.model.state_dict().items()}
        return findings

    def _on_epoch(self, stage: Stage, number: int, findings: Findings, epoch: int) -> bool:
        # The losses in hand are those of weights that the safeguard has gone back from.
        unseen = self.examination.losses(self.model, "unseen") if stage.went_back else findings.losses["unseen"]
        self.target.refresh(unseen)
        stop = number == 0 and self.stop(self.epochs, self.original)
        self.watch.lap(self.precision.device)
        self._write(stage, number, findings, epoch, stop)
        self.watch.skip()
        return stop

    def _write(self, stage: Stage, number: int, findings: Findings, epoch: int, stop: bool) -> None:
        figures, step = findings.figures, self.cost.gradient_steps
        self.record.scalars(figures, step)
        self.record.histograms({f"{name}/losses": findings.losses[name] for name in ("forget", "unseen")}, step)
        columns = (
            "retain/top1", "forget/top1", "unseen/top1", "validation/top1", "constraint/fall", "forget/distance",
            "discriminator/auc",
        )  # fmt: skip
        row = {name: figures[name] for name in columns if name in figures}
        self.record.print_row(stage.stage.name, epoch, stage.stage.num_epochs, {**row, "seconds": self.cost.seconds})
        self.record.save_checkpoint(
            {
                "name": "unlearning",
                "stage": number,
                "epoch": epoch,
                "stopped": stop,
                "step": step,
                "model": self.model.state_dict(),
                "epochs": self.epochs,
                "chosen": self.chosen,
                "chosen_weights": self.chosen_weights,
                "events": self.events,
                "cost": dataclasses.asdict(self.cost),
                "rng": torch.get_rng_state(),
                **stage.state_dict(),
            }
        )

    def _restore(self, state: dict) -> None:
        self.model.load_state_dict(state["model"])
        self.epochs, self.chosen, self.events = state["epochs"], state["chosen"], state["events"]
        self.chosen_weights = state["chosen_weights"]
        vars(self.cost).update(state["cost"])
        torch.set_rng_state(state["rng"])
        self.loader.load_state_dict(state["loader"])
