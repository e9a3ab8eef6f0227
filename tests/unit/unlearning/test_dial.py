"""The line from the original to the unlearned weights: its ends, the best of its points, what a budget buys on it."""

import numpy as np
import pytest
import torch
from helpers.method_cases import begin, changed, network, state_of
from helpers.solving import Scalar
from hypothesis import given, settings
from hypothesis import strategies as st

from unlearning.choice import is_better
from unlearning.constrained.line_search import on_line
from unlearning.dial import NAMES, SHARES, Dial, bought

TOLERANCES = (0.25, 0.25)


FIGURES = st.fixed_dictionaries(
    {
        "constraint/feasible": st.sampled_from([0.0, 1.0]), "forget/distance": st.floats(0, 1),
        "forget/own_distance": st.floats(0, 1), "validation/top1": st.floats(80, 90), "forget/top1": st.floats(0, 100),
        **{name: st.floats(-1, 3) for name in NAMES.values() if name.endswith(("/fall", "/fall_bound"))},
    }
)  # fmt: skip


class TestSettle:
    @settings(max_examples=100)
    @given(figures=st.lists(FIGURES, min_size=len(SHARES) + 1, max_size=len(SHARES) + 1), knows=st.booleans())
    def test_goes_to_the_first_point_that_none_is_better_than(self, figures, knows):
        original, *figures = figures
        found, measured, model = dict(zip(SHARES, figures, strict=True)), [], Scalar()

        def measure():
            measured.append(model.x.item())
            return found[measured[-1]]

        ends = ({"x": torch.tensor(0.0)}, {"x": torch.tensor(1.0)})
        dial = Dial(model, *ends, measure, {0.0: original} | ({1.0: found[1.0]} if knows else {}))
        share = dial.settle(SHARES, TOLERANCES)
        best = [each for each in SHARES if all(is_better(found[each], other, TOLERANCES) for other in figures)]
        assert share == best[0] == model.x.item()
        assert sorted(measured) == sorted(set(SHARES) - ({1.0} if knows else set()))
        points = dial.points()
        assert [point["share"] for point in points] == sorted([0.0, *SHARES])
        for point in points:
            row = (found | {0.0: original})[point["share"]]
            assert point == {"share": point["share"], **{name: row[key] for name, key in NAMES.items()}}

    def test_ends_are_the_two_models_bit_for_bit(self):
        start, model = state_of(network()), network()
        with torch.no_grad():
            for value in model.parameters():
                value += torch.randn(value.shape) / 3
        end = state_of(model)
        dial = Dial(model, start, end, dict, {})
        for share, expected in ((0.0, start), (0.5, None), (1.0, end), (0, start), (1, end)):
            dial.go_to(share)
            assert expected is None or not changed(expected, state_of(model))


def points_of(shares, retain, held_out, top1) -> list[dict]:
    columns = {"share": shares, "fall_bound": retain, "held_out_bound": held_out, "forget_top1": top1}
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


class TestBought:
    @pytest.mark.parametrize(
        ("budget", "share", "top1"),
        [(0.25, 0.125, 87.5), (0.5, 0.25, 75.0), (1.0, 0.5, 50.0), (2.0, 0.75, 45.0), (3.0, 1.0, 40.0), (9, 1.0, 40.0)],
    )
    def test_by_hand(self, budget, share, top1):
        """The bound that is used up first decides: retain images up to the middle, held-out ones beyond."""
        points = points_of([0, 0.25, 0.5, 1.0], [0, 0.5, 1, 1.5], [-1, -1, 0.5, 3], [100, 75, 50, 40])
        assert bought(points, budget) == pytest.approx((share, top1))

    @settings(max_examples=100)
    @given(
        rows=st.lists(st.tuples(st.floats(-1, 5), st.floats(-1, 5), st.floats(0, 100)), min_size=1, max_size=5),
        budget=st.floats(0.01, 6),
    )
    def test_against_brute_force(self, rows, budget):
        """A fine grid along the line: the last point before the budget is broken for the first time."""
        retain, held_out, top1 = (
            [first, *column] for first, column in zip((0, 0, 90), zip(*rows, strict=True), strict=True)
        )
        shares = np.linspace(0, 1, len(retain))
        grid = np.linspace(0, 1, 20_001)
        falls = np.interp(grid, shares, np.maximum(retain, held_out))
        broken = np.flatnonzero(falls > budget)
        last = grid[broken[0] - 1] if len(broken) else 1.0
        share, forget = bought(points_of(shares, retain, held_out, top1), budget)
        assert share == pytest.approx(last, abs=1e-4)
        assert forget == pytest.approx(np.interp(share, shares, top1), abs=1e-6)


class TestRun:
    @pytest.mark.parametrize("share", [None, 0.25, 1.0, 1.25])
    def test_weights_and_figures_are_those_of_the_share_that_is_reported(self, share, tmp_path, monkeypatch):
        """`None` lets the run choose."""
        if share is not None:
            monkeypatch.setattr("unlearning.run.SHARES", (share,))
        run = begin(
            "constrained", tmp_path, num_epochs=2, finetune_num_epochs=1, learning_rate=0.02, retain_budget=50.0
        )
        kept, settle = [], run.choice.settle
        run.choice.settle = lambda epochs: kept.append(settle(epochs)) or kept[0]
        outcome = run.run()
        ((place, end),) = kept
        assert share in (None, outcome.share) and place + 1 == outcome.chosen
        assert not changed(on_line(run.model, state_of(network()), end, outcome.share), state_of(run.model))
        points = {point["share"]: point for point in outcome.dial}
        assert set(points) == {0.0, 1.0, *(SHARES if share is None else (share,))}
        here = {0.0: outcome.original, 1.0: outcome.epochs[place], outcome.share: run.measure().figures}
        for number, figures in here.items():
            expected = {name: figures[key] for name, key in NAMES.items()}
            assert points[number] == pytest.approx({"share": number, **expected}), number
        if share is None:
            found = {}
            for number in SHARES:
                run.model.load_state_dict(on_line(run.model, state_of(network()), end, number))
                found[number] = run.measure().figures
            assert all(is_better(found[outcome.share], other, run.target.tolerances) for other in found.values())

    def test_a_published_method_and_a_run_that_kept_no_pass_have_none(self, tmp_path):
        (tmp_path / "published").mkdir()
        outcome = begin("delete", tmp_path / "published", num_epochs=1).run()
        assert outcome.dial == [] and outcome.share == 1
        run = begin("constrained", tmp_path, num_epochs=1, finetune_num_epochs=0)
        run.trainer._keeps_retain_budget = lambda found: False
        outcome = run.run()
        assert outcome.dial == [] and outcome.chosen is None and outcome.events[0]["share"] == 0
        assert not changed(state_of(network()), state_of(run.model))
