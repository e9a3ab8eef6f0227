"""One stage of a method in the loop: its problem, solver, schedule and safeguard, and what happens after an epoch."""

import dataclasses
import math
from collections.abc import Callable

import torch
from torch import nn

from data.loaders import TensorLoader
from data.streams import PairedLoader
from helper_functions.record import RunRecord
from helper_functions.training.distribution import say
from helper_functions.training.faults import WEIGHTS, Fault
from helper_functions.training.loop import Cost, Phase, run_phase
from helper_functions.training.passes import Means
from optimizer.nan_guard import MOST_REWINDS, stopped_by
from optimizer.problems import Problem
from optimizer.schedules import get_schedule
from optimizer.solver import Solver, grow_penalty
from optimizer.training import build_optimizer
from unlearning.arguments import BATCH_SIZE, UnlearnArgs
from unlearning.constrained.safeguard import Safeguard
from unlearning.evaluator import Findings

PENALTY_GROWTH = 2.0
# Steps between two looks of the safeguard, besides that at the end of each epoch. Not the pace of the logs: how often a
# run is written down does not change what it does.
PACE = 50
# Strict violation, in points or budgets, whichever is more, from which on a stage counts as running away.
RUNAWAY = 2.0
# Budgets from which on the end of an epoch counts as far outside: noise of that size is the step's, not the trade's.
FAR_OUTSIDE = 1.5
# Share of the original's distance from the target that counts as a long way.
FAR = 0.5
# Nats of retain loss that a point of accuracy is worth at least.
NATS_A_POINT = 0.01


@dataclasses.dataclass
class StageSettings:
    """What tells one stage from another.

    Args:
        name: in the record.
        problem: what is optimised.
        num_epochs: passes over the forget set.
        aim: accuracy points that the stage may lose on the way, None where accuracy is its objective.
    """

    name: str
    problem: Problem
    num_epochs: int
    aim: float | None


class Stage:
    """Runs one problem on the paired streams, epoch by epoch, and keeps it inside the budget.

    Args:
        stage: what is optimised, and for how long.
        model: changed in place.
        loader: forget and retain batches side by side.
        args: learning rates, schedule, budget.
        record: the run's record.
        cost: is added to.
        examine: measures the model; called after each epoch.
        start_distance: the original's distance from the target.
        on_epoch: told the figures of each epoch; returns whether to stop.
        log_interval: steps between two transfers.
        on_stop: told the place in an epoch that a signal ends, and the epochs before; saves everything.
        on_nan: `stop`, or `rewind` by the safeguard.
    """

    def __init__(
        self,
        stage: StageSettings,
        model: nn.Module,
        loader: PairedLoader,
        args: UnlearnArgs,
        record: RunRecord,
        cost: Cost,
        examine: Callable[[], Findings],
        start_distance: float,
        on_epoch: Callable[[Findings, int], bool],
        log_interval: int,
        on_stop: Callable[[dict, int], None] | None = None,
        on_nan: str = "rewind",
    ) -> None:
        self.stage, self.model, self.loader, self.args = stage, model, loader, args
        self.record, self.cost, self.log_interval = record, cost, log_interval
        self.examine, self.start_distance, self.report = examine, start_distance, on_epoch
        primal, dual_rate = build_optimizer(model, args), _dual_rate(args, loader)
        self.solver = Solver(stage.problem, primal, model, dual_rate, args.max_grad_norm)
        self.schedule = get_schedule(args.schedule, self.solver.primal, stage.num_epochs * len(loader))
        limit = math.inf if stage.aim is None else RUNAWAY * max(1.0, args.retain_budget)
        self.safeguard = Safeguard(model, self.solver, self.schedule, limit)
        self.heard = Means()
        self.on_stop, self.rewinds = on_stop, on_nan == "rewind"
        self.start_epoch, self.place = 0, None

    @property
    def _spoiled_often(self) -> bool:
        return sum(math.isnan(event["violation"]) for event in self.safeguard.events) > MOST_REWINDS

    @property
    def went_back(self) -> bool:
        """Whether the safeguard has gone back at this very step."""
        events = self.safeguard.events
        return bool(events) and events[-1]["step"] == self.cost.gradient_steps

    def run(self) -> None:
        """From the first epoch, or the one after the checkpoint, to the last."""
        self.stage.problem.streams.prepare(self.model)
        phase = Phase(
            self.stage.name, self.stage.num_epochs, self.loader, self._step, self._on_interval, self._on_epoch,
            on_fault=self._on_fault, on_stop=self.on_stop, log_interval=self.log_interval,
            shown=("constraint/violation", "constraint/multiplier", "forget/reached"), start_epoch=self.start_epoch,
            place=self.place, model=self.model, device=self.stage.problem.streams.precision.device, cost=self.cost,
        )  # fmt: skip
        run_phase(phase)

    def _step(self, batch: dict) -> dict[str, torch.Tensor]:
        figures = self.solver.step(batch)
        self.schedule.step()
        self.heard.add(figures)
        if len(self.heard.rows) == PACE:
            self._look(self.cost.gradient_steps + 1)
        return figures

    def _on_interval(self, figures: dict[str, float], step: int) -> None:
        figures["constraint/step_scale"] = self.safeguard.scale
        self.record.scalars({**figures, "learning_rate": self.schedule.get_last_lr()[0]}, step)

    def _on_fault(self, fault: Fault) -> bool:
        """The safeguard goes back when it looks, or now, and the pass goes on."""
        if self.rewinds and fault.figure == WEIGHTS:
            self._watch(math.nan, fault.step)
        if not self.rewinds or self._spoiled_often:
            rewinds = MOST_REWINDS if self.rewinds else 0
            raise stopped_by(fault, self.record, "lower --learning_rate", rewinds, may_rewind=not self.rewinds)
        return False

    def _look(self, step: int) -> None:
        """Judge the mean violation since the last look."""
        figures, spoiled = self.heard.transfer()
        if spoiled is None:
            self._watch(figures["constraint/violation"], step)
        # One value that is no number spoils all later ones, whichever figure shows it first. Where going back is of no
        # use, the loop hears of it and ends the run.
        elif self.rewinds and not self._spoiled_often:
            self._watch(math.nan, step)

    def _watch(self, violation: float, step: int) -> bool:
        went_back = self.safeguard.watch(violation, step)
        if went_back:
            self.heard = Means()
            self._say_so(violation, step)
        return went_back

    def _say_so(self, violation: float, step: int) -> None:
        scale = self.safeguard.scale
        self.record.scalars({"constraint/safeguard": scale}, step)
        say(f"  step {step}: {violation:.1f} points over; back to the last good state, step size x {scale:g}")

    def _on_epoch(self, means: dict[str, float], epoch: int) -> bool:
        if self.heard.rows:
            self._look(self.cost.gradient_steps)
        findings = self.examine()
        figures = findings.figures
        if not (self.rewinds or math.isfinite(figures["retain/loss"])):
            batches = len(self.loader)
            fault = Fault("retain/loss", self.stage.name, epoch, batches, batches, self.cost.gradient_steps, {})
            raise stopped_by(fault, self.record, "lower --learning_rate")
        if self.stage.aim is not None:
            self._adapt(figures)
        stop = self.report(findings, epoch)
        self.stage.problem.streams.prepare(self.model)
        return stop

    def _adapt(self, figures: dict[str, float]) -> None:
        """Penalty, margin, step size, multiplier and the last good state from what was measured."""
        for constraint in self.stage.problem.constraints():
            grow_penalty(constraint, figures["constraint/fall_bound"] - self.args.retain_budget, PENALTY_GROWTH)
        self.stage.problem.refit_margin(figures["constraint/fall"], figures["retain/rise"])
        if not figures["constraint/feasible"]:
            violation = figures["constraint/fall"] - self.stage.aim
            sound = math.isfinite(figures["retain/loss"])
            step = self.cost.gradient_steps
            went_back = self._watch(violation if sound else math.nan, step)
            far_outside = figures["constraint/fall"] > FAR_OUTSIDE * self.args.retain_budget
            if not went_back and far_outside and self.safeguard.stray(violation, step):
                self._say_so(violation, step)
            return
        self.safeguard.keep()
        if figures["constraint/fall"] >= self.stage.aim / 2:
            return
        # With accuracy left to spend and a long way to go, it is the step that holds the run up; unless the weights did
        # move, towards lower retain loss: then the multiplier is too large still. It falls by itself, but slowly, with
        # as little as there is to spend.
        if figures["retain/rise"] < -NATS_A_POINT * self.stage.aim:
            if self.stage.problem.target.to_the_last:
                self.safeguard.ease()
        elif figures["forget/distance"] > FAR * self.start_distance:
            self.safeguard.hurry()

    def state_dict(self) -> dict:
        """What a resumed run needs."""
        return {
            "solver": self.solver.full_state(),
            "schedule": self.schedule.state_dict(),
            "safeguard": self.safeguard.state_dict(),
            "loader": self.loader.state_dict(),
            "heard": self.heard.state_dict(),
        }

    def load_state_dict(self, state: dict, epoch: int, place: dict | None = None) -> None:
        """Inverse of `state_dict`; goes on after `epoch`, at a place in the next one."""
        self.solver.load_full_state(state["solver"])
        self.schedule.load_state_dict(state["schedule"])
        self.safeguard.load_state_dict(state["safeguard"])
        self.loader.load_state_dict(state["loader"])
        if "heard" in state:  # a checkpoint of before the safeguard had its own pace has none
            self.heard.load_state_dict(state["heard"], self.stage.problem.streams.precision.device)
        self.start_epoch, self.place = epoch, place


def _dual_rate(args: UnlearnArgs, loader: PairedLoader) -> float:
    """The multiplier's step: in proportion to the batch, so that its size does not change the trade.

    Where a smaller one follows from a small forget set, the pass has fewer images and as many steps, whose pace stays.
    """
    own = getattr(loader.leader, "batch_size", None) or BATCH_SIZE
    foreign = not isinstance(loader.leader, TensorLoader)
    share = own / BATCH_SIZE
    return args.dual_learning_rate * (share if args.batch_size or foreign else max(1.0, share))
