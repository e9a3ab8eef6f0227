"""The line search: ends bit for bit, decisions against brute force, constrained optima from any length of step."""

import math

import pytest
import torch
from helpers.solving import Scalar
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from unlearning.constrained.line_search import LONGEST, SHORTEST, Line, on_line, snapshot

SHARES = [0.125, 0.25, 0.5, 1.0, 2.0, 4.0]


def network(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    for _ in range(seed + 1):
        model(torch.randn(16, 3) * (seed + 1))
    return model


class TestOnLine:
    START, END = network(0).state_dict(), network(3).state_dict()

    @pytest.mark.parametrize(("share", "end"), [(0, START), (0.0, START), (1, END), (1.0, END)])
    def test_ends_are_the_two_models_bit_for_bit(self, share, end):
        model = network(1)
        model.load_state_dict(on_line(model, self.START, self.END, share))
        assert all(torch.equal(value, end[name]) for name, value in model.state_dict().items())

    @settings(max_examples=50)
    @given(share=st.floats(0.001, LONGEST))
    def test_weights_go_on_and_buffers_stay_between(self, share):
        """Beyond the end, a running variance could turn negative."""
        model = network(1)
        kept = snapshot(model)
        found = on_line(model, self.START, self.END, share)
        weights = {name for name, _ in model.named_parameters()}
        for name, start in self.START.items():
            end, value = self.END[name], found[name]
            if name in weights:
                torch.testing.assert_close(value, start + share * (end - start), atol=1e-5, rtol=1e-5)
            elif value.is_floating_point():
                torch.testing.assert_close(value, start + min(share, 1) * (end - start), atol=1e-5, rtol=1e-5)
                assert (torch.minimum(start, end) <= value).all() and (value <= torch.maximum(start, end)).all()
            else:
                assert torch.equal(value, end)
        assert all(torch.equal(value, kept[name]) for name, value in model.state_dict().items())
        model.load_state_dict(found)
        assert model.eval()(torch.randn(5, 3)).isfinite().all()

    def test_weights_that_two_layers_share_go_on_as_others_do(self):
        model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        model[1].weight = model[0].weight
        start = snapshot(model)
        model[0].weight.data += 1
        model.load_state_dict(on_line(model, start, snapshot(model), 2.0))
        torch.testing.assert_close(model[0].weight.data, start["0.weight"] + 2)


class TestSearch:
    @settings(max_examples=200)
    @given(
        kept=st.lists(st.booleans(), min_size=6, max_size=6),
        pays=st.lists(st.booleans(), min_size=6, max_size=6),
        away=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    )
    def test_against_brute_force(self, kept, pays, away):
        """The longest halving that keeps the budget; doublings as long as each pays, keeps it and ends no farther."""
        kept, pays, away = (dict(zip(SHARES, column, strict=True)) for column in (kept, pays, away))
        if kept[1]:
            steps = [(1, 2), (2, 4)]
            good = [pays[here] and kept[there] and away[there] <= away[here] for here, there in steps]
            expected = 4 if all(good) else 2 if good[0] else 1
            looked = [1, *([2] if pays[1] else []), *([4] if good[0] and pays[2] else [])]
        else:
            expected = max((share for share in SHARES[:3] if kept[share]), default=0)
            looked = [share for share in (1, 0.5, 0.25, 0.125, 0) if share >= expected]
            kept[0] = False
        model, measured = Scalar(), []

        def measure():
            measured.append(model.x.item())
            return measured[-1]

        line = Line(model, *({"x": torch.tensor(end)} for end in (0.0, 1.0)), measure)
        share, found = line.search(kept.__getitem__, pays.__getitem__, away.__getitem__)
        assert share == found == model.x.item() == expected and measured == looked

    def test_a_pass_to_nan_is_undone_bit_for_bit(self):
        model = network(0)
        before = snapshot(model)
        nn.init.constant_(model[0].weight, math.nan)
        line = Line(model, before, snapshot(model), lambda: model[0].weight.sum().item())
        assert line.search(math.isfinite, None, None) == (0.0, before["0.weight"].sum().item())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Point(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.x = nn.Parameter(torch.zeros(2, dtype=torch.float64))


class TestQuadratic:
    """min |x - c|² / 2 subject to a budget, by passes of descent and ascent from x = 0, which has spent nothing."""

    GOAL = torch.tensor([3.0, 4.0], dtype=torch.float64)
    NORMAL = torch.tensor([1.0, 2.0], dtype=torch.float64)
    BUDGET, AIM = 4.0, 0.8 * 4.0
    # What is spent, and the closed form of the optimum within a budget.
    CASES = {
        "slab": (
            lambda x: (x @ TestQuadratic.NORMAL).square(),
            lambda b: TestQuadratic.GOAL - (11 - math.sqrt(b)) / 5 * TestQuadratic.NORMAL,
        ),
        "ball": (lambda x: x @ x, lambda b: TestQuadratic.GOAL * math.sqrt(b) / 5),
    }

    def run(self, spent, rate, passes=40, steps=8):
        model, price = Point(), 1.0

        def measure():
            return {"spent": spent(model.x).item(), "distance": (model.x - self.GOAL).norm().item()}

        far, path = measure()["distance"] / 2, []
        for _ in range(passes):
            start, kept = snapshot(model), price
            for _ in range(steps):
                price = max(0.0, price + 0.03 * max(price, 1) * (spent(model.x).item() - self.AIM))
                value = (model.x - self.GOAL).square().sum() / 2 + price * spent(model.x)
                (slope,) = torch.autograd.grad(value, model.x)
                model.x.data -= rate * slope
            share, _ = Line(model, start, snapshot(model), measure).search(
                lambda found: found["spent"] <= self.BUDGET,
                lambda found: found["spent"] < self.AIM / 2 and found["distance"] > far,
                lambda found: found["distance"],
            )
            price = 2 * max(kept, 1) if share < 1 else price
            rate *= share or SHORTEST / 2
            path.append((share, measure()["spent"]))
        return model.x.detach(), path

    @pytest.mark.parametrize("factor", [1 / 30, 1, 30])
    @pytest.mark.parametrize("case", CASES)
    def test_any_first_step_ends_within_the_budget_near_the_optimum(self, case, factor):
        spent, optimum = self.CASES[case]
        x, path = self.run(spent, 0.1 * factor)
        assert all(used <= self.BUDGET for _, used in path)
        best, aimed = ((optimum(budget) - self.GOAL).norm() for budget in (self.BUDGET, self.AIM))
        assert best <= (x - self.GOAL).norm() <= 1.02 * aimed
        assert {1 / 30: path[0][0] == LONGEST, 1: True, 30: path[0][0] == 0}[factor]

    @pytest.mark.parametrize("factor", [1 / 30, 30])
    def test_without_it_neither_does(self, factor, monkeypatch):
        """Too short a step has not arrived after as many passes, and too long a one is far outside."""
        monkeypatch.setattr(Line, "search", lambda *_: (1.0, None))
        spent, optimum = self.CASES["ball"]
        x, path = self.run(spent, 0.1 * factor, passes=10)
        assert not path[-1][1] < 1e3 if factor > 1 else (x - optimum(self.AIM)).norm() > 0.1
