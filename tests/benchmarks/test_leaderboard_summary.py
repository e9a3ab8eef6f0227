"""The leaderboard's summary against numbers worked out by hand."""

import math

import pytest

from benchmarks.leaderboard.summary import spread, summarise


def model(forget, retain, test, auc, efficacy=30.0, loss=1.0) -> dict[str, float]:
    return {
        "forget_top1": forget, "retain_top1": retain, "test_top1": test, "mia_auc": auc, "mia_efficacy": efficacy,
        "forget_loss": loss,
    }  # fmt: skip


ORIGINAL = model(100.0, 99.0, 80.0, 0.75, 5.0, loss=0.0)


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
    # Nearest, but 4 % and 5 % of the way from the original's loss, 0, to the retrained models' loss, 1.
    row("idle", 0, model(70.0, 98.0, 78.0, 0.50, loss=0.04)),
    row("idle", 1, model(70.0, 98.0, 78.0, 0.50, loss=0.05)),
]


@pytest.fixture(scope="module")
def board():
    return summarise(ROWS)[0]


@pytest.fixture(scope="module")
def entries(board):
    return {entry.method: entry for entry in (*board.references, *board.methods)}


def test_ranked_methods_come_first_by_gap_then_those_that_did_nothing_then_those_over_the_budget(board):
    assert [entry.method for entry in board.references] == ["original", "retrained"]
    found = [(entry.method, entry.rank, entry.mark) for entry in board.methods]
    assert found == [
        ("near", 1, ""), ("far", 2, ""), ("idle", None, "did nothing"), ("over", None, "over budget")
    ]  # fmt: skip
    assert board.methods[-1].mean("kept") == 0.5 and board.methods[2].mean("progress") == pytest.approx(0.045)
    assert [board.level(entry) for entry in board.methods] == [False] * 4 and board.budgets == [2.0]


def test_figures_and_signed_gaps_are_means_and_sample_deviations_over_seeds(entries):
    near = entries["near"]
    assert near.seeds == 2
    assert near.mean("forget_top1") == 73 and near.values["forget_top1"].sd == pytest.approx(math.sqrt(2))
    assert near.mean("gap.forget_top1") == 3 and near.mean("gap.test_top1") == -1.5
    assert near.mean("gap.mia_auc") == pytest.approx(0.01)


def test_avg_gap_is_averaged_in_each_seed_before_signs_can_cancel(entries):
    near = entries["near"].values["avg_gap"]
    assert near.mean == pytest.approx(2) and near.sd == pytest.approx(math.sqrt(2)) and near.n == 2
    # Efficacy instead of the AUC: (4 + 1 + 3 + 4) / 4 and (2 + 0 + 0 + 0) / 4.
    assert entries["near"].mean("avg_gap_salun") == pytest.approx((3 + 0.5) / 2)
    assert entries["over"].mean("avg_gap") == pytest.approx(0)
    assert entries["original"].mean("avg_gap") == pytest.approx((30 + 1 + 2 + 25) / 4)


def test_figures_are_counted_that_lie_within_the_retrained_models_of_the_same_seed(entries):
    # Seed 0: retain 97 in [97, 99], no other; seed 1: retain 98 in [98, 98] and test, but forget 72 not in [69, 71].
    assert entries["near"].mean("inside_band") == (1 + 2) / 2


def test_noise_floor_is_each_retrained_models_gap_to_the_others(board, entries):
    # Seed 0: (4 + 2 + 2 + 2) / 4 = 2.5, either way round; seed 1: 2 / 4 = 0.5.
    assert board.floor == pytest.approx(1.5) and entries["retrained"].mean("avg_gap") == pytest.approx(1.5)
    assert board.retrained == 4


def test_one_retrained_model_gives_gaps_but_no_floor():
    board = summarise([{**cell, "retrained": cell["retrained"][:1]} for cell in ROWS])[0]
    near = board.methods[0]
    assert board.floor is None and board.retrained == 2 and "inside_band" not in near.values and not board.level(near)
    assert near.rank == 1 and near.mean("avg_gap") is not None


def test_costs_are_compared_with_each_seeds_own_retraining(entries):
    assert entries["near"].mean("cost.seconds") == 15
    shares = {name: entries["near"].mean(f"share.{name}") for name in ("seconds", "gradient_steps", "images")}
    assert shares == pytest.approx({"seconds": 0.15, "gradient_steps": 0.05, "images": 0.05})
    assert entries["retrained"].mean("share.seconds") == 1 and entries["original"].mean("cost.seconds") is None


def test_a_missing_figure_takes_no_part_and_leaves_no_average_gap():
    lacking = {**model(70.0, 98.0, None, 0.5), "mia_efficacy": math.nan}
    methods = {entry.method: entry for entry in summarise([row("lacking", 0, lacking), *ROWS])[0].methods}
    averages = {"test_top1", "mia_efficacy", "avg_gap", "avg_gap_salun", "tug_of_war"}
    assert not averages & set(methods["lacking"].values)
    # Within the budget, but without a gap to rank by.
    assert list(methods) == ["near", "far", "lacking", "idle", "over"]


def test_cells_with_nothing_but_their_names_are_summarised():
    boards = summarise([*ROWS, {"key": "", "method": "bare", "forget": "class:3", "seed": 0}])
    assert [board.forget for board in boards] == ["random:0.1", "class:3"]
    (entry,) = boards[1].methods
    assert (entry.mark, entry.rank, boards[1].references) == ("not judged", None, [])


def test_spread_of_one_value_has_no_deviation_and_of_none_there_is_none():
    assert spread([2.0]).sd is None and spread([]) is None and spread([None, math.inf, math.nan, True]) is None
    assert spread([1.0, None, 3.0]).n == 2
