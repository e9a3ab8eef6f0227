"""The numbered statements of docs/theory.md, each by a test of its own, on a convex model with exact solutions."""

import dataclasses
import functools
import math
import re
from pathlib import Path

import cooper
import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from helpers.solving import take_step
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import roc_auc_score
from torch import nn
from torch.nn import functional as F

from benchmarks.theory import theory_figure
from benchmarks.theory.convex import DECAY, NUM_CLASSES, Front, Risk, digits_case, minimise
from benchmarks.theory.theory_figure import FullBatch, learn
from helper_functions.errors import UserError
from optimizer.problems import Problem
from optimizer.solver import SOLVERS, Solver, inequality
from unlearning.constrained.difficulty import Difficulty
from unlearning.constrained.targets import UnseenTarget, ZeroTarget, weighted_quantiles

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "theory.md").read_text()
CASE = digits_case()
# Retain loss against the labels, falling below the original's; and against the original's answers, rising from 0.
FRONTS = {
    "labels": (CASE.front(CASE.retain_on_labels), CASE.retain_on_labels(CASE.original).item() - 0.03),
    "original": (CASE.front(CASE.retain_on_original), 0.03),
}
few = functools.partial(settings, derandomize=True)
both = pytest.mark.parametrize("name", FRONTS)


@functools.cache
def optimum(name, shift=0.0):
    front, bound = FRONTS[name]
    return front.within(bound + shift)


@functools.cache
def solved(name, logarithm):
    """Weights, objective and constraint at a multiplier."""
    front = FRONTS[name][0]
    weights = front.at(math.exp(logarithm)).weights
    return weights, front.objective(weights).item(), front.constraint(weights).item()


def values(name, shift=0.0):
    front, bound = FRONTS[name]
    found = optimum(name, shift)
    return front.objective(found.weights).item(), found.multiplier, bound + shift


def somewhere(seed, spread):
    return CASE.original + spread * torch.randn(CASE.original.shape, generator=torch.Generator().manual_seed(seed))


class TestConvexModel:
    """The model that everything below is checked on is what it says."""

    @both
    def test_derivatives(self, name):
        weights = somewhere(0, 1.0).requires_grad_()
        for risk in (FRONTS[name][0].objective, FRONTS[name][0].constraint):
            (slope,) = torch.autograd.grad(risk(weights), weights)
            torch.testing.assert_close(risk.gradient(weights.detach()), slope)
            small = Risk(risk.features[:20, -4:], risk.answers[:20], risk.decay)
            part = weights.detach()[:, -4:].contiguous()
            hessian = torch.autograd.functional.hessian(small, part)
            torch.testing.assert_close(small.hessian(part), hessian.reshape(part.numel(), -1))

    def test_both_optima(self):
        whole = Risk(CASE.features, F.one_hot(CASE.labels, NUM_CLASSES).double(), DECAY)
        assert whole.gradient(CASE.original).norm() < 1e-12
        assert CASE.retain_on_labels.gradient(CASE.retrained).norm() < 1e-12
        assert CASE.retain_on_original(CASE.original).abs() < 1e-12
        logits = torch.tensor([[0.3, -1.0, 2.0]])
        kl = F.kl_div(logits.log_softmax(1), logits.flip(1).softmax(1), reduction="batchmean")
        assert Risk(torch.eye(1), logits.flip(1).softmax(1), 0.0)(logits.T).item() == pytest.approx(kl.item())


# 1. The problem


@both
@few(max_examples=15)
@given(logarithm=st.floats(-3, 6))
def test_any_multiplier_bounds_the_optimum(name, logarithm):
    best, _, bound = values(name)
    _, objective, constraint = solved(name, logarithm)
    weight = math.exp(logarithm)
    assert objective + weight * (constraint - bound) <= best + 1e-12
    if constraint <= bound:
        assert -1e-12 <= objective - best <= weight * (bound - constraint) + 1e-12


@both
def test_the_best_bound_is_the_optimum(name):
    """By an oracle that knows no multiplier, SciPy's sequential quadratic programming."""
    front, bound = FRONTS[name]
    best, multiplier, _ = values(name)

    def evaluate(risk, sign, x):
        weights = torch.from_numpy(x).reshape(CASE.original.shape)
        return sign * risk(weights).item(), sign * risk.gradient(weights).numpy().ravel()

    found = scipy.optimize.minimize(
        lambda x: evaluate(front.objective, 1, x), CASE.original.numpy().ravel(), jac=True, method="SLSQP",
        constraints={"type": "ineq", "fun": lambda x: bound + evaluate(front.constraint, -1, x)[0],
                     "jac": lambda x: evaluate(front.constraint, -1, x)[1]},
        options={"ftol": 1e-10, "maxiter": 300},
    )  # fmt: skip
    assert found.success and found.fun == pytest.approx(best, abs=1e-6)
    strict = CASE.retrained if name == "labels" else CASE.original
    slack = bound - front.constraint(strict)
    assert 0 < multiplier <= ((front.objective(strict) - front.objective(front.at(0.0).weights)) / slack).item()


@both
def test_karush_kuhn_tucker(name):
    front, bound = FRONTS[name]
    found = optimum(name)
    slope = front.objective.gradient(found.weights) + found.multiplier * front.constraint.gradient(found.weights)
    assert slope.norm() < 1e-10 and found.multiplier > 0
    assert front.constraint(found.weights).item() == pytest.approx(bound, abs=1e-11)
    idle = front.within(front.constraint(front.at(0.0).weights).item() + 0.1)
    assert idle.multiplier == 0 and front.objective.gradient(idle.weights).norm() < 1e-10


@both
def test_the_second_stage_is_the_same_front(name):
    front, _ = FRONTS[name]
    first = optimum(name)
    swapped = Front(front.constraint, front.objective, first.weights + 0.01)
    # Where the retain loss has no decay of its own, its minimum is not one, and roots are looked for from within.
    second = minimise([(1.0, front.constraint), (1 / first.multiplier, front.objective)], swapped.start)
    torch.testing.assert_close(second, first.weights, atol=1e-8, rtol=0)
    if name == "labels":
        second = swapped.within(front.objective(first.weights).item())
        assert second.multiplier == pytest.approx(1 / first.multiplier, rel=1e-8)
        torch.testing.assert_close(second.weights, first.weights, atol=1e-7, rtol=0)


JUMP = scipy.optimize.brentq(lambda r: 1 + 2 * r**2 - math.exp(r**2), 0.5, 2)


def test_a_gap_that_no_weight_closes():
    x = np.linspace(0, 6, 600_001)
    forget = np.exp(-(x**2))
    critical = (1 - math.exp(-(JUMP**2))) / JUMP
    assert pytest.approx((1.1209, 0.6382), abs=1e-4) == (JUMP, critical)
    weights = np.linspace(0.01, 2, 100)
    reached = np.array([x[np.argmin(forget + weight * x)] for weight in weights])
    assert ((reached < 1e-9) == (weights > critical)).all() and (reached[weights < critical] > JUMP).all()
    best_bound = max((forget + weight * (x - 0.5)).min() for weight in [*weights, critical])
    assert best_bound == pytest.approx(1 - critical / 2, abs=1e-8)
    assert math.exp(-0.25) - best_bound == pytest.approx(0.0979, abs=1e-4)


class Small(Problem):
    """min objective(x) subject to surrogate(x) ≤ 0, the multiplier moved by strict(x)."""

    def __init__(self, start, objective, surrogate, strict, solver="lagrangian", **options):
        super().__init__()
        self.point = nn.Module()
        self.point.x = nn.Parameter(torch.tensor(start, dtype=torch.float64))
        self.functions = objective, surrogate, strict
        self.dual = SOLVERS[solver].expects_multiplier
        self.constraint = inequality(solver, **options)
        for part in (self.constraint.multiplier, self.constraint.penalty_coefficient):
            if part is not None:
                part.to(torch.float64)

    @property
    def multiplier(self):
        return self.constraint.multiplier.weight.item()

    def compute_cmp_state(self):
        objective, surrogate, strict = (function(self.point.x) for function in self.functions)
        state = cooper.ConstraintState(
            violation=surrogate, strict_violation=strict.detach(), contributes_to_dual_update=self.dual
        )
        return cooper.CMPState(loss=objective, observed_constraints={self.constraint: state})

    def solve(self, steps, learning_rate, dual_learning_rate, least=1.0):
        optimizer = torch.optim.SGD([self.point.x], lr=learning_rate)
        solver = Solver(self, optimizer, self.point, dual_learning_rate, least_multiplier=least)
        path = []
        for _ in range(steps):
            take_step(solver)
            path.append(self.point.x.detach().clone())
        return torch.stack(path)


def test_an_augmented_lagrangian_holds_what_a_lagrangian_does_not():
    def problem(solver, **options):
        def violation(x):
            return x - 0.5

        return Small(0.52, lambda x: torch.exp(-(x**2)), violation, violation, solver, multiplier=0.75, **options)

    held = problem("augmented_lagrangian", penalty_coefficient=4.0)
    held.solve(400, 0.15, 0.3)
    assert held.point.x.item() == pytest.approx(0.5, abs=1e-9)
    assert held.multiplier == pytest.approx(math.exp(-0.25), abs=1e-9)
    for solver, options in (("lagrangian", {}), ("augmented_lagrangian", {"penalty_coefficient": 0.5})):
        path = problem(solver, **options).solve(400, 0.15, 0.3)
        assert (path[-200:] - 0.5).abs().max() > 0.3, solver


# 2. Objectives that have a solution


def test_minus_the_loss_of_a_class_has_no_minimum():
    """Along the forgotten class's bias, for every weight and every budget."""
    labels = F.one_hot(CASE.labels[CASE.forget], NUM_CLASSES).double()
    forget_loss = Risk(CASE.features[CASE.forget], labels, 0.0)
    kept = CASE.retain_on_labels
    retain_loss = Risk(kept.features, kept.answers, 0.0)
    away = torch.zeros_like(CASE.original)
    away[CASE.digit, -1] = -1
    losses = [retain_loss(CASE.original + length * away).item() for length in (0, 1, 10, 100, 1e3, 1e4)]
    assert losses == sorted(losses, reverse=True)
    far = forget_loss(CASE.original + 1e7 * away).item()
    assert far / 1e7 == pytest.approx(CASE.features[0, -1].item(), rel=1e-4)


def test_decay_bounds_a_linear_model_far_beyond_chance():
    labels = F.one_hot(CASE.labels[CASE.forget], NUM_CLASSES).double()
    forget_loss = Risk(CASE.features[CASE.forget], labels, 0.0)

    def value_and_slope(x):
        weights = torch.from_numpy(x).reshape(CASE.original.shape)
        slope = DECAY * weights - forget_loss.gradient(weights)
        return (DECAY / 2 * weights.square().sum() - forget_loss(weights)).item(), slope.numpy().ravel()

    found = scipy.optimize.minimize(value_and_slope, CASE.original.numpy().ravel(), jac=True, method="L-BFGS-B")
    weights = torch.from_numpy(found.x).reshape(CASE.original.shape)
    assert -math.log(NUM_CLASSES) - 1 / DECAY <= found.fun
    assert weights.norm() <= math.sqrt(2) / DECAY
    assert forget_loss(weights) > 100 * math.log(NUM_CLASSES)


@few(max_examples=20)
@given(seed=st.integers(0, 1000), decay=st.sampled_from([1e-3, 1.0, 100.0]))
def test_decay_does_not_bound_a_deep_network(seed, decay):
    generator = torch.Generator().manual_seed(seed)
    image, layers = torch.randn(5, generator=generator).double(), []
    for shape in ((8, 5), (8, 8), (4, 8)):
        layers.append(torch.randn(shape, generator=generator).double())

    def logits(length):
        hidden = image
        for layer in layers[:-1]:
            hidden = (length * layer @ hidden).relu()
        return length * layers[-1] @ hidden

    if logits(1).max() - logits(1).min() < 1e-3:
        return
    label = logits(1).argmin()  # wrong at this point
    size = sum(layer.square().sum() for layer in layers)

    def value(length):
        return (decay / 2 * length**2 * size - F.cross_entropy(logits(length), label)).item()

    torch.testing.assert_close(logits(10.0), 1000 * logits(1.0))
    assert value(1e8) < value(1e7) < -1e6


@few(max_examples=30)
@given(logits=st.lists(st.floats(-20, 20), min_size=4, max_size=4))
def test_a_bounded_objective_is_zero_where_it_is_reached(logits):
    """0 at the target and above it on the other side: lower semicontinuous, so that a compact set has a minimum."""
    logits, label = torch.tensor([logits], dtype=torch.float64), torch.tensor([0])
    target = ZeroTarget(torch.tensor([]))
    objective, reached = target.objective(logits, label)
    loss, bound = F.cross_entropy(logits, label).item(), -math.log(target.bound)
    if abs(loss - bound) > 1e-9:
        assert (objective == 0) == bool(reached) == (loss > bound)
    assert objective >= 0


# 3. A fixed weight is a guess


@both
@few(max_examples=20)
@given(first=st.floats(-3, 6), second=st.floats(-3, 6))
def test_every_weight_is_a_budget(name, first, second):
    first, second = sorted((first, second))
    _, objective_1, constraint_1 = solved(name, first)
    _, objective_2, constraint_2 = solved(name, second)
    spent, gained = constraint_1 - constraint_2, objective_2 - objective_1
    assert spent >= -1e-12
    assert math.exp(first) * spent - 1e-11 <= gained <= math.exp(second) * spent + 1e-11


@both
def test_one_weight_of_all_is_the_budgets(name):
    """NegGrad+'s convex combinations run through the same front, and come to the budget once."""
    front, bound = FRONTS[name]
    shares = [0.3, 0.5, 0.7, 0.9, 0.95, 0.99]
    spent = []
    for share in shares:
        weights = minimise([(share, front.constraint), (1 - share, front.objective)], CASE.original)
        spent.append(front.constraint(weights).item())
        torch.testing.assert_close(front.at(share / (1 - share)).weights, weights, atol=1e-7, rtol=0)
    found = front.within(spent[-1])
    assert found.multiplier == pytest.approx(99, rel=1e-6)
    torch.testing.assert_close(found.weights, weights, atol=1e-5, rtol=0)
    assert spent == sorted(spent, reverse=True) and len(set(spent)) == len(spent)
    own = optimum(name).multiplier
    assert [value > bound for value in spent] == [share / (1 - share) < own for share in shares]


def test_alternating_passes_are_a_weight():
    """Two steps down F, three down R: settles at the minimum of F + 3/2 R, but for the length of a step."""
    front, _ = FRONTS["labels"]
    goal, identity = front.at(1.5).weights, torch.eye(CASE.original.numel(), dtype=torch.float64)

    def rest(length):
        weights = goal
        for _ in range(20):
            moved, slope = weights, identity
            for risk in (front.objective,) * 2 + (front.constraint,) * 3:
                slope = (identity - length * risk.hessian(moved)) @ slope
                moved = moved - length * risk.gradient(moved)
            step = torch.linalg.solve(identity - slope, (moved - weights).ravel()).reshape(weights.shape)
            weights = weights + step
            if step.norm() < 1e-11:
                return weights
        raise AssertionError("no point of rest")

    errors = [(rest(length) - goal).norm().item() for length in (0.2, 0.1, 0.05)]
    assert errors[0] / errors[1] == pytest.approx(2, abs=0.1) and errors[1] / errors[2] == pytest.approx(2, abs=0.1)


@both
@few(max_examples=20)
@given(logarithm=st.floats(-3, 6))
def test_what_a_wrong_guess_costs(name, logarithm):
    best, price, bound = values(name)
    weight = math.exp(logarithm)
    _, objective, constraint = solved(name, logarithm)
    low, high = sorted((weight, price))
    unspent = bound - constraint
    assert (unspent >= -1e-11) if weight >= price else (unspent <= 1e-11)
    assert low * abs(unspent) - 1e-11 <= abs(objective - best) <= high * abs(unspent) + 1e-11
    dual = objective + weight * (constraint - bound)
    assert -1e-11 <= best - dual <= (price - weight) * (constraint - bound) + 1e-11


@both
def test_how_fast_the_budget_runs_away(name):
    front, _ = FRONTS[name]
    found = optimum(name)
    slope = front.constraint.gradient(found.weights).reshape(-1, 1)
    hessian = front.objective.hessian(found.weights) + found.multiplier * front.constraint.hessian(found.weights)
    rate = (slope.T @ torch.linalg.solve(hessian, slope)).item()
    step = 1e-4 * found.multiplier
    ends = [front.constraint(front.at(found.multiplier + sign * step).weights).item() for sign in (1, -1)]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(-rate, rel=1e-5)


# 4. The multiplier is a price


@both
def test_the_multiplier_is_the_price(name):
    step = 1e-4
    (cheap, *_), (best, price, _), (dear, *_) = values(name, step), values(name), values(name, -step)
    assert (dear - cheap) / (2 * step) == pytest.approx(price, rel=1e-4)
    assert cheap + dear >= 2 * best


def test_the_price_of_a_point():
    front, _ = FRONTS["original"]
    ends = [front.within(bound) for bound in (0.03, 0.1)]
    points = (CASE.retain_accuracy(ends[0].weights) - CASE.retain_accuracy(ends[1].weights)).item()
    assert points > 1
    paid = ((front.objective(ends[0].weights) - front.objective(ends[1].weights)) / points).item()
    assert ends[1].multiplier * 0.07 / points <= paid <= ends[0].multiplier * 0.07 / points


def test_the_first_nats_buy_most():
    """Beside the original: λ √(2ε) → a, and the way there is the natural gradient's."""
    front, _ = FRONTS["original"]
    slope = front.objective.gradient(CASE.original).reshape(-1, 1)
    natural = torch.linalg.pinv(front.constraint.hessian(CASE.original), hermitian=True, rtol=1e-12) @ slope
    a = (slope.T @ natural).sqrt().item()
    errors = []
    for multiplier in (1e4, 1e5):
        weights = front.at(multiplier).weights
        errors.append(abs(multiplier * math.sqrt(2 * front.constraint(weights).item()) / a - 1))
    assert errors[1] < errors[0] / 5 and errors[1] < 0.02
    moved = (weights - CASE.original).reshape(-1, 1)
    assert F.cosine_similarity(moved, -natural, dim=0).item() > 0.99


# 5. Accuracy moves the multiplier, loss the weights


class Proxied(FullBatch):
    """The fall of retain accuracy, in points, in the dual variable's place of the loss."""

    aim = 1.0

    def compute_cmp_state(self):
        state = super().compute_cmp_state()
        (constraint,) = state.observed_constraints.values()
        weights = self.model.weights.detach()
        fall = CASE.retain_accuracy(CASE.original) - CASE.retain_accuracy(weights)
        constraint.strict_violation = fall - self.aim
        return state


def test_a_proxy_equilibrium_is_optimal_for_the_loss_it_spends():
    front, _ = FRONTS["original"]

    def after(steps, margin):
        problem = Proxied(front, margin, "lagrangian", multiplier=10.0)
        primal = torch.optim.SGD(problem.model.parameters(), lr=0.4, momentum=0.95, nesterov=True)
        solver = Solver(problem, primal, problem.model, 0.002)
        for _ in range(steps):
            take_step(solver)
        return problem.model.weights.detach(), problem.budget.multiplier.weight.item()

    weights, multiplier = after(700, 0.0)
    fall = (CASE.retain_accuracy(CASE.original) - CASE.retain_accuracy(weights)).item()
    assert abs(fall - Proxied.aim) <= 200 / len(front.constraint.features)  # two images
    found = front.within(front.constraint(weights).item())
    assert front.objective(weights).item() == pytest.approx(front.objective(found.weights).item(), abs=1e-3)
    assert multiplier == pytest.approx(found.multiplier, rel=0.05)
    # The margin is nowhere in a Lagrangian's steps.
    assert torch.equal(after(20, 0.0)[0], after(20, 0.2)[0])


@pytest.mark.parametrize("margin", [1.9, 2.0, 2.1])
@pytest.mark.parametrize("solver", ["lagrangian", "augmented_lagrangian"])
def test_a_proxy_equilibrium_need_not_be_optimal_for_the_accuracy(solver, margin):
    """It ends at (1, 1) with an objective of 1, where (1, 2) has ½; and what the multiplier says depends on solver."""
    goal = torch.tensor([2.0, 2.0], dtype=torch.float64)
    problem = Small(
        [2.0, 2.0], lambda x: (x - goal).square().sum() / 2, lambda x: x.sum() - margin, lambda x: x[0] - 1,
        solver, penalty_coefficient=1.0,
    )  # fmt: skip
    problem.solve(400, 0.2, 0.2)
    torch.testing.assert_close(problem.point.x.detach(), torch.ones(2, dtype=torch.float64))
    correction = 2 - margin if solver == "augmented_lagrangian" else 0
    assert problem.multiplier == pytest.approx(1 - correction, abs=1e-6)


# 6. The dual step


def frozen(violation, multiplier):
    return Small(
        0.0, lambda x: 0 * x, lambda x: x + violation, lambda x: torch.tensor(violation, dtype=torch.float64),
        multiplier=multiplier,
    )  # fmt: skip


@few(max_examples=40)
@given(
    multiplier=st.one_of(st.just(0.0), st.floats(1e-3, 1e3)),
    size=st.one_of(st.just(0.0), st.floats(1e-3, 10)), sign=st.sampled_from([-1, 1]),
)  # fmt: skip
def test_the_dual_step_rests_where_slackness_is_complementary(multiplier, size, sign):
    problem = frozen(sign * size, multiplier)
    before = problem.multiplier
    problem.solve(1, 0.0, 0.03)
    complementary = sign * size <= 0 and before * size == 0
    assert (problem.multiplier == before) == complementary
    assert problem.multiplier >= 0


@few(max_examples=10)
@given(share=st.floats(0.05, 0.5), order=st.floats(1, 4), unit=st.sampled_from([1.0, 0.1]))
def test_the_dual_step_finds_the_order_of_magnitude(share, order, unit):
    orders, far = math.log(10**order), 10**order * unit
    up, down = frozen(share / 0.1, 0.0), frozen(-share / 0.1, far)
    up.solve(math.ceil(1 / share) + math.ceil(orders / math.log(1 + share)), 0.0, 0.1, unit)
    assert up.multiplier >= far * (1 - 1e-9)
    steps = math.ceil(orders / -math.log(1 - share)) + math.ceil(1 / share)
    down.solve(steps, 0.0, 0.1, unit)
    assert down.multiplier == 0


@both
@few(max_examples=20)
@given(seed=st.integers(0, 1000), spread=st.floats(0.01, 10), logarithm=st.floats(-4, 5))
def test_the_saddle_flow_draws_near(name, seed, spread, logarithm):
    """The Bregman distance falls along θ' = −∇L, λ' = max(λ, 1) g, at least by μ‖θ − θ*‖² in a unit of time."""
    front, bound = FRONTS[name]
    found = optimum(name)
    multiplier, weights = math.exp(logarithm), somewhere(seed, spread)
    apart = weights - found.weights
    slope = front.objective.gradient(weights) + multiplier * front.constraint.gradient(weights)
    falling = -(apart * slope).sum() + (multiplier - found.multiplier) * (front.constraint(weights) - bound)
    assert falling.item() <= -DECAY * apart.square().sum().item() + 1e-9


@pytest.mark.parametrize("solver", ["lagrangian", "augmented_lagrangian"])
@both
def test_our_solver_finds_optimum_and_price(name, solver):
    front, bound = FRONTS[name]
    found, step = optimum(name), 1e-4
    problem = learn(front, bound, 700, solver, multiplier=10.0, penalty_coefficient=10.0)
    learned = problem.budget.multiplier.weight.item()
    assert learned == pytest.approx(found.multiplier, rel=1e-3)
    assert (problem.model.weights - found.weights).norm() < 1e-3 * found.weights.norm()
    assert learned == pytest.approx((values(name, -step)[0] - values(name, step)[0]) / (2 * step), rel=2e-3)


# 7. Penalties


@pytest.mark.parametrize("coefficient", [30.0, 300.0])
def test_a_penalty_overdraws_by_the_price_over_its_coefficient(coefficient):
    front, bound = FRONTS["labels"]
    price = optimum("labels").multiplier
    problem = learn(front, bound, 400, "penalty", penalty_coefficient=coefficient)
    overdraft = front.constraint(problem.model.weights).item() - bound
    later = front.within(bound + price / coefficient).multiplier
    assert later - 1e-3 <= coefficient * overdraft <= price + 1e-3
    assert coefficient * overdraft == pytest.approx(front.within(bound + overdraft).multiplier, rel=1e-3)


@both
@few(max_examples=15)
@given(seed=st.integers(0, 1000), spread=st.floats(1e-3, 5), coefficient=st.sampled_from([0.1, 10.0, 1e4]))
def test_an_augmented_lagrangian_is_exact(name, seed, spread, coefficient):
    front, bound = FRONTS[name]
    best, price, _ = values(name)

    def value(weights):
        start = dataclasses.replace(front, start=weights)
        problem = FullBatch(start, bound, "augmented_lagrangian", multiplier=price, penalty_coefficient=coefficient)
        problem.budget.multiplier.weight.data.fill_(price)
        lagrangian = problem.compute_cmp_state().compute_primal_lagrangian().lagrangian
        lagrangian.backward()
        return lagrangian.item(), problem.model.weights.grad.norm().item()

    at_optimum, slope = value(optimum(name).weights)
    assert at_optimum == pytest.approx(best, abs=1e-8) and slope < 1e-6
    assert value(optimum(name).weights + spread * somewhere(seed, 1.0).sub(CASE.original))[0] >= best


# 8. Why the mean is not enough


def with_loss(losses):
    """Logits `[N, 2]` with these losses on label 0, and the labels."""
    losses = torch.as_tensor(losses, dtype=torch.float64)
    return torch.stack([torch.zeros_like(losses), losses.expm1().log()], 1), torch.zeros(len(losses), dtype=torch.long)


def odds(losses):
    return np.log(np.expm1(losses))


def distance(forget, unseen):
    unseen = torch.as_tensor(unseen, dtype=torch.float64)
    return UnseenTarget(torch.ones_like(unseen)).distance(*with_loss(forget), unseen, torch.ones_like(unseen))


def attack(forget, unseen):
    """AUC and largest advantage of calling low losses members."""
    losses, member = np.concatenate([forget, unseen]), np.r_[np.ones(len(forget)), np.zeros(len(unseen))]
    grid = np.unique(losses)
    shares = [np.searchsorted(np.sort(part), grid, side="right") / len(part) for part in (forget, unseen)]
    return roc_auc_score(member, -losses), max(0.0, (shares[0] - shares[1]).max())


def test_a_mean_that_half_the_set_escapes():
    def exponential(number):
        return -np.log1p(-(np.arange(number) + 0.5) / number)

    unseen, forget = exponential(20_000), np.concatenate([np.zeros(10_000), 2 * exponential(10_000)])
    assert forget.mean() == pytest.approx(unseen.mean(), rel=1e-3)
    assert scipy.stats.wasserstein_distance(forget, unseen) == pytest.approx(1 / 2, rel=2e-3)
    auc, advantage = attack(forget, unseen)
    assert auc == pytest.approx(2 / 3, abs=1e-3) and advantage == pytest.approx(0.5, abs=1e-3)
    target = UnseenTarget(torch.ones(20_000))
    target.refresh(torch.from_numpy(unseen), torch.from_numpy(forget))
    assert target.objective(*with_loss(forget))[0] > 0.05 and distance(forget, unseen) > 0.5
    same, none = attack(unseen, unseen)
    assert same == pytest.approx(0.5) and none == 0 and distance(unseen, unseen) < 1e-6


some_losses = st.lists(st.floats(0.01, 12), min_size=2, max_size=30)


@few(max_examples=30)
@given(forget=some_losses, seed=st.integers(0, 100))
def test_wasserstein_sees_more_than_means(forget, seed):
    unseen = np.random.default_rng(seed).exponential(1, len(forget)) + 0.01
    assert distance(forget, unseen) >= abs(odds(forget).mean() - odds(unseen).mean()) - 1e-9
    assert distance(forget, unseen) == pytest.approx(scipy.stats.wasserstein_distance(odds(forget), odds(unseen)))
    assert distance(forget, forget[::-1]) < 1e-6


@few(max_examples=30)
@given(forget=some_losses)
def test_close_distributions_bound_the_attack(forget):
    """Against the exponential law, whose log-odds are logistic: a density of at most a quarter."""
    assert scipy.stats.kstest(odds(scipy.stats.expon.ppf(np.linspace(0, 1, 999)[1:-1])), "logistic").pvalue > 0.99
    grid = np.linspace(-40, 40, 200_001)
    below = np.searchsorted(np.sort(odds(forget)), grid, side="right") / len(forget)
    wasserstein_1 = np.trapezoid(np.abs(below - scipy.stats.logistic.cdf(grid)), grid)
    assert scipy.stats.kstest(forget, "expon").statistic <= math.sqrt(2 * wasserstein_1 / 4) + 1e-3


distinct_losses = st.lists(st.floats(0.01, 12).map(lambda loss: round(loss, 3)), min_size=2, max_size=30, unique=True)


@few(max_examples=60)
@given(forget=distinct_losses, unseen=some_losses)
def test_a_reached_target_leaves_no_threshold(forget, unseen):
    """Every image at its goal, whichever side it came from: neither low losses nor high ones tell members."""
    target = UnseenTarget(torch.ones(len(unseen), dtype=torch.float64))
    target.refresh(*(torch.tensor(losses, dtype=torch.float64) for losses in (unseen, forget)))
    losses = F.softplus(target.goals(target.window))
    target.refresh(torch.tensor(unseen, dtype=torch.float64), losses)
    torch.testing.assert_close(target.goals(target.window), target.window)
    ours, theirs = (part.round(9) for part in (losses.numpy(), np.array(unseen)))
    for sign in (1, -1):
        auc, advantage = attack(sign * ours, sign * theirs)
        assert advantage <= 0.5 / len(forget) + 1e-12 and abs(auc - 0.5) <= 0.5 / len(forget) + 1e-12


def test_equal_losses_do_not_mean_equal_images():
    usual = np.array([0.1] * 50 + [2.0] * 50)  # easy images, hard ones
    forget, unseen = usual[::-1].copy(), usual
    assert distance(forget, unseen) < 1e-6 and attack(forget, unseen) == (0.5, 0)
    surprise = np.concatenate([np.abs(forget - usual), np.abs(unseen - usual)])
    assert roc_auc_score(np.r_[np.ones(100), np.zeros(100)], surprise) == 1


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_ranks_tell_how_hard_a_set_is(noise):
    """Difficulties even from 0 to 1, of forget images as a beta distribution has them; losses 300 times apart."""
    even = (np.arange(20_000) + 0.5) / 20_000
    difficulties = {"retain": even, "unseen": even, "forget": scipy.stats.beta.ppf(even, 4, 2)}
    draw = np.random.default_rng(0)
    learned = {name: (d + noise * draw.normal(size=len(d))) for name, d in difficulties.items()}
    losses = {name: torch.from_numpy(np.exp(d) / 100) for name, d in learned.items()}
    unseen, would_be = torch.from_numpy(np.exp(2 * even)), np.exp(2 * difficulties["forget"])
    ones = torch.ones(len(even), dtype=torch.float64)
    found = Difficulty.of(losses["forget"], losses["retain"], ones).weigh(unseen, ones)
    mean = (found * unseen).sum().item()
    if noise:
        assert unseen.mean() + 0.1 < mean < would_be.mean() - 0.1
    else:
        assert mean == pytest.approx(would_be.mean(), rel=1e-2)
        levels = np.array([0.1, 0.5, 0.9])
        quantiles = weighted_quantiles(unseen, found, torch.from_numpy(levels)).numpy()
        assert quantiles == pytest.approx(np.quantile(would_be, levels), rel=1e-2)


@pytest.mark.parametrize("noise", [0.2, 0.3])
@pytest.mark.parametrize("share", [0.05, 0.1, 0.2, 0.3])
def test_without_the_forget_set_ranks_lie_further_out(noise, share):
    """A part of the hardest third, of which two thirds or more have losses in the highest third."""
    draw = np.random.default_rng(0)
    difficulty = draw.uniform(size=30_000)
    losses = difficulty + noise * draw.normal(size=30_000)
    forget = np.zeros(30_000, dtype=bool)
    forget[draw.choice(np.flatnonzero(difficulty > 2 / 3), round(share * 30_000), replace=False)] = True
    among = [np.searchsorted(np.sort(sample), losses[forget]) / len(sample) for sample in (losses, losses[~forget])]
    means, truth = [ranks.mean() for ranks in among], difficulty[forget].mean()
    assert means[0] < min(means[1], truth) and abs(means[1] - truth) < abs(means[0] - truth) + 0.02
    assert among[1].std() < among[0].std()


# 9. Strong convexity


@few(max_examples=30)
@given(seed=st.integers(0, 1000), spread=st.floats(0.01, 10))
def test_a_budget_bounds_the_distance(seed, spread):
    retain, weights = CASE.retain_on_labels, somewhere(seed, spread)
    away = (weights - CASE.retrained).norm().item()
    assert away <= math.sqrt(2 * (retain(weights) - retain(CASE.retrained)).item() / DECAY) + 1e-9
    assert away <= retain.gradient(weights).norm().item() / DECAY + 1e-9
    rise, slope = (retain(weights) - retain(CASE.original)).item(), retain.gradient(CASE.original).norm().item()
    assert away**2 <= 2 * rise / DECAY + (slope / DECAY) ** 2 + 1e-6


@pytest.mark.parametrize("digit", [3, 8])
def test_the_original_is_near_the_retrained(digit):
    case = digits_case(digit)
    share = case.forget.double().mean()
    labels = F.one_hot(case.labels, NUM_CLASSES).double()
    parts = (case.forget, ~case.forget)
    slopes = [Risk(case.features[part], labels[part], 0.0).gradient(case.original) for part in parts]
    slope = case.retain_on_labels.gradient(case.original)
    torch.testing.assert_close(slope, share * (slopes[1] - slopes[0]), atol=1e-12, rtol=0)
    steps = (case.distances(case.original)[0], slope.norm() / DECAY, 2 * math.sqrt(2) * share / DECAY)
    assert steps[0] <= steps[1] <= steps[2]


@few(max_examples=20)
@given(seed=st.integers(0, 1000), spread=st.floats(0.01, 10))
def test_near_weights_are_near_outputs(seed, spread):
    weights = somewhere(seed, spread)
    apart = (weights - CASE.retrained).norm() * CASE.features.norm(dim=1)
    logits, retrained = CASE.features @ weights.T, CASE.features @ CASE.retrained.T
    assert ((logits - retrained).norm(dim=1) <= apart + 1e-9).all()
    gap = (logits.log_softmax(1) - retrained.log_softmax(1)).abs().amax(1)
    assert (gap <= math.sqrt(2) * apart + 1e-9).all()


class TestThePage:
    def test_each_statement_names_its_tests(self):
        named = re.findall(r"`(test_\w+)`", PAGE)
        here = {name for name in globals() if name.startswith("test_")}
        assert set(named) == here
        numbers = [int(number) for number in re.findall(r"^\*\*(\d+) ", PAGE, re.M)]
        assert numbers == list(range(1, len(numbers) + 1))

    def test_its_tables_are_what_the_command_prints(self):
        for digit in (theory_figure.SHOWN_DIGIT, 8):
            assert theory_figure.row_of(digit) in PAGE
        for name, measured, bound in theory_figure.bounds_of(CASE):
            assert f"| {name} | {measured:.2f} | {bound:.2f} |" in PAGE

    def test_the_figure_is_drawn(self, tmp_path):
        learned = {budget: FRONTS["original"][0].within(budget).multiplier for budget in theory_figure.BUDGETS}
        theory_figure.draw(tmp_path / "figure.png", CASE, learned, points=5)
        assert [path.name for path in tmp_path.iterdir()] == ["figure.png"]
        assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")

    def test_a_folder_that_is_not_there_is_refused(self, tmp_path):
        with pytest.raises(UserError, match="make it first"):
            theory_figure.main(theory_figure.Args(output=str(tmp_path / "none" / "figure.png")))
