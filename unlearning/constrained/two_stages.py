"""Constrained unlearning as two stages in the loop: forget subject to the budget, then constrained fine-tuning."""

from collections.abc import Callable

from torch import Tensor

from models.reinitialise import reinitialised
from unlearning.constrained.problem import ForgetSubjectToRetain, RetainSubjectToForget
from unlearning.constrained.stage import Stage, StageSettings
from unlearning.constrained.stopping import STOP_CRITERIA
from unlearning.constrained.targets import Target
from unlearning.context import Case
from unlearning.evaluator import Findings
from unlearning.streams import RETAIN_LOSSES, Original, own_retain_loss

# Part of the budget that training aims at; the rest is room for the noise of what it measures.
AIMED_SHARE = 0.8
# Objective that fine-tuning may leave on the forget data.
FINETUNE_TOLERANCE = 0.01


class TwoStages:
    """The procedure of the constrained methods, which differ by their target alone.

    Args:
        case: what is to be forgotten.
        build_target: gives the forget target of a case.
    """

    def __init__(self, case: Case, build_target: Callable[[Case], Target]) -> None:
        self.case = case
        self.rise = RETAIN_LOSSES[own_retain_loss(case.args.retain_loss, case.target)]
        self.frozen = Original(case.model, case.precision, case.args.bn)
        self.loader = case.pairs("forget")
        self.original: dict[str, float] = {}
        if case.args.stop_criterion == "confusion":
            fresh = case.examination.losses(reinitialised(case.model), "forget").mean().item()
            self.original["reinitialised/forget_loss"] = fresh
        # After the copies, which a model that is listened to does not allow.
        self.target = build_target(case)
        self.events: list[dict[str, float]] = []
        self.multiplier: float | None = None

    def run(self, course, state: dict | None) -> None:
        """Both stages, or what a checkpoint's state leaves of them.

        Args:
            course: the run's `Unlearning`.
            state: what this procedure gave to `close_epoch` or `save` last.
        """
        self.original |= course.original
        if state is not None:
            self.events, self.multiplier = state["events"], state["multiplier"]
        for number, settings in enumerate([self._forget(), self._finetune()]):
            if settings.num_epochs == 0 or (state is not None and state["stage"] > number):
                continue
            own = state if state is not None and state["stage"] == number else None
            self._run_stage(course, number, settings, own)

    def _forget(self) -> StageSettings:
        case, args = self.case, self.case.args
        aim = AIMED_SHARE * args.retain_budget
        problem = ForgetSubjectToRetain(
            case.streams, self.frozen, self.rise, self.target, aim,
            args.solver, args.multiplier, args.penalty_coefficient,
        )  # fmt: skip
        return StageSettings("forget", problem, args.num_epochs, aim)

    def _finetune(self) -> StageSettings:
        case, args = self.case, self.case.args
        problem = RetainSubjectToForget(
            case.streams, self.target, FINETUNE_TOLERANCE, args.solver, args.multiplier, args.penalty_coefficient
        )
        return StageSettings("finetune", problem, args.finetune_num_epochs, None)

    def _run_stage(self, course, number: int, settings: StageSettings, state: dict | None) -> None:
        case = self.case

        def examine() -> Findings:
            # The original kept its own budget; that is no result.
            return course.examine(feasible=not (stage.went_back and stage.safeguard.holds_original))

        stage = Stage(
            settings, case.model, self.loader, case.args, course.record, course.cost, examine,
            self.original["forget/distance"],
            lambda findings, epoch: self._on_epoch(course, stage, number, findings, epoch), course.log_interval,
            lambda place, epoch: course.save(self._state(stage, number, epoch, place=place)), course.on_nan,
        )  # fmt: skip
        if state is not None:
            if state["stopped"]:
                self.events += state["safeguard"]["events"]
                # The next stage goes on with what the target had learned.
                self.target.load_state_dict(state["solver"]["problem"]["target"])
                return
            stage.load_state_dict(state, state["epoch"], state["place"])
            # In the middle of an epoch the weights are no longer those that the losses were taken with.
            self._refresh(state["unseen_losses"].to(case.precision.device))
        else:
            self._refresh(case.examination.losses(case.model, "unseen"))
        stage.run()
        self.events += stage.safeguard.events

    def _on_epoch(self, course, stage: Stage, number: int, findings: Findings, epoch: int) -> bool:
        # The losses in hand are those of weights that the safeguard has gone back from.
        losses = self.case.examination.losses
        self._refresh(losses(self.case.model, "unseen") if stage.went_back else findings.losses["unseen"])
        stop = number == 0 and self._stop(course.epochs)
        if number == 0:
            # What it was raised by belongs to halved steps, and adds up in a sequence. One that was eased is no price:
            # a forget set that is still whole would run away with it.
            self.multiplier = next(iter(() if stage.safeguard.eased else stage.safeguard.prices), None)
        own = self._state(stage, number, epoch, stopped=stop)
        course.close_epoch(stage.stage.name, epoch, stage.stage.num_epochs, findings, own)
        return stop

    def _refresh(self, unseen_losses: Tensor) -> None:
        self.unseen_losses = unseen_losses
        self.target.refresh(unseen_losses)

    def _state(self, stage: Stage, number: int, epoch: int, place: dict | None = None, stopped: bool = False) -> dict:
        """What a resumed run needs of the stage of this number after `epoch`, and at a place in the next one."""
        own = {"stage": number, "epoch": epoch, "place": place, "stopped": stopped}
        own |= {"events": self.events, "multiplier": self.multiplier}
        return {**own, "unseen_losses": self.unseen_losses, **stage.state_dict()}

    def _stop(self, epochs: list[dict[str, float]]) -> bool:
        asked = self.case.args.stop_criterion
        if asked == "auto":
            asked = "discriminator" if "discriminator/auc" in self.original else "none"
        return STOP_CRITERIA[asked](epochs, self.original)
