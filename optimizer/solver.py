"""Gradient steps, of plain losses and of constrained problems in cooper's formulations."""

from collections.abc import Callable
from typing import Literal

import cooper
import torch
from cooper.formulations import AugmentedLagrangian, Lagrangian, QuadraticPenalty
from cooper.multipliers import DenseMultiplier
from cooper.penalty_coefficients import DensePenaltyCoefficient
from torch import Tensor, nn

from helper_functions.metrics import _grad_norm
from helper_functions.training.batch_norm import no_running_stats_update
from optimizer.problems import Problem
from optimizer.sam import SAM

SolverName = Literal["penalty", "lagrangian", "augmented_lagrangian"]
SOLVERS = {"penalty": QuadraticPenalty, "lagrangian": Lagrangian, "augmented_lagrangian": AugmentedLagrangian}
# The penalty alone has to hold what the multiplier holds elsewhere.
PENALTY_COEFFICIENTS = {"penalty": 10_000.0, "augmented_lagrangian": 100.0}


def inequality(
    solver: SolverName,
    multiplier: float = 1.0,
    penalty_coefficient: float | None = None,
    device: torch.device | str = "cpu",
) -> cooper.Constraint:
    """One inequality constraint (violation ≤ 0) in the formulation of a solver: with a multiplier, a penalty, or both.

    `multiplier` and `penalty_coefficient` are first values, of which None is the solver's own; a warm start spares the
    steps in which the multiplier would climb.
    """
    formulation = SOLVERS[solver]
    options = {}
    if formulation.expects_multiplier:
        options["multiplier"] = DenseMultiplier(init=torch.tensor([multiplier]), device=device)
    if formulation.expects_penalty_coefficient:
        penalty_coefficient = penalty_coefficient or PENALTY_COEFFICIENTS[solver]
        options["penalty_coefficient"] = DensePenaltyCoefficient(torch.tensor([penalty_coefficient], device=device))
    return cooper.Constraint(cooper.ConstraintType.INEQUALITY, formulation, **options)


def dual_figures(constraint: cooper.Constraint, name: str) -> dict[str, Tensor]:
    """The multiplier and the penalty coefficient of a constraint of that name, those that it has."""
    figures = {}
    if constraint.multiplier is not None:
        figures[f"{name}/multiplier"] = constraint.multiplier.weight.detach().reshape(()).clone()
    if constraint.penalty_coefficient is not None:
        figures[f"{name}/penalty_coefficient"] = constraint.penalty_coefficient.value.reshape(())
    return figures


class Descent:
    """Gradient steps of one optimizer on one model, whatever the loss.

    Args:
        optimizer: of the model's weights; a SAM optimizer takes its two passes.
        model: whose gradients are measured and clipped.
        max_grad_norm: gradients longer than this are scaled down to it; None leaves them.
    """

    def __init__(self, optimizer: torch.optim.Optimizer, model: nn.Module, max_grad_norm: float | None = None) -> None:
        self.optimizer, self.model, self.max_grad_norm = optimizer, model, max_grad_norm
        self.optimizer.zero_grad()  # a model from elsewhere may still hold gradients

    def step(self, loss: Tensor, loss_again: Callable[[], Tensor]) -> Tensor:
        """Descend along the gradient of a loss, 0-d, which SAM takes again; gives the norm before it is clipped."""
        loss.backward()
        norm = _grad_norm(self.model)
        self._clip(norm)
        if isinstance(self.optimizer, SAM):
            self.optimizer.first_step()
            with no_running_stats_update(self.model):
                loss_again().backward()
            self._clip()
            self.optimizer.second_step()
        else:
            self.optimizer.step()
        # Dropped now, so that they take no memory during the next forward pass.
        self.optimizer.zero_grad()
        return norm

    def _clip(self, norm: Tensor | None = None) -> None:
        if self.max_grad_norm is not None:
            parameters = [p for p in self.model.parameters() if p.grad is not None]
            norm = _grad_norm(self.model) if norm is None else norm
            nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, norm)


class Solver(Descent):
    """The steps of a constrained problem: `dual_step` moves the multipliers, `step` the weights.

    The multipliers move on the strict violation, the weights on its differentiable surrogate (proxy constraints: Cotter
    et al. 2019, section 4.2). Moving the multipliers first costs no further forward pass, and the very step that sees a
    violation counters it (cooper's alternating dual-primal order).

    Args:
        problem: whose multipliers and penalty coefficients are held.
        optimizer, model, max_grad_norm: as of `Descent`.
        dual_learning_rate: step of a multiplier for each unit of strict violation, as a share of the multiplier (much
            like exponentiated gradient ascent, Kivinen & Warmuth 1997), or of `least_multiplier` where it is below.
        least_multiplier: below it, a multiplier moves in proportion to this.
    """

    def __init__(
        self, problem: Problem, optimizer: torch.optim.Optimizer, model: nn.Module, dual_learning_rate: float = 0.03,
        max_grad_norm: float | None = None, least_multiplier: float = 1.0,
    ) -> None:  # fmt: skip
        super().__init__(optimizer, model, max_grad_norm)
        self.problem, self.least_multiplier = problem, least_multiplier
        self.kept: list[Tensor] = self.multipliers()
        multipliers = list(problem.dual_parameters())
        self.dual = torch.optim.SGD(multipliers, lr=dual_learning_rate, maximize=True) if multipliers else None

    def dual_step(self, state: cooper.CMPState) -> None:
        """λ ← [λ + η_λ max(λ, 1) h]₊ for the strict violation h of each constraint; nothing where all are penalties."""
        if self.dual is None:
            return
        state.compute_dual_lagrangian().backward()
        with torch.no_grad():
            for multiplier in self.problem.multipliers():
                # In proportion to the multiplier, a step finds its order of magnitude in either direction; near 0 it
                # is a plain step, so that 0 is neither a trap nor out of reach.
                multiplier.weight.grad *= multiplier.weight.clamp(min=self.least_multiplier)
            self.dual.step()
            for multiplier in self.problem.multipliers():
                multiplier.post_step_()
        self.dual.zero_grad()

    def multipliers(self) -> list[Tensor]:
        """The values of the multipliers, each `[1]`."""
        return [multiplier.weight.detach().clone() for multiplier in self.problem.multipliers()]

    def snapshot(self) -> None:
        """Take the present multipliers, and what the problem learns beside the weights, as those to restart from."""
        self.problem.snapshot()
        self.kept = self.multipliers()

    @torch.no_grad()
    def restart(self, factor: float) -> None:
        """Momentum anew; multipliers and penalty coefficients `factor` times what they were at the last snapshot.

        What the multipliers climbed to since reflects the violation of weights that are left behind.
        """
        self.problem.rollback()
        optimizer = getattr(self.optimizer, "base_optimizer", self.optimizer)
        for state in optimizer.state.values():
            for value in state.values():
                if isinstance(value, Tensor):  # Adam's step count as well: its bias correction begins anew
                    value.zero_()
        for multiplier, value in zip(self.problem.multipliers(), self.kept, strict=True):
            multiplier.weight.copy_(value.clamp(min=self.least_multiplier) * factor)
        for coefficient in self.problem.penalty_coefficients():
            coefficient.value = coefficient.value * factor

    def state_dict(self) -> dict:
        """Everything a resumed run needs: both optimizers, multipliers, penalty coefficients, the problem's own."""
        dual = {} if self.dual is None else self.dual.state_dict()
        return {
            "optimizer": self.optimizer.state_dict(), "dual": dual, "problem": self.problem.state_dict(),
            "kept": self.kept,
        }  # fmt: skip

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        self.optimizer.load_state_dict(state["optimizer"])
        if self.dual is not None:
            self.dual.load_state_dict(state["dual"])
        self.problem.load_state_dict(state["problem"])
        self.kept = state["kept"]


def lagrangian(state: cooper.CMPState) -> Tensor:
    """What the weights descend along: F(θ) + λ g(θ), or what a penalty makes of g; 0-d."""
    return state.compute_primal_lagrangian().lagrangian
