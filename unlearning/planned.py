"""A published method's epochs in the loop: its plan, one optimizer and one schedule for all of its passes."""

from collections.abc import Callable

import torch
from torch import Tensor

from helper_functions.loop import Phase, run_phase
from optimizer.schedules import get_schedule
from optimizer.solver import Solver
from optimizer.training import build_optimizer
from unlearning.case import Case
from unlearning.plan import Mask, Pass, Plan
from unlearning.targets import Target


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
            state: what this procedure gave to `close_epoch` last.
        """
        self.target.refresh(self.case.examination.losses(self.case.model, "unseen"))
        if state is None:
            self.plan.begin()
        if self.num_epochs == 0:
            if state is None:
                course.close_epoch(course.name, 1, 1, course.examine(), {"epoch": 1})
            return
        held = [p for module in self.plan.frozen for p in module.parameters(recurse=False) if p.requires_grad]
        for parameter in held:
            parameter.requires_grad_(False)
        try:
            steps = _Steps(self.case, self.plan, self.num_epochs)
            if state is not None:
                steps.load_state_dict(state)
            for epoch in range(0 if state is None else state["epoch"], self.num_epochs):
                for part in self.plan.passes(epoch):
                    self._run_pass(course, steps, part, epoch)
                own = {"epoch": epoch + 1, **steps.state_dict()}
                course.close_epoch(course.name, epoch + 1, self.num_epochs, course.examine(), own)
        finally:
            for parameter in held:
                parameter.requires_grad_(True)

    def _run_pass(self, course, steps: "_Steps", part: Pass, epoch: int) -> None:
        part.begin()
        steps.prepare()

        def on_interval(figures: dict[str, float], step: int) -> None:
            course.record.scalars({**figures, "learning_rate": steps.schedule.get_last_lr()[0]}, step)

        phase = Phase(
            part.name, self.num_epochs, part.batches, lambda batch: steps(part, batch), on_interval,
            lambda means, epoch: True, log_interval=course.log_interval, shown=("unlearning/loss",), start_epoch=epoch,
            device=self.case.precision.device, cost=course.cost,
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

    def state_dict(self) -> dict:
        """What a resumed run needs, the model's weights apart."""
        return {"optimizer": self.optimizer.state_dict(), "schedule": self.schedule.state_dict()}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        self.schedule.load_state_dict(state["schedule"])
