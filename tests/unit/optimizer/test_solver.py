"""Solvers on convex problems whose answer is known, and the mechanics of one step."""

import cooper
import numpy as np
import pytest
import scipy.optimize
import torch
from helpers.solving import take_step
from torch import nn
from torch.nn import functional as F

from helper_functions.files import load_tensors, save_tensors
from helper_functions.training.devices import Precision
from optimizer.problems import Problem
from optimizer.sam import SAM
from optimizer.solver import SOLVERS, Solver, inequality
from optimizer.training import EmpiricalRisk, GradientSteps, Recipe

DUAL_SOLVERS = ["lagrangian", "augmented_lagrangian"]
# min |x - GOAL|² / 2 subject to NORMAL · x ≤ OFFSET: the projection on a half-space.
GOAL, NORMAL, OFFSET = torch.tensor([2.0, 1.0]), torch.tensor([1.0, 2.0]), 1.0
SQUARE = (NORMAL @ NORMAL).item()
OVERSHOOT = (NORMAL @ GOAL).item() - OFFSET
MULTIPLIER = OVERSHOOT / SQUARE
PROJECTION = GOAL - MULTIPLIER * NORMAL


class Point(nn.Module):
    """The free variable of a problem."""

    def __init__(self, start) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.as_tensor(start, dtype=torch.float32).clone())


class Convex(Problem):
    """min objective(x) subject to each constraint(x) ≤ 0; counts its evaluations and what is committed.

    `constraints` are functions of x, or pairs (surrogate, strict).
    """

    def __init__(self, point, objective, constraints, solver, **options) -> None:
        super().__init__()
        self.point, self.objective, self.functions = point, objective, constraints
        self.dual = SOLVERS[solver].expects_multiplier
        self.evaluations, self.committed = [], []
        for number in range(len(constraints)):
            setattr(self, f"constraint{number}", self.make(solver, **options))

    def make(self, solver, **options) -> cooper.Constraint:
        return inequality(solver, **options)

    def compute_cmp_state(self) -> cooper.CMPState:
        self.evaluations.append(self.point.x.detach().clone())
        states = {}
        for constraint, function in zip(self.constraints(), self.functions, strict=True):
            surrogate, strict = function if isinstance(function, tuple) else (function, None)
            states[constraint] = cooper.ConstraintState(
                violation=surrogate(self.point.x),
                strict_violation=None if strict is None else strict(self.point.x).detach(),
                contributes_to_dual_update=self.dual,
            )
        return cooper.CMPState(loss=self.objective(self.point.x), observed_constraints=states, misc={})

    def commit(self, state) -> None:
        self.committed.append(state)

    def multiplier_values(self) -> torch.Tensor:
        return torch.cat([multiplier.weight.detach() for multiplier in self.multipliers()])


class Equality(Convex):
    """The same with each constraint(x) = 0, by cooper's own equality."""

    def make(self, solver, penalty_coefficient=10.0) -> cooper.Constraint:
        formulation, options = SOLVERS[solver], {}
        if formulation.expects_multiplier:
            options["multiplier"] = cooper.multipliers.DenseMultiplier(num_constraints=1)
        if formulation.expects_penalty_coefficient:
            coefficient = torch.tensor([penalty_coefficient])
            options["penalty_coefficient"] = cooper.penalty_coefficients.DensePenaltyCoefficient(coefficient)
        return cooper.Constraint(cooper.ConstraintType.EQUALITY, formulation, **options)


def distance(x):
    return (x - GOAL).square().sum() / 2


def half_space(x):
    return NORMAL @ x - OFFSET


def solve(problem, steps=100, learning_rate=0.3, dual_learning_rate=0.1) -> Solver:
    primal = torch.optim.SGD(problem.point.parameters(), lr=learning_rate)
    solver = Solver(problem, primal, problem.point, dual_learning_rate)
    for _ in range(steps):
        take_step(solver)
    return solver


def kkt_residual(problem) -> float:
    """The largest of |∇f + Σ λ ∇g|, the violations, the negative multipliers and |λ g| (Karush, Kuhn & Tucker)."""
    x = problem.point.x.detach().clone().requires_grad_()
    values = torch.stack([function(x) for function in problem.functions])
    multipliers = problem.multiplier_values()
    (slope,) = torch.autograd.grad(problem.objective(x) + multipliers @ values, x)
    return max(
        slope.norm().item(), values.max().item(), (-multipliers).max().item(), (multipliers * values).abs().max().item()
    )


class TestHalfSpace:
    @pytest.mark.parametrize("solver", DUAL_SOLVERS)
    @pytest.mark.parametrize("start", [[0.0, 0.0], [3.0, 3.0]])
    def test_active_inequality_ends_at_the_projection(self, solver, start):
        problem = Convex(Point(start), distance, [half_space], solver, penalty_coefficient=0.5)
        solve(problem)
        torch.testing.assert_close(problem.point.x.detach(), PROJECTION, atol=1e-4, rtol=0)
        assert problem.multiplier_values().item() == pytest.approx(MULTIPLIER, abs=1e-4)
        assert kkt_residual(problem) < 1e-3

    @pytest.mark.parametrize("solver", SOLVERS)
    def test_inactive_inequality_changes_nothing_and_its_multiplier_goes_to_zero(self, solver):
        problem = Convex(Point([0.0, 0.0]), distance, [lambda x: half_space(x) - 5], solver, multiplier=3.0)
        solve(problem, learning_rate=0.1, steps=150)
        torch.testing.assert_close(problem.point.x.detach(), GOAL, atol=1e-4, rtol=0)
        for multiplier in problem.multipliers():
            assert multiplier.weight.item() == 0

    @pytest.mark.parametrize("coefficient", [1.0, 10.0, 100.0])
    def test_penalty_leaves_the_violation_of_its_closed_form(self, coefficient):
        problem = Convex(Point(GOAL), distance, [half_space], "penalty", penalty_coefficient=coefficient)
        solve(problem, learning_rate=0.5 / (1 + coefficient * SQUARE), steps=20)
        violation = OVERSHOOT / (1 + coefficient * SQUARE)
        torch.testing.assert_close(problem.point.x.detach(), GOAL - coefficient * violation * NORMAL)

    def test_a_growing_penalty_approaches_the_solution(self):
        problem = Convex(Point(GOAL), distance, [half_space], "penalty", penalty_coefficient=1.0)
        errors = []
        for number in range(6):
            solver = solve(problem, steps=20, learning_rate=0.5 / (1 + 3**number * SQUARE))
            errors.append((problem.point.x.detach() - PROJECTION).norm().item())
            solver.restart(3.0)
        assert all(later < earlier / 2 for earlier, later in zip(errors, errors[1:], strict=False))
        assert errors[-1] < 0.005

    @pytest.mark.parametrize("kind", ["pair", "equality"])
    @pytest.mark.parametrize("solver", DUAL_SOLVERS)
    @pytest.mark.parametrize("offset", [1.0, 8.0])
    def test_equality(self, solver, kind, offset):
        """From either side: the multiplier is positive for one offset and negative for the other."""

        def plane(x):
            return NORMAL @ x - offset

        if kind == "pair":
            problem = Convex(Point([0.0, 0.0]), distance, [plane, lambda x: -plane(x)], solver, penalty_coefficient=0.5)
        else:
            problem = Equality(Point([0.0, 0.0]), distance, [plane], solver, penalty_coefficient=0.5)
        solve(problem, steps=150, learning_rate=0.15)
        wanted = ((NORMAL @ GOAL) - offset).item() / SQUARE
        found = problem.multiplier_values()
        assert (found[0] - found[1] if kind == "pair" else found[0]).item() == pytest.approx(wanted, abs=1e-3)
        torch.testing.assert_close(problem.point.x.detach(), GOAL - wanted * NORMAL, atol=1e-3, rtol=0)
        assert abs(plane(problem.point.x).item()) < 1e-3

    @pytest.mark.parametrize("kind", ["pair", "equality"])
    def test_equality_by_penalty(self, kind):
        options = {"solver": "penalty", "penalty_coefficient": 50.0}
        if kind == "pair":
            problem = Convex(Point(GOAL), distance, [half_space, lambda x: -half_space(x)], **options)
        else:
            problem = Equality(Point(GOAL), distance, [half_space], **options)
        solve(problem, learning_rate=0.5 / (1 + 50 * SQUARE), steps=20)
        assert half_space(problem.point.x).item() == pytest.approx(OVERSHOOT / (1 + 50 * SQUARE), abs=1e-3)


class TestAgainstSLSQP:
    """Logistic regression in a ball, beside a plane and off a far wall: one active curved, one active flat, one idle.

    SciPy's sequential quadratic programming works in float64 on the same functions.
    """

    generator = np.random.default_rng(3)
    points = generator.normal(size=(30, 3))
    signs = np.where(points @ [1.0, 2.0, -1.0] > 0, 1.0, -1.0)
    signed = torch.from_numpy(points * signs[:, None]).float()

    def objective(self, x):
        return 4 * F.softplus(-self.signed.to(x) @ x).mean()

    constraints = [lambda x: x @ x - 0.8, lambda x: x[0] + x[1] - 0.9, lambda x: x[2] - 5]

    def oracle(self) -> tuple[np.ndarray, np.ndarray]:
        """Solution, and multipliers by least squares over the active constraints' gradients."""

        def value_and_slope(function):
            def evaluate(x):
                x = torch.tensor(x, requires_grad=True)
                value = function(x)
                return value.item(), torch.autograd.grad(value, x)[0].numpy()

            return evaluate

        functions = [value_and_slope(function) for function in self.constraints]
        wanted = [{"type": "ineq", "fun": lambda x, f=f: -f(x)[0], "jac": lambda x, f=f: -f(x)[1]} for f in functions]
        objective = value_and_slope(self.objective)
        result = scipy.optimize.minimize(
            objective, np.zeros(3), jac=True, constraints=wanted, method="SLSQP", options={"ftol": 1e-12}
        )
        assert result.success
        active = [i for i, f in enumerate(functions) if f(result.x)[0] > -1e-6]
        slopes = np.stack([functions[i](result.x)[1] for i in active], axis=1)
        multipliers = np.zeros(3)
        multipliers[active] = np.linalg.lstsq(slopes, -objective(result.x)[1], rcond=None)[0]
        assert active == [0, 1] and (multipliers[:2] > 0.05).all()
        return result.x, multipliers

    @pytest.mark.parametrize("solver", DUAL_SOLVERS)
    def test_same_solution_and_multipliers(self, solver):
        problem = Convex(Point(np.zeros(3)), self.objective, self.constraints, solver, penalty_coefficient=0.5)
        solve(problem, steps=250, learning_rate=0.2, dual_learning_rate=0.4)
        x, multipliers = self.oracle()
        np.testing.assert_allclose(problem.point.x.detach().numpy(), x, atol=1e-4)
        np.testing.assert_allclose(problem.multiplier_values().numpy(), multipliers, atol=1e-4)
        assert kkt_residual(problem) < 1e-3

    def test_penalty_comes_near_in_proportion(self):
        x, _ = self.oracle()
        errors = []
        for coefficient in (10.0, 100.0):
            problem = Convex(Point(x), self.objective, self.constraints, "penalty", penalty_coefficient=coefficient)
            solve(problem, steps=150, learning_rate=0.5 / (1 + coefficient))
            errors.append(np.abs(problem.point.x.detach().numpy() - x).max())
        assert errors[1] < errors[0] / 5 and errors[1] < 0.01


class TestProxyConstraints:
    """Cotter et al. 2019: the strict violation moves the multiplier, its surrogate moves the variable."""

    @pytest.mark.parametrize("solver", DUAL_SOLVERS)
    @pytest.mark.parametrize("strict", [0.5, -0.5])
    @pytest.mark.parametrize("slope", [1.0, -1.0])
    def test_opposite_signs(self, solver, strict, slope):
        """With an objective of slope 0 the variable goes down the surrogate, whatever the strict violation says."""
        problem = Convex(
            Point([0.2]),
            lambda x: 0 * x.sum(),
            [(lambda x: slope * x.sum(), lambda x: torch.tensor(strict))],
            solver,
            penalty_coefficient=0.1,
        )
        solve(problem, steps=1, learning_rate=0.01, dual_learning_rate=0.5)
        multiplier = 1 + 0.5 * strict
        assert problem.multiplier_values().item() == pytest.approx(multiplier)
        # The multiplier moves first, and the step that saw the violation answers it.
        weight = multiplier + (0.1 * slope * 0.2 if solver == "augmented_lagrangian" else 0)
        assert problem.point.x.item() == pytest.approx(0.2 - 0.01 * weight * slope)

    def test_a_penalty_looks_at_the_surrogate_alone(self):
        for strict in (5.0, -5.0):
            pair = (lambda x: x.sum(), lambda x, strict=strict: torch.tensor(strict))
            problem = Convex(Point([0.2]), lambda x: 0 * x.sum(), [pair], "penalty", penalty_coefficient=10.0)
            solve(problem, steps=1, learning_rate=0.01)
            assert problem.point.x.item() == pytest.approx(0.2 - 0.01 * 10 * 0.2)

    @pytest.mark.parametrize("strict", [0.5, -0.5])
    @pytest.mark.parametrize(("start", "share"), [(0.0, 1.0), (0.5, 1.0), (1.0, 1.0), (40.0, 40.0)])
    def test_a_multiplier_above_1_moves_in_proportion(self, start, share, strict):
        """So that it finds its order of magnitude; below 1 it moves plainly, so that 0 is no trap."""
        pair = (lambda x: x.sum(), lambda x: torch.tensor(strict))
        problem = Convex(Point([0.0]), lambda x: 0 * x.sum(), [pair], "lagrangian", multiplier=start)
        solve(problem, steps=1, dual_learning_rate=0.1)
        assert problem.multiplier_values().item() == pytest.approx(max(0.0, start + 0.1 * share * strict))

    def test_a_multiplier_never_turns_negative(self):
        problem = Convex(Point([0.0]), lambda x: x.sum(), [(lambda x: x.sum(), lambda x: x.sum() - 100)], "lagrangian")
        solve(problem, steps=3)
        assert problem.multiplier_values().item() == 0


class TestRestart:
    OPTIMIZERS = {
        "sgd": lambda point: torch.optim.SGD(point.parameters(), lr=0.05, momentum=0.9, nesterov=True),
        "sam": lambda point: SAM(point.parameters(), torch.optim.SGD, lr=0.05, momentum=0.9),
        "adamw": lambda point: torch.optim.AdamW(point.parameters(), lr=0.05),
    }

    def begin(self, name, optimizer="sgd", start=(0.5, 1.5), least=1.0, **duals):
        problem = Convex(Point(start), distance, [half_space], name, **duals)
        primal = self.OPTIMIZERS[optimizer](problem.point)
        return problem, Solver(problem, primal, problem.point, dual_learning_rate=0.2, least_multiplier=least)

    @pytest.mark.parametrize("name", SOLVERS)
    @pytest.mark.parametrize(("first", "least"), [(4.0, 1.0), (0.25, 1.0), (0.25, 0.1), (0.0, 0.1)])
    def test_duals_are_a_factor_of_what_they_were_at_the_snapshot(self, name, first, least):
        """Whatever the multipliers did since; one at 0 is raised from the least. Before a snapshot: the first ones."""
        problem, solver = self.begin(name, multiplier=first, penalty_coefficient=2.0, least=least)
        for number in (1, 2):
            for multiplier in problem.multipliers():
                multiplier.weight.data.fill_(70.0)
            solver.restart(3.0)
            for multiplier in problem.multipliers():
                assert multiplier.weight.item() == pytest.approx(3 * max(first, least))
                multiplier.weight.data.fill_(first)
            for coefficient in problem.penalty_coefficients():
                assert coefficient.value.item() == pytest.approx(2 * 3**number)
            solver.snapshot()

    @pytest.mark.parametrize("optimizer", OPTIMIZERS)
    def test_the_next_steps_are_those_of_a_fresh_optimizer(self, optimizer):
        """Momentum points to where the run went wrong; Adam's bias correction begins anew with its averages."""
        problem, solver = self.begin("augmented_lagrangian", optimizer, penalty_coefficient=0.5)
        for _ in range(20):
            take_step(solver)
        here = problem.point.x.detach().clone()
        solver.restart(2.0)
        assert torch.equal(problem.point.x, here)
        other, fresh = self.begin("augmented_lagrangian", optimizer, here, multiplier=2.0, penalty_coefficient=1.0)
        for _ in range(5):
            take_step(solver)
            take_step(fresh)
            torch.testing.assert_close(problem.point.x, other.point.x, rtol=0, atol=1e-6)
            torch.testing.assert_close(problem.multiplier_values(), other.multiplier_values())

    def test_what_the_problem_learned_beside_goes_with_the_multipliers(self):
        problem, solver = self.begin("lagrangian")
        calls = []
        problem.snapshot, problem.rollback = (lambda name=name: calls.append(name) for name in ("keep", "back"))
        solver.snapshot()
        solver.restart(2.0)
        assert calls == ["keep", "back"]


class TestSAM:
    def problem(self, solver="lagrangian"):
        return Convex(Point([0.5, 1.5]), distance, [half_space], solver, multiplier=0.8, penalty_coefficient=0.5)

    def test_one_step_by_hand(self):
        """Dual step on the first pass, ascent along the Lagrangian, descent with the gradient found there."""
        problem, start = self.problem(), torch.tensor([0.5, 1.5])
        primal = SAM(problem.point.parameters(), torch.optim.SGD, rho=0.3, lr=0.1)
        take_step(Solver(problem, primal, problem.point, dual_learning_rate=0.2))
        multiplier = 0.8 + 0.2 * half_space(start).item()

        def slope(x):
            return x - GOAL + multiplier * NORMAL

        worst = start + 0.3 * slope(start) / slope(start).norm()
        assert problem.multiplier_values().item() == pytest.approx(multiplier)
        torch.testing.assert_close(problem.point.x.detach(), start - 0.1 * slope(worst))
        assert len(problem.evaluations) == 2
        torch.testing.assert_close(problem.evaluations[1], worst)

    def test_commits_the_first_pass_and_nothing_else(self):
        problem = self.problem()
        primal = SAM(problem.point.parameters(), torch.optim.SGD, rho=0.3, lr=0.1)
        state = take_step(Solver(problem, primal, problem.point))
        assert len(problem.committed) == 1 and problem.committed[0] is state
        assert state.loss.item() == pytest.approx(distance(torch.tensor([0.5, 1.5])).item())

    @pytest.mark.parametrize("solver", DUAL_SOLVERS)
    def test_finds_the_projection(self, solver):
        problem = self.problem(solver)
        primal = SAM(problem.point.parameters(), torch.optim.SGD, rho=1e-4, lr=0.3)
        optimizer = Solver(problem, primal, problem.point, dual_learning_rate=0.1)
        for _ in range(100):
            take_step(optimizer)
        torch.testing.assert_close(problem.point.x.detach(), PROJECTION, atol=2e-3, rtol=0)

    def test_batch_norm_sees_the_first_pass_alone(self):
        model = nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)).train()
        inputs, labels = torch.randn(8, 2, generator=torch.Generator().manual_seed(0)), torch.arange(8) % 3
        hidden = model[0](inputs).detach()
        objective = EmpiricalRisk(model, Precision(torch.device("cpu"), torch.float32))
        steps = GradientSteps(objective, model, Recipe(use_sam=True, rho=5.0), 1)
        steps({"train": (inputs, labels)})
        assert model[1].num_batches_tracked == 1
        torch.testing.assert_close(model[1].running_mean, 0.1 * hidden.mean(0))


class TestGradientNorm:
    @pytest.mark.parametrize(("limit", "length"), [(None, 5.0), (10.0, 5.0), (5.0, 5.0), (2.0, 2.0)])
    def test_scales_longer_gradients_only_and_logs_the_norm_before(self, limit, length):
        point = Point([3.0, 4.0])
        problem = Convex(point, lambda x: x @ x / 2, [], "lagrangian")
        solver = Solver(problem, torch.optim.SGD(point.parameters(), lr=0.1), point, max_grad_norm=limit)
        figures = take_step(solver).misc
        assert figures["gradient/norm"].item() == pytest.approx(5)
        torch.testing.assert_close(
            point.x.detach(), torch.tensor([3.0, 4.0]) * (1 - 0.1 * length / 5), rtol=1e-5, atol=1e-5
        )

    def test_both_passes_of_sam_are_scaled(self):
        point = Point([3.0, 4.0])
        problem = Convex(point, lambda x: x @ x / 2, [], "lagrangian")
        primal = SAM(point.parameters(), torch.optim.SGD, rho=1.0, lr=0.1)
        figures = take_step(Solver(problem, primal, point, max_grad_norm=1.0)).misc
        assert figures["gradient/norm"].item() == pytest.approx(5)
        torch.testing.assert_close(point.x.detach(), torch.tensor([3.0, 4.0]) * (1 - 0.1 / 5), rtol=1e-5, atol=1e-5)

    def test_gradients_do_not_add_up_over_steps(self):
        point = Point([1.0, 0.0])
        solver = Solver(Convex(point, lambda x: x.sum(), [], "lagrangian"), torch.optim.SGD([point.x], lr=0.1), point)
        norms = [take_step(solver).misc["gradient/norm"].item() for _ in range(3)]
        assert norms == pytest.approx([2**0.5] * 3)


class TestFullState:
    @pytest.mark.parametrize("sam", [False, True])
    @pytest.mark.parametrize("name", SOLVERS)
    def test_a_restored_solver_goes_on_identically(self, name, sam, tmp_path):
        def fresh():
            problem = Convex(Point([0.5, 1.5]), distance, [half_space], name, penalty_coefficient=3.0)
            options = {"lr": 0.05, "momentum": 0.9}
            primal = (
                SAM(problem.point.parameters(), torch.optim.SGD, **options)
                if sam
                else torch.optim.SGD(problem.point.parameters(), **options)
            )
            return problem, Solver(problem, primal, problem.point)

        def advance(solver):
            solver.restart(2.0)
            for _ in range(5):
                take_step(solver)

        def values(problem):
            return [problem.point.x.detach(), *(m.weight.detach() for m in problem.multipliers()),
                    *(c.value for c in problem.penalty_coefficients())]  # fmt: skip

        problem, solver = fresh()
        advance(solver)
        solver.snapshot()
        take_step(solver)
        save_tensors({"solver": solver.state_dict(), "model": problem.point.state_dict()}, tmp_path / "state.pt")
        state = load_tensors(tmp_path / "state.pt", "")
        resumed, other = fresh()
        resumed.point.load_state_dict(state["model"])
        other.load_state_dict(state["solver"])
        for each in (solver, other):
            advance(each)
        for expected, found in zip(values(problem), values(resumed), strict=True):
            assert torch.equal(expected, found)


class TestEmpiricalRisk:
    def test_is_plain_gradient_descent(self):
        torch.manual_seed(0)
        model, plain = nn.Linear(4, 3), nn.Linear(4, 3)
        plain.load_state_dict(model.state_dict())
        inputs, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 0, 1, 2])
        expected = F.cross_entropy(plain(inputs), labels)
        right = (plain(inputs).argmax(1) == labels).float().mean().item()
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.5)
        expected.backward()
        optimizer.step()
        objective = EmpiricalRisk(model, Precision(torch.device("cpu"), torch.float32))
        recipe = Recipe(learning_rate=0.5, momentum=0.0, weight_decay=0.0, schedule="constant")
        figures = GradientSteps(objective, model, recipe, 1)({"train": (inputs, labels)})
        assert torch.equal(model.weight, plain.weight) and torch.equal(model.bias, plain.bias)
        assert figures["train/loss"].item() == pytest.approx(expected.item())
        assert figures["train/top1"].item() == pytest.approx(100 * right)
