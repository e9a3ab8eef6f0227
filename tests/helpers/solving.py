"""Steps of a constrained problem outside of a trainer, for tests of the solver; a model of one weight."""

import cooper
import torch
from torch import Tensor, nn

from optimizer.solver import Solver, lagrangian
from unlearning.constrained.targets import ZeroTarget


def own_labels(bound: float) -> ZeroTarget:
    """Pushes each image's own label below a probability; at 0, always."""
    return ZeroTarget(torch.zeros(0, dtype=torch.int64), bound)


def take_step(solver: Solver, **batch: tuple) -> cooper.CMPState:
    """Forward, dual update, primal update, as in `ConstrainedTrainer.step`; gives the state of the first pass.

    `misc` gains `gradient/norm`.
    """
    problem = solver.problem
    state = problem.compute_cmp_state(**batch)
    solver.dual_step(state)
    norm = solver.step(lagrangian(state), lambda: lagrangian(problem.compute_cmp_state(**batch)))
    problem.commit(state)
    state.misc = {**(state.misc or {}), "gradient/norm": norm}
    return state


def figures_of_step(solver: Solver, **batch: tuple) -> dict[str, Tensor]:
    """What a step logs."""
    return take_step(solver, **batch).misc


class Scalar(nn.Module):
    """Its only weight is the share of a line from 0 to 1."""

    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(()))
