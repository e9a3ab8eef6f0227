"""The convex model's problems as our solver sees them: full batches, float64."""

import cooper
import torch
from torch import Tensor, nn

from benchmarks.theory.convex import Front
from optimizer.problems import Problem
from optimizer.solver import SOLVERS, Solver, SolverName, inequality, lagrangian


class Weights(nn.Module):
    """The weights `[K, D]` as a module, for our solver."""

    def __init__(self, start: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(start.clone())


class FullBatch(Problem):
    """A front's problem at one bound, for our solver, on all images at each step.

    Args:
        model: whose weights are found.
        front: objective and constraint.
        bound: of the constraint.
        solver: the constraint's formulation.
        options: of `inequality`.
    """

    def __init__(self, model: Weights, front: Front, bound: float, solver: SolverName, **options: float) -> None:
        super().__init__()
        self.model, self.front, self.bound = model, front, bound
        self.dual = SOLVERS[solver].expects_multiplier
        self.budget = inequality(solver, **options)
        for part in (self.budget.multiplier, self.budget.penalty_coefficient):
            if part is not None:
                part.to(torch.float64)

    def compute_cmp_state(self) -> cooper.CMPState:
        """Objective and constraint at the present weights."""
        violation = self.front.constraint(self.model.weights) - self.bound
        state = cooper.ConstraintState(violation=violation, contributes_to_dual_update=self.dual)
        return cooper.CMPState(self.front.objective(self.model.weights), observed_constraints={self.budget: state})


def learn(front: Front, bound: float, steps: int, solver: SolverName = "lagrangian", **options: float) -> FullBatch:
    """What our solver makes of a problem from the front's start, by momentum on full batches; options of `inequality`.

    The violation counts in units of the bound's distance from the start, so that one dual rate serves all bounds.
    """
    model = Weights(front.start)
    problem = FullBatch(model, front, bound, solver, **options)
    primal = torch.optim.SGD(model.parameters(), lr=0.4, momentum=0.95, nesterov=True)
    dual_rate = 0.01 / abs(bound - front.constraint(front.start).item())
    solver = Solver(problem, primal, model, dual_rate)
    for _ in range(steps):
        state = problem.compute_cmp_state()
        solver.dual_step(state)
        solver.step(lagrangian(state), lambda: lagrangian(problem.compute_cmp_state()))
    return problem
