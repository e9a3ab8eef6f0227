"""A published method's epochs in the loop: its plan, one optimizer and one schedule for all of its passes."""

from collections.abc import Callable

import torch
from torch import Tensor

from helper_functions.signals import held_back
from helper_functions.training.faults import WEIGHTS, Fault, all_finite
from helper_functions.training.loop import Phase, run_phase
from optimizer.nan_guard import NanGuard, stopped_by
from optimizer.schedules import get_schedule, rescale_schedule
from optimizer.solver import Solver
from optimizer.training import build_optimizer
from unlearning.constrained.targets import Target
from unlearning.context import Case
from unlearning.methods.plan import Mask, Pass, Plan


class Planned:
    """The procedure of the published methods.

    Args:
        case: what is to be forgotten.
        build_plan: gives the plan of a case; may look at the model, and does not change it.
        target: what the forget set's distance is measured from; no published method is steered by it.
        num_epochs: 0 for a method that does all at once.
    """

    def __init__(self, case: Case, build_plan: Callable[[Case], Plan], target: Target, num_epochs: int) -> None:
        self.case, self.target, self.num_epochs = case, target, num_epochs
        self.plan = build_plan(case)
        self.original: dict[str, float] = {}
        self.events: list[dict[str, float]] = []
        self.multiplier = None

    def run(self, course, state: dict | None) -> None:
        """What is done at once, then all epochs, or what a checkpoint's state leaves of them.

        Args:
            course: the run's `Unlearning`.
            state: what this procedure gave to `close_epoch` or `save` last.
        """
        self.target.refresh(self.case.examination.losses(self.case.model, "unseen"))
        if state is None:
            self.plan.begin()
        if self.num_epochs == 0:
            if state is None:
                self._refuse_spoiled_weights(course)
                course.close_epoch(course.name, 1, 1, course.examine(), {"epoch": 1})
            return
        held = [p for module in self.plan.frozen for p in module.parameters(recurse=False) if p.requires_grad]
        for parameter in held:
            parameter.requires_grad_(False)
        try:
            steps = _Steps(self.case, self.plan, self.num_epochs)
            guard = NanGuard(course.on_nan, self._parts(steps), steps.rescale, course.record)
            if state is not None:
                steps.load_state_dict(state)
                guard.load_state_dict(state["guard"])
            for epoch in range(0 if state is None else state["epoch"], self.num_epochs):
                # A signal between two passes, or while an epoch is examined, waits for the next thing that is saved.
                with held_back():
                    self._run_epoch(course, steps, guard, epoch, state)
                state = None
        finally:
            for parameter in held:
                parameter.requires_grad_(True)

    def _parts(self, steps: "_Steps") -> dict:
        """What goes back when figures are no numbers."""
        return {"model": self.case.model, "steps": steps, "case": self.case}

    def _refuse_spoiled_weights(self, course) -> None:
        if not all_finite(self.case.model):
            fault = Fault(WEIGHTS, course.name, 1, 0, 0, 0, {})
            raise stopped_by(fault, course.record, "give the method milder flags", may_rewind=False)

    def _run_epoch(self, course, steps: "_Steps", guard: NanGuard, epoch: int, state: dict | None) -> None:
        left = (state or {}).get("pass")
        for number, part in enumerate(self.plan.passes(epoch)):
            if left is None or left["number"] <= number:
                own = left if left is not None and left["number"] == number else None
                self._run_pass(course, steps, guard, part, epoch, number, own)
        own = {"epoch": epoch + 1, "pass": None, "guard": guard.state_dict(), **steps.state_dict()}
        course.close_epoch(course.name, epoch + 1, self.num_epochs, course.examine(), own)

    def _run_pass(
        self, course, steps: "_Steps", guard: NanGuard, part: Pass, epoch: int, number: int, left: dict | None
    ) -> None:
        """One pass, or what is left of it: `number` is its own in the epoch."""
        part.found = part.begin() if left is None else left["found"]
        steps.prepare()

        def on_interval(figures: dict[str, float], step: int) -> None:
            course.record.scalars({**figures, "learning_rate": steps.schedule.get_last_lr()[0]}, step)

        def on_stop(place: dict, epoch: int) -> None:
            own = {"number": number, "place": place, "found": part.found}
            course.save({"epoch": epoch, "pass": own, "guard": guard.state_dict(), **steps.state_dict()})

        phase = Phase(
            part.name, self.num_epochs, part.batches, lambda batch: steps(part, batch), on_interval,
            lambda means, epoch: True, on_pass=guard.keep, on_fault=guard.hear, on_stop=on_stop,
            log_interval=course.log_interval, shown=("unlearning/loss",), start_epoch=epoch,
            place=None if left is None else left["place"], model=self.case.model, device=self.case.precision.device,
            cost=course.cost,
        )  # fmt: skip
        run_phase(phase)


class _Steps:
    """One optimizer and schedule for the passes of all epochs, whichever loss each of them has."""

    def __init__(self, case: Case, plan: Plan, num_epochs: int) -> None:
        self.case, self.plan = case, plan
        self.optimizer = build_optimizer(case.model, case.args)
        total = sum(len(part.batches) for epoch in range(num_epochs) for part in plan.passes(epoch))
        self.schedule = get_schedule(case.args.schedule, self.optimizer, total)
        self.mask = None if plan.mask is None else Mask(case.model, plan.mask)
        self.solvers: dict[Pass, Solver] = {}

    def prepare(self) -> None:
        """The model's mode: as --bn asks for, frozen modules themselves in eval mode."""
        self.case.streams.prepare(self.case.model)
        for module in self.plan.frozen:
            module.training = False

    def __call__(self, part: Pass, batch: dict) -> dict[str, Tensor]:
        if part not in self.solvers:
            norm = self.case.args.max_grad_norm
            self.solvers[part] = Solver(part.problem, self.optimizer, self.case.model, max_grad_norm=norm)
        with torch.no_grad():
            batch = part.answers(batch)
        figures = self.solvers[part].step(batch)
        if self.mask is not None:
            self.mask.restore()
        self.schedule.step()
        return figures

    def rescale(self, factor: float) -> None:
        """Multiply all learning rates."""
        rescale_schedule(self.schedule, factor)

    def state_dict(self) -> dict:
        """What a resumed run needs, the model's weights apart."""
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
