"""Constrained unlearning, in one place.

Stage 1 forgets subject to the retain budget, stage 2 fine-tunes subject to staying forgotten (`problem`). Both take the
same steps. One forward pass over a batch of forget and a batch of retain images gives the objective F, the
differentiable violation g and the strict violation h; then the multiplier moves, then the weights:

    λ ← [λ + η_λ max(λ, 1) h(θ)]₊
    θ ← θ − η ∇[F(θ) + λ g(θ)]

After each epoch the model is measured, and a safeguard decides from the measured fall of retain accuracy: keep these
weights, go back to the last ones that kept the budget, or change the step size (`safeguard`).
"""

import math
from collections.abc import Callable

from torch import Tensor

from data.loaders import TensorLoader
from data.streams import PairedLoader
from helper_functions.training.distribution import say
from helper_functions.training.loop import LoopConfig, Trainer, run_loop
from helper_functions.training.passes import WEIGHTS, Fault, Means
from models.weights import reinitialised
from optimizer.nan_guard import MOST_REWINDS, stopped_by
from optimizer.optimizers import build_optimizer
from optimizer.schedules import get_schedule
from optimizer.solver import Solver, grow_penalty, lagrangian
from unlearning.arguments import BATCH_SIZE, UnlearnArgs
from unlearning.constrained.problem import ForgetSubjectToRetain, RetainSubjectToForget
from unlearning.constrained.safeguard import Safeguard
from unlearning.constrained.stopping import STOP_CRITERIA
from unlearning.constrained.targets import Target
from unlearning.context import MethodContext, RunListener
from unlearning.streams import OriginalAnswers

PENALTY_GROWTH = 2.0
# Steps between two checks of the violation, besides that at the end of each epoch. Independent of --log_interval, so
# that logging never affects training.
CHECK_INTERVAL = 50
# Strict violation, in points or budgets, whichever is more, from which on a stage counts as running away.
RUNAWAY = 2.0
# Budgets from which on the end of an epoch counts as far outside: noise of that size is the step's, not the trade's.
FAR_OUTSIDE = 1.5
# Share of the original's distance from the target that counts as a long way.
FAR = 0.5
# Nats of retain loss that a point of accuracy is worth at least.
NATS_A_POINT = 0.01


class ConstrainedTrainer(Trainer):
    """The two stages of constrained unlearning; methods differ by the target alone, which `build_target` gives."""

    def __init__(self, context: MethodContext, build_target: Callable[[MethodContext], Target]) -> None:
        self.context, self.args = context, context.args
        self.original_answers = OriginalAnswers(context.model, context.precision, self.args.bn)
        self.batches = context.pairs("forget")
        self.original: dict[str, float] = {}
        if self.args.stop_criterion == "confusion":
            fresh = context.evaluator.losses(reinitialised(context.model), "forget").mean().item()
            self.original["reinitialised/forget_loss"] = fresh
        # After the copies, which a model with hooks does not allow.
        self.target = build_target(context)
        self.events: list[dict[str, float]] = []
        self.multiplier: float | None = None

    # A run: two stages, each of them the loop over its epochs.

    def run(self, listener: RunListener, state: dict | None) -> None:
        """Both stages, or what a checkpoint's state leaves of them."""
        self.listener, self.rewinds = listener, listener.on_nan == "rewind"
        self.original |= listener.original
        if state is not None:
            self.events, self.multiplier = state["events"], state["multiplier"]
        for number, num_epochs in enumerate((self.args.num_epochs, self.args.finetune_num_epochs)):
            if num_epochs == 0 or (state is not None and state["stage"] > number):
                continue
            self.set_up_stage(number, num_epochs)
            if state is not None and state["stage"] == number:
                self.restore(state)
            else:
                self._refresh_target(self.context.evaluator.losses(self.context.model, "unseen"))
            self.config.log_interval = listener.log_interval
            run_loop(self, self.config)
            self.events += self.safeguard.events

    def set_up_stage(self, number: int, num_epochs: int) -> None:
        """Problem, solver, schedule and safeguard of stage 1 (number 0) or 2 (number 1)."""
        context, args = self.context, self.args
        self.stage, self.name = number, ("forget", "finetune")[number]
        if number == 0:
            answers, loss_gap = self.original_answers, context.evaluator.retain_loss_gap
            self.problem = ForgetSubjectToRetain(context.streams, self.target, args, answers, loss_gap)
        else:
            self.problem = RetainSubjectToForget(context.streams, self.target, args)
        optimizer = build_optimizer(context.model, args)
        self.solver = Solver(self.problem, optimizer, context.model, dual_rate(args, self.batches), args.max_grad_norm)
        self.schedule = get_schedule(args.schedule, optimizer, num_epochs * len(self.batches))
        limit = math.inf if number else RUNAWAY * max(1.0, args.retain_budget)
        self.safeguard = Safeguard(context.model, self.solver, self.schedule, limit)
        self.parts = {"solver": self.solver, "schedule": self.schedule, "safeguard": self.safeguard}
        self.violation_window = Means()
        shown = ("constraint/violation", "constraint/multiplier", "forget/reached")
        self.config = LoopConfig(
            num_epochs, context.precision.device, shown=shown, model=context.model, cost=context.cost
        )

    # A step: forward, dual update, primal update.

    def step(self, batch: dict) -> dict[str, Tensor]:
        """One gradient step on a forget and a retain batch; gives the figures to log."""
        problem, solver = self.problem, self.solver
        state = problem.compute_cmp_state(**batch)  # F(θ), g(θ) and h(θ), from one forward pass
        solver.dual_step(state)  # λ ← [λ + η_λ max(λ, 1) h(θ)]₊
        norm = solver.step(  # θ ← θ − η ∇[F(θ) + λ g(θ)]
            lagrangian(state), lambda: lagrangian(problem.compute_cmp_state(**batch))
        )
        problem.commit(state)
        self.schedule.step()
        figures = {**state.misc, "gradient/norm": norm}
        self.violation_window.add(figures)
        if len(self.violation_window.rows) == CHECK_INTERVAL:
            self._check_window(self.context.cost.gradient_steps + 1)
        return figures

    # What is measured after an epoch.

    def on_epoch(self, means: dict[str, float], epoch: int) -> bool:
        """Measure the model, act on what was found, write it down; True where a criterion ends the stage."""
        listener, losses = self.listener, self.context.evaluator.losses
        if self.violation_window.rows:
            self._check_window(self.context.cost.gradient_steps)
        # The original kept its own budget; that is no result.
        evaluation = listener.evaluate(feasible=not (self._went_back and self.safeguard.holds_original))
        self._stop_unless_finite(evaluation.figures, epoch)
        if self.stage == 0:
            self._decide(evaluation.figures)
        # The losses in hand belong to weights that the safeguard has left.
        unseen = losses(self.context.model, "unseen") if self._went_back else evaluation.losses["unseen"]
        self._refresh_target(unseen)
        stop = self.stage == 0 and self._criterion_is_met()
        if self.stage == 0:
            # Without the safeguard's raises, which belong to its shorter steps.
            self.multiplier = next(iter(self.safeguard.learned_multipliers), None)
        state = self.state(epoch, stopped=stop)
        listener.close_epoch(self.name, epoch, self.config.num_epochs, evaluation, state)
        return stop

    def _refresh_target(self, unseen_losses: Tensor) -> None:
        self.unseen_losses = unseen_losses
        self.target.refresh(unseen_losses)

    def _criterion_is_met(self) -> bool:
        asked = self.args.stop_criterion
        if asked == "auto":
            asked = "discriminator" if "discriminator/auc" in self.original else "none"
        return STOP_CRITERIA[asked](self.listener.epochs, self.original)

    # What is decided from it.

    def _decide(self, figures: dict[str, float]) -> None:
        """Penalty, margin, step size, multiplier and the weights to go back to, from what was measured."""
        budget, fall, aim = self.args.retain_budget, figures["constraint/fall"], self.problem.aim
        step = self.context.cost.gradient_steps
        grow_penalty(self.problem.constraint, figures["constraint/fall_bound"] - budget, PENALTY_GROWTH)
        self.problem.refit_margin(fall, figures["retain/loss_gap"])
        if not figures["constraint/feasible"]:
            finite = math.isfinite(figures["retain/loss"])
            went_back = self._check(fall - aim if finite else math.nan, step)
            if not went_back and fall > FAR_OUTSIDE * budget and self.safeguard.check_far_outside(fall - aim, step):
                self._report_rollback(fall - aim, step)
            return
        self.safeguard.keep()
        if fall >= aim / 2:
            return
        # With accuracy left to spend and a long way to go, the step is too short; unless the weights did move, towards
        # lower retain loss: then the multiplier is still too large. It falls by itself, but slowly.
        if figures["retain/loss_gap"] < -NATS_A_POINT * aim:
            if self.target.to_the_last:
                self.safeguard.relax_multipliers()
        elif figures["forget/distance"] > FAR * self.original["forget/distance"]:
            self.safeguard.lengthen_step()

    def _check_window(self, step: int) -> None:
        """Check the mean violation since the last check."""
        figures, non_finite = self.violation_window.transfer()
        if non_finite is None:
            self._check(figures["constraint/violation"], step)
        # One NaN spreads to all later figures. Where going back does not help, the loop reports it and ends the run.
        elif self.rewinds and not self._rewound_often:
            self._check(math.nan, step)

    def _check(self, violation: float, step: int) -> bool:
        went_back = self.safeguard.check(violation, step)
        if went_back:
            self.violation_window = Means()
            self._report_rollback(violation, step)
        return went_back

    def _report_rollback(self, violation: float, step: int) -> None:
        scale = self.safeguard.scale
        self.listener.record.scalars({"constraint/safeguard": scale}, step)
        say(f"  step {step}: {violation:.1f} points over; back to the last good state, step size x {scale:g}")

    # NaN, logging, and runs that stop and go on.

    def on_fault(self, fault: Fault) -> bool:
        """The safeguard rolls back, now or at its next check, and the pass continues."""
        if self.rewinds and fault.figure == WEIGHTS:
            self._check(math.nan, fault.step)
        if not self.rewinds or self._rewound_often:
            rewinds = MOST_REWINDS if self.rewinds else 0
            raise stopped_by(fault, self.listener.record, "lower --learning_rate", rewinds)
        return False

    def _stop_unless_finite(self, figures: dict[str, float], epoch: int) -> None:
        if not (self.rewinds or math.isfinite(figures["retain/loss"])):
            batches, step = len(self.batches), self.context.cost.gradient_steps
            fault = Fault("retain/loss", self.name, epoch, batches, batches, step, {})
            raise stopped_by(fault, self.listener.record, "lower --learning_rate")

    @property
    def _rewound_often(self) -> bool:
        return sum(math.isnan(event["violation"]) for event in self.safeguard.events) > MOST_REWINDS

    @property
    def _went_back(self) -> bool:
        """Whether the safeguard has gone back at this very step."""
        return any(event["step"] == self.context.cost.gradient_steps for event in self.safeguard.events)

    def on_pass(self, epoch: int, number: int, resumed: bool) -> None:
        """Put the model into the mode of --bn, which measuring it has left."""
        self.context.streams.prepare(self.context.model)

    def on_interval(self, figures: dict[str, float], step: int) -> None:
        """Write down the means since the last interval."""
        figures["constraint/step_scale"] = self.safeguard.scale
        self.listener.record.scalars({**figures, "learning_rate": self.schedule.get_last_lr()[0]}, step)

    def on_stop(self, place: dict, epoch: int) -> None:
        """Save everything in the middle of an epoch."""
        self.listener.save(self.state(epoch, place))

    def state(self, epoch: int, place: dict | None = None, stopped: bool = False) -> dict:
        """What a resumed run needs after `epoch`, and at a place in the next one."""
        return {
            "stage": self.stage, "epoch": epoch, "place": place, "stopped": stopped, "events": self.events,
            "multiplier": self.multiplier, "unseen_losses": self.unseen_losses,
            "violation_window": self.violation_window.state_dict(),
            **{name: part.state_dict() for name, part in self.parts.items()},
        }  # fmt: skip

    def restore(self, state: dict) -> None:
        """Inverse of `state`."""
        device = self.context.precision.device
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.violation_window.load_state_dict(state["violation_window"], device)
        # A stage that a criterion has ended has no epoch left.
        self.config.start_epoch = self.config.num_epochs if state["stopped"] else state["epoch"]
        self.config.place = state["place"]
        # In the middle of an epoch the weights are no longer those that the losses were taken with.
        self._refresh_target(state["unseen_losses"].to(device))


def dual_rate(args: UnlearnArgs, loader: PairedLoader) -> float:
    """The multiplier's step: in proportion to the batch, so that its size does not change the trade.

    Where a smaller batch follows from a small forget set, the pass has fewer images and as many steps: then the step
    stays.
    """
    own = getattr(loader.leader, "batch_size", None) or BATCH_SIZE
    foreign = not isinstance(loader.leader, TensorLoader)
    share = own / BATCH_SIZE
    return args.dual_learning_rate * (share if args.batch_size or foreign else max(1.0, share))
