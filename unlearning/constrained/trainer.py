"""Constrained unlearning, in one place.

Stage 1 forgets subject to the retain budget, stage 2 fine-tunes subject to staying forgotten (`problem`). Both take the
same steps. One forward pass over a batch of forget and a batch of retain images gives the objective f, the
differentiable violation g and the strict violation h of the constraint; then the multiplier moves, then the weights:

    λ ← [λ + η_λ max(λ, 1) h(θ)]₊
    θ ← θ − η ∇[f(θ) + λ g(θ)]

After each pass of stage 1 the model is measured along the line that the weights have moved on, and goes on from the
farthest point within the budget that pays (`line_search`). Stage 2 is one restart of the learning rate, which decays to
nothing.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

from torch import Tensor

from helper_functions.training.loop import LoopConfig, Trainer, run_loop
from helper_functions.training.passes import Fault
from models.weights import reinitialised
from optimizer.nan_guard import NanGuard
from optimizer.optimizers import build_optimizer
from optimizer.schedules import get_schedule, rescale_schedule
from optimizer.solver import Solver, lagrangian
from unlearning.arguments import FINETUNE_RATE, MET_FINETUNE_RATE, stage_epochs
from unlearning.constrained.line_search import SHORTEST, Line, Weights, snapshot
from unlearning.constrained.problem import ForgetSubjectToRetain, RetainSubjectToForget, dual_rate
from unlearning.constrained.stopping import is_met
from unlearning.constrained.targets import Target
from unlearning.context import MethodContext, RunListener
from unlearning.evaluator import Evaluation, keeps_budget, met_before
from unlearning.streams import OriginalAnswers, TwoStreams

STAGES = ("forget", "finetune")
# How much more the constraint costs after a pass that broke the budget.
RAISE = 2.0
# Shares of the line from the original that are tried where fine-tuning ends outside of the budget.
PULLED_BACK = (15 / 16, 7 / 8, 3 / 4, 1 / 2)
# Share of the original's distance from the target that counts as a long way.
FAR = 0.5
# Stage 2, where the rate is restarted: decay and schedule as the original was trained.
FINETUNING = {
    "weight_decay": 5e-4, "schedule": "cosine", "max_grad_norm": 2.0, "multiplier": 0.1, "penalty_coefficient": 0.1,
}  # fmt: skip
FINETUNING_DUAL_RATE = 0.01
# Steps of stage 2 between two measurements of where unseen images are.
REFRESH_INTERVAL = 100


class ConstrainedTrainer(Trainer):
    """The two stages of constrained unlearning; methods differ by the target alone, which `build_target` gives."""

    def __init__(self, context: MethodContext, build_target: Callable[[MethodContext], Target]) -> None:
        self.context, self.args = context, context.args
        self.original_answers = OriginalAnswers(context.model, context.precision, self.args.bn)
        self.stage_batches = (context.pairs("forget"), context.pairs("retain", "finetune_"))
        self.original: dict[str, float] = {}
        if self.args.stop_criterion == "confusion":
            fresh = context.evaluator.losses(reinitialised(context.model), "forget").mean().item()
            self.original["reinitialised/forget_loss"] = fresh
        # After the copies, which a model with hooks does not allow.
        self.target = build_target(context)
        self.events: list[dict[str, float]] = []
        self.multiplier: float | None = None
        # Whether any pass has been kept.
        self.moved = False
        self.since_refresh = 0
        # Weights at the beginning of the pass.
        self.start: Weights = {}

    # A run: two stages, each of them the loop over its epochs.

    def run(self, listener: RunListener, state: dict | None) -> None:
        """Both stages, or what a checkpoint's state leaves of them."""
        self.listener = listener
        self.original |= listener.original
        if state is None:
            self._refresh_target(self.context.evaluator.original_losses)
        for number, num_epochs in enumerate(self.stage_epochs):
            if num_epochs == 0 or (state is not None and state["stage"] > number):
                continue
            self.set_up_stage(number, num_epochs)
            if state is not None and state["stage"] == number:
                self.restore(state)
            run_loop(self, self.config)

    @property
    def stage_epochs(self) -> tuple[int, int]:
        """Passes of each stage."""
        return stage_epochs(self.args, self.context.target)

    def planned(self) -> list[tuple[str, int, int, int]]:
        """Of each stage its name, passes, gradient steps and images in them."""
        stages = zip(STAGES, self.stage_epochs, self.stage_batches, strict=True)
        return [(name, n, n * len(batches), n * batches.num_images) for name, n, batches in stages if n]

    def set_up_stage(self, number: int, num_epochs: int) -> None:
        """Problem, solver, schedule and line search of stage 1 (number 0) or 2 (number 1)."""
        context, args = self.context, self.args
        self.stage, self.name, self.batches = number, STAGES[number], self.stage_batches[number]
        if number == 0:
            self.streams, gap = context.streams, context.evaluator.retain_loss_gap
            self.problem = ForgetSubjectToRetain(self.streams, self.target, args, self.original_answers, gap)
        else:
            rate = args.finetune_learning_rate or (MET_FINETUNE_RATE if self._was_at_target() else FINETUNE_RATE)
            args = dataclasses.replace(args, learning_rate=rate, **FINETUNING)
            # A batch normalised by itself loses what tells its classes from others, unless it is a mixture of all.
            mode = "train" if context.evaluator.is_mixture() else "retain"
            self.streams = TwoStreams(context.model, context.precision, mode)
            self.problem = RetainSubjectToForget(self.streams, self.target, args)
        optimizer = build_optimizer(context.model, args)
        rate, least = (FINETUNING_DUAL_RATE, args.multiplier) if number else (dual_rate(args, self.batches), 1.0)
        self.solver = Solver(self.problem, optimizer, context.model, rate, args.max_grad_norm, least)
        self.schedule = get_schedule(args.schedule, optimizer, num_epochs * len(self.batches))
        stepping = {"solver": self.solver, "schedule": self.schedule}
        rescale = functools.partial(rescale_schedule, self.schedule)
        self.guard = NanGuard(
            self.listener.on_nan, {"model": context.model, **stepping}, rescale, self.listener.record
        )
        self.parts = {**stepping, "guard": self.guard}
        shown = (*(f"{self.problem.constrains}/{name}" for name in ("violation", "multiplier")), "forget/reached")
        self.config = LoopConfig(
            num_epochs, context.precision.device, self.listener.log_interval, shown, model=context.model,
            cost=context.cost,
        )  # fmt: skip

    def on_pass(self, epoch: int, number: int, resumed: bool) -> None:
        """Put the model into the mode that it learns in, which measuring it has left."""
        self.streams.prepare(self.context.model)
        if not resumed:
            self.start = snapshot(self.context.model)
            self.solver.snapshot()
            self.since_refresh = 0
        self.guard.keep()

    # A step: forward, dual update, primal update.

    def step(self, batch: dict) -> dict[str, Tensor]:
        """One gradient step on a forget and a retain batch; gives the figures to log."""
        problem, solver = self.problem, self.solver
        if self.stage == 1 and self.since_refresh % REFRESH_INTERVAL == 0:
            self._refresh_beside(batch["retain"][0])
        self.since_refresh += 1
        state = problem.compute_cmp_state(**batch)  # f(θ), g(θ) and h(θ), from one forward pass
        solver.dual_step(state)  # λ ← [λ + η_λ max(λ, 1) h(θ)]₊
        norm = solver.step(  # θ ← θ − η ∇[f(θ) + λ g(θ)]
            lagrangian(state), lambda: lagrangian(problem.compute_cmp_state(**batch))
        )
        problem.commit(state)
        self.schedule.step()
        return {**state.misc, "gradient/norm": norm}

    # What is measured after a pass, and decided from it.

    def on_epoch(self, means: dict[str, float], epoch: int) -> bool:
        """Measure the model, go on from the best point of the line, write it down; True where a criterion ends it."""
        if self.stage == 0:
            evaluation = self._search()
        else:
            evaluation = self.listener.measure()
            if epoch == self.config.num_epochs:
                evaluation = self._pull_back(evaluation)
        self.listener.take(evaluation)
        if self.stage == 0:
            self._refresh_target(evaluation.losses)
        else:
            self.moved = True
        stop = self.stage == 0 and is_met(self.args.stop_criterion, self.listener.epochs, self.original)
        self.listener.close_epoch(self.name, epoch, self.config.num_epochs, evaluation, self.state(epoch, stopped=stop))
        return stop

    def _search(self) -> Evaluation:
        """Move to where the line search ends; step size, price and margin follow from what it found."""
        aim, far = self.problem.aim, FAR * self.original["forget/distance"]
        share, evaluation = self._line(self.start).search(
            self._keeps_retain_budget,
            lambda found: found.figures["constraint/fall"] < aim / 2 and _distance(found) > far,
            _distance,
        )
        multipliers = self.solver.kept if share < 1 else self.solver.multipliers()
        self.multiplier = next((value.item() for value in multipliers), None)
        if share < 1:
            self.solver.restart(RAISE)
        if share != 1:
            rescale_schedule(self.schedule, share or SHORTEST / 2)
            self.events.append({"step": self.context.cost.gradient_steps, "share": share})
        self.listener.record.scalars({"constraint/share": share}, self.context.cost.gradient_steps)
        self.moved |= share > 0
        if not self.moved:
            # The original kept its own budget; that is no result.
            evaluation.figures["constraint/feasible"] = 0.0
        self.problem.refit_margin(evaluation.figures["constraint/fall"], evaluation.figures["retain/loss_gap"])
        return evaluation

    def _pull_back(self, evaluation: Evaluation) -> Evaluation:
        """From the end of fine-tuning towards the original, until the budget is kept."""
        line = self._line(self.original_answers.model.state_dict(), {1.0: evaluation})
        share, evaluation = line.first((1.0, *PULLED_BACK), lambda found: found.figures["constraint/feasible"])
        if share < 1:
            self.events.append({"step": self.context.cost.gradient_steps, "share": share})
        return evaluation

    def _line(self, start: Weights, known: dict[float, Evaluation] | None = None) -> Line:
        model = self.context.model
        return Line(model, start, snapshot(model), self.listener.measure, known)

    def _was_at_target(self) -> bool:
        """Whether the original counts as forgotten, and is no farther from its target than chance explains."""
        distances = self.original["forget/distance"], self.original["forget/own_distance"]
        near = all(each <= tolerance for each, tolerance in zip(distances, self.target.tolerances, strict=True))
        return near and met_before(self.context.target, self.original, self.context.evaluator.num_classes)

    @property
    def scale(self) -> float:
        """The step size of stage 1, in multiples of the one asked for."""
        return self.schedule.base_lrs[0] / self.args.learning_rate

    def _keeps_retain_budget(self, found: Evaluation) -> bool:
        fall = (found.figures["constraint/fall_bound"], 0.0)
        return keeps_budget(self.args.retain_budget, fall) and math.isfinite(found.figures["retain/loss"])

    def _refresh_beside(self, retain: Tensor) -> None:
        """Measure unseen images as forget images pass: a batch names them less surely than running statistics do."""
        view, loader = self.context.evaluator.views["unseen"], self.batches.follower.loader
        size, seed = getattr(loader, "batch_size", 1), self.context.seed
        self.target.refresh_beside(lambda see: self.streams.measure(see, view, retain, size, seed))

    def _refresh_target(self, losses: dict[str, Tensor]) -> None:
        self.target.refresh(losses["unseen"], losses["forget"])

    # NaN, logging, and runs that stop and go on.

    def on_fault(self, fault: Fault) -> bool:
        """Stop, or go back to where the pass was entered."""
        return self.guard.on_fault(fault)

    def on_interval(self, figures: dict[str, float], step: int) -> None:
        """Write down the means since the last interval."""
        if self.stage == 0:
            figures["constraint/step_scale"] = self.scale
        self.listener.record.scalars({**figures, "learning_rate": self.schedule.get_last_lr()[0]}, step)

    def on_stop(self, place: dict, epoch: int) -> None:
        """Save everything in the middle of an epoch."""
        self.listener.save(self.state(epoch, place))

    STATE = ("stage", "events", "multiplier", "moved", "since_refresh", "start")

    def state(self, epoch: int, place: dict | None = None, stopped: bool = False) -> dict:
        """What a resumed run needs after `epoch`, and at a place in the next one."""
        return {
            "epoch": epoch, "place": place, "stopped": stopped, **{name: getattr(self, name) for name in self.STATE},
            **{name: part.state_dict() for name, part in self.parts.items()},
        }  # fmt: skip

    def restore(self, state: dict) -> None:
        """Inverse of `state`."""
        vars(self).update({name: state[name] for name in self.STATE}, events=list(state["events"]))
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        # A stage that a criterion has ended has no epoch left.
        self.config.start_epoch = self.config.num_epochs if state["stopped"] else state["epoch"]
        self.config.place = state["place"]


def _distance(found: Evaluation) -> float:
    return found.figures["forget/distance"]
