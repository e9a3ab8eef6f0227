"""Solvers of constrained problems: cooper's formulations, one step that serves them all."""

from typing import Literal

import cooper
import torch
from cooper.formulations import AugmentedLagrangian, Lagrangian, QuadraticPenalty
from cooper.multipliers import DenseMultiplier
from cooper.optim import CooperOptimizer, RollOut
from cooper.penalty_coefficients import DensePenaltyCoefficient, MultiplicativePenaltyCoefficientUpdater
from torch import Tensor, nn

from helper_functions.metrics import _grad_norm
from helper_functions.training.batch_norm import no_running_stats_update
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
    """One inequality constraint (violation ≤ 0) in the formulation of a solver.

    Args:
        solver: quadratic penalty (no multiplier), Lagrangian (no penalty), or both.
        multiplier: the dual variable's first value; a warm start spares the steps in which it would climb.
        penalty_coefficient: the penalty's first value; None takes the solver's own.
    """
    formulation = SOLVERS[solver]
    options = {}
    if formulation.expects_multiplier:
        options["multiplier"] = DenseMultiplier(init=torch.tensor([multiplier]), device=device)
    if formulation.expects_penalty_coefficient:
        penalty_coefficient = penalty_coefficient or PENALTY_COEFFICIENTS[solver]
        options["penalty_coefficient"] = DensePenaltyCoefficient(torch.tensor([penalty_coefficient], device=device))
    return cooper.Constraint(cooper.ConstraintType.INEQUALITY, formulation, **options)


def grow_penalty(constraint: cooper.Constraint, strict_violation: float, factor: float) -> None:
    """Multiply the penalty coefficient by `factor` while the constraint is violated, and only then.

    Source: Nocedal & Wright 2006, algorithm 17.4.
    """
    if constraint.penalty_coefficient is None:
        return
    updater = MultiplicativePenaltyCoefficientUpdater(growth_factor=factor, violation_tolerance=0.0, has_restart=False)
    violation = torch.tensor([strict_violation], device=constraint.penalty_coefficient.value.device)
    state = cooper.ConstraintState(violation=violation, strict_violation=violation)
    updater.update_penalty_coefficient_(constraint, state)


def dual_figures(constraint: cooper.Constraint) -> dict[str, Tensor]:
    """The multiplier and the penalty coefficient of a constraint, those that it has."""
    figures = {}
    if constraint.multiplier is not None:
        figures["constraint/multiplier"] = constraint.multiplier.weight.detach().reshape(()).clone()
    if constraint.penalty_coefficient is not None:
        figures["constraint/penalty_coefficient"] = constraint.penalty_coefficient.value.reshape(())
    return figures


class Solver(CooperOptimizer):
    """Dual step first, then primal step, from one evaluation of the problem; with SAM from two.

    The dual variables move on the strict violation, the weights on its differentiable surrogate (proxy
    constraints: Cotter et al. 2019, section 4.2). Moving the multiplier first costs no further forward pass and lets
    the very step that sees a violation answer it (cooper's alternating dual-primal order). A problem without
    constraints, or with penalties alone, needs no dual optimizer and takes the same step.

    Args:
        problem: an `optimizer.problems.Problem`.
        primal: moves the weights of `model`; a SAM optimizer takes its two passes.
        model: whose gradients are measured and normalised.
        dual_learning_rate: step of the multipliers for each unit of strict violation, as a share of a multiplier
            above 1 (much like exponentiated gradient ascent, Kivinen & Warmuth 1997), absolute below.
        max_grad_norm: gradients longer than this are scaled down to it; None leaves them.
    """

    def __init__(
        self,
        problem,
        primal: torch.optim.Optimizer,
        model: nn.Module,
        dual_learning_rate: float = 0.03,
        max_grad_norm: float | None = None,
    ) -> None:
        dual_parameters = list(problem.dual_parameters())
        dual = torch.optim.SGD(dual_parameters, lr=dual_learning_rate, maximize=True) if dual_parameters else None
        super().__init__(cmp=problem, primal_optimizers=primal, dual_optimizers=dual)
        self.model = model
        self.max_grad_norm = max_grad_norm

    @property
    def primal(self) -> torch.optim.Optimizer:
        """The optimizer of the weights."""
        return self.primal_optimizers[0]

    def roll(self, compute_cmp_state_kwargs: dict | None = None) -> RollOut:
        """Take one step; `cmp_state.misc` gains `gradient/norm`, measured before the gradient is normalised."""
        batch = compute_cmp_state_kwargs or {}
        self.zero_grad()
        state = self.cmp.compute_cmp_state(**batch)
        dual_store = state.compute_dual_lagrangian()
        if self.dual_optimizers is not None:
            dual_store.backward()
            self._dual_step()
        primal_store = state.compute_primal_lagrangian()
        primal_store.backward()
        norm = self._normalise_gradient()
        if isinstance(self.primal, SAM):
            self._second_pass(batch)
        else:
            self.primal_step()
        self.cmp.commit(state)
        state.misc = {**(state.misc or {}), "gradient/norm": norm}
        return RollOut(state.loss, state, primal_store, dual_store)

    def step(self, batch: dict) -> dict[str, Tensor]:
        """One step on a batch of the loop; gives the figures to log."""
        return self.roll(batch).cmp_state.misc

    @torch.no_grad()
    def _dual_step(self) -> None:
        for multiplier in self.cmp.multipliers():
            # A step in proportion to the multiplier finds its order of magnitude in either direction; below 1 it is
            # a plain step, so that 0 is neither a trap nor out of reach.
            multiplier.weight.grad *= multiplier.weight.clamp(min=1)
        for optimizer in self.dual_optimizers:
            optimizer.step()
        for multiplier in self.cmp.multipliers():
            multiplier.post_step_()

    def _normalise_gradient(self) -> Tensor:
        norm = _grad_norm(self.model)
        if self.max_grad_norm is not None:
            self._shorten_gradient(norm)
        return norm

    def _shorten_gradient(self, norm: Tensor) -> None:
        parameters = [p for p in self.model.parameters() if p.grad is not None]
        nn.utils.clip_grads_with_norm_(parameters, self.max_grad_norm, norm)

    def _second_pass(self, batch: dict) -> None:
        self.primal.first_step(zero_grad=True)
        with no_running_stats_update(self.model):
            self.cmp.compute_cmp_state(**batch).compute_primal_lagrangian().backward()
        if self.max_grad_norm is not None:
            self._shorten_gradient(_grad_norm(self.model))
        self.primal.second_step(zero_grad=False)

    def full_state(self) -> dict:
        """Everything a resumed run needs: optimizers, multipliers and penalty coefficients."""
        return {"optimizers": dict(self.state_dict()), "problem": self.cmp.state_dict()}

    def load_full_state(self, state: dict) -> None:
        """Inverse of `full_state`."""
        self.load_state_dict(state["optimizers"])
        self.cmp.load_state_dict(state["problem"])
