"""The leaderboard's summary against numbers worked out by hand."""

import math

import pytest

from benchmarks.leaderboard.summary import spread, summarise

ORIGINAL = {"forget_top1": 100.0, "retain_top1": 99.0, "test_top1": 80.0, "mia_auc": 0.75, "mia_efficacy": 5.0}


def model(forget, retain, test, auc, efficacy=30.0) -> dict[str, float]:
    return {
        "forget_top1": forget, "retain_top1": retain, "test_top1": test, "mia_auc": auc, "mia_efficacy": efficacy,
    }  # fmt: skip


# Means 70, 98, 78, 0.50 and 30 in either seed.
RETRAINED = {
    0: [model(68.0, 97.0, 77.0, 0.49, 28.0), model(72.0, 99.0, 79.0, 0.51, 32.0)],
    1: [model(69.0, 98.0, 78.0, 0.50, 30.0), model(71.0, 98.0, 78.0, 0.50, 30.0)],
}


def row(method, seed, figures, feasible=True, **others) -> dict:
    return {
        "key": f"{method}{seed}", "method": method, "forget": "random:0.1", "seed": seed, "figures": figures,
        "original": ORIGINAL, "retrained": RETRAINED[seed],
        "verdict": {"feasible": feasible, "forgotten": True, "retain_budget": 2.0, "slack": 0.5},
        "config": {"learning_rate": 0.1, "seed": seed},
        "cost": {"seconds": 10.0 + 10 * seed, "gradient_steps": 50, "images": 500},
        "retrained_cost": {"seconds": 100.0, "gradient_steps": 1000, "images": 10000},
        "environment": {"torch": "2.15"}, **others,
    }  # fmt: skip


ROWS = [
    # Gaps +4, -1, -3, +0.04 and +2, 0, 0, -0.02: AvgGap (4 + 1 + 3 + 4) / 4 = 3 and (2 + 0 + 0 + 2) / 4 = 1.
    row("near", 0, model(74.0, 97.0, 75.0, 0.54, 26.0)),
    row("near", 1, model(72.0, 98.0, 78.0, 0.48, 30.0)),
    row("over", 0, model(70.0, 98.0, 78.0, 0.50), feasible=False),
    row("over", 1, model(70.0, 98.0, 78.0, 0.50)),
    row("far", 0, model(90.0, 98.0, 78.0, 0.50)),
]


@pytest.fixture(scope="module")
def board():
    return summarise(ROWS).boards[0]


@pytest.fixture(scope="module")
def entries(board):
    return {entry.method: entry for entry in board.entries}


def test_references_come_first_then_methods_within_the_budget_by_gap_then_the_others(board):
    assert [entry.method for entry in board.entries] == ["original", "retrained", "near", "far", "over"]
    assert [entry.rank for entry in board.entries] == [None, None, 1, 2, None]
    assert [entry.within_budget for entry in board.entries] == [None, None, True, True, False]
    assert board.entries[-1].kept == (1, 2)


def test_figures_and_signed_gaps_are_means_and_sample_deviations_over_seeds(entries):
    near = entries["near"]
    assert near.seeds == (0, 1)
    assert near.figures["forget_top1"].mean == 73 and near.figures["forget_top1"].sd == pytest.approx(math.sqrt(2))
    assert near.gaps["forget_top1"].mean == 3 and near.gaps["test_top1"].mean == -1.5
    assert near.gaps["mia_auc"].mean == pytest.approx(0.01)


def test_avg_gap_is_averaged_in_each_seed_before_signs_can_cancel(entries):
    near = entries["near"].avg_gap
    assert near.mean == pytest.approx(2) and near.sd == pytest.approx(math.sqrt(2)) and near.n == 2
    # Efficacy in the place of the AUC: (4 + 1 + 3 + 4) / 4 and (2 + 0 + 0 + 0) / 4.
    assert entries["near"].avg_gap_salun.mean == pytest.approx((3 + 0.5) / 2)
    assert entries["over"].avg_gap.mean == pytest.approx(0)
    assert entries["original"].avg_gap.mean == pytest.approx((30 + 1 + 2 + 25) / 4)


def test_tug_of_war_takes_gaps_as_shares(entries):
    assert entries["near"].tug_of_war.mean == pytest.approx((0.96 * 0.99 * 0.97 + 0.98) / 2)
    assert entries["over"].tug_of_war.mean == pytest.approx(1)


def test_inside_counts_seeds_within_the_retrained_models_of_the_same_seed(entries):
    near = entries["near"].inside
    # Retain: 97 in [97, 99] and 98 in [98, 98]; forget: 74 not in [68, 72], 72 not in [69, 71], though in seed 0's.
    assert near["retain_top1"] == (2, 2) and near["forget_top1"] == (0, 2) and near["mia_auc"] == (0, 2)
    assert near["test_top1"] == (1, 2)


def test_noise_floor_is_each_retrained_models_gap_to_the_others(board, entries):
    # Seed 0: (4 + 2 + 2 + 2) / 4 = 2.5, either way round; seed 1: 2 / 4 = 0.5.
    assert board.floor == pytest.approx(1.5) and entries["retrained"].avg_gap.mean == pytest.approx(1.5)
    assert board.floors["forget_top1"] == pytest.approx(3) and board.floors["mia_auc"] == pytest.approx(0.01)
    assert board.bands["forget_top1"] == (68, 72) and board.retrained == 4


def test_noise_floor_of_three_is_to_the_mean_of_the_other_two():
    three = [model(60.0, 98.0, 78.0, 0.5), model(63.0, 98.0, 78.0, 0.5), model(69.0, 98.0, 78.0, 0.5)]
    board = summarise([{**ROWS[0], "retrained": three}]).boards[0]
    # Gaps 6, 1.5 and 7.5, of which AvgGap is a quarter.
    assert board.floor == pytest.approx(15 / 3 / 4)


def test_one_retrained_model_gives_gaps_but_neither_band_nor_floor():
    board = summarise([{**cell, "retrained": cell["retrained"][:1]} for cell in ROWS]).boards[0]
    near = next(entry for entry in board.entries if entry.method == "near")
    assert board.floor is None and board.bands == {} and board.floors == {} and near.inside == {}
    assert near.avg_gap is not None and board.retrained == 2


def test_costs_are_compared_with_each_seeds_own_retraining(entries):
    assert entries["near"].costs["seconds"].mean == 15
    assert entries["near"].relative == pytest.approx({"seconds": 0.15, "gradient_steps": 0.05, "images": 0.05})
    assert entries["retrained"].relative["seconds"] == 1 and entries["original"].costs == {}


def test_flags_are_those_that_all_seeds_share(entries):
    assert entries["near"].flags == {"learning_rate": 0.1}


def test_a_missing_figure_takes_no_part_and_leaves_no_average_gap():
    lacking = {**model(70.0, 98.0, None, 0.5), "mia_efficacy": math.nan}
    entries = {entry.method: entry for entry in summarise([row("lacking", 0, lacking), *ROWS]).boards[0].entries}
    found = entries["lacking"]
    assert "test_top1" not in found.figures and "mia_efficacy" not in found.figures
    assert found.avg_gap is None and found.avg_gap_salun is None and found.tug_of_war is None
    # Within the budget, but nothing to be ranked by: after those that have a gap, before those over the budget.
    assert list(entries) == ["original", "retrained", "near", "far", "lacking", "over"]


def test_cells_with_nothing_but_their_names_are_summarised():
    bare = {"method": "bare", "forget": "class:3", "seed": 0}
    summary = summarise([*ROWS, bare])
    assert [board.forget for board in summary.boards] == ["random:0.1", "class:3"] and summary.cells == 6
    (entry,) = summary.boards[1].entries
    assert entry.figures == {} and entry.kept == (0, 0) and entry.within_budget is None
    assert summary.environments == (({"torch": "2.15"}, 5),)


def test_what_is_drawn_is_the_first_seeds_that_has_it():
    cells = [ROWS[0], {**ROWS[1], "trace": {"step": [1], "violation": [0.5], "multiplier": None}}]
    assert summarise(cells).boards[0].entries[-1].shown["seed"] == 1


def test_spread_of_one_value_has_no_deviation_and_of_none_there_is_none():
    assert spread([2.0]).sd is None and spread([]) is None and spread([None, math.inf, math.nan]) is None
    assert spread([1.0, None, 3.0]).n == 2
