"""Gaps to retrained models against their closed forms, the band between several, and the table that shows both."""

import itertools
import math

import numpy as np
import pytest
import torch

from evaluation.gaps import (
    Band,
    avg_gap,
    avg_gap_salun,
    bands,
    gap_intervals,
    is_retrained,
    mean_figures,
    noise_floor,
    resampled_shares,
    retrained_of,
    signed_gaps,
    summarise_gaps,
    tug_of_war,
)
from evaluation.report.tables import FIGURES, plain, table

MODEL = {
    "forget_top1": 70.0, "retain_top1": 98.0, "test_top1": 61.0, "mia_auc": 0.55, "mia_efficacy": 30.0,
    "forget_loss": 1.0, "mia_auc_low": 0.5,
}  # fmt: skip
RETRAINED = {
    "forget_top1": 60.0, "retain_top1": 99.0, "test_top1": 60.5, "mia_auc": 0.5, "mia_efficacy": 50.0,
    "test_loss": 2.0, "mia_auc_low": 0.4,
}  # fmt: skip


def several(seed=0, count=3) -> list[dict]:
    generator = np.random.default_rng(seed)
    scale = {"forget_top1": 100, "retain_top1": 100, "test_top1": 100, "mia_auc": 1, "mia_efficacy": 100}
    return [{name: float(generator.random() * size) for name, size in scale.items()} for _ in range(count)]


class TestGaps:
    def test_are_signed_and_of_what_both_have(self):
        assert signed_gaps(MODEL, RETRAINED) == pytest.approx(
            {"forget_top1": 10, "retain_top1": -1, "test_top1": 0.5, "mia_auc": 0.05, "mia_efficacy": -20,
             "mia_auc_low": 0.1}
        )  # fmt: skip
        assert "test_top1" not in signed_gaps(MODEL, {**RETRAINED, "test_top1": None})

    def test_avg_gap_is_the_mean_of_absolutes_with_the_auc_in_points(self):
        assert avg_gap(MODEL, RETRAINED) == pytest.approx((10 + 1 + 0.5 + 5) / 4)
        assert avg_gap(RETRAINED, RETRAINED) == 0
        assert avg_gap({**MODEL, "mia_auc": None}, RETRAINED) == pytest.approx(11.5 / 3)
        assert avg_gap({"test_loss": 1.0}, RETRAINED) is None

    def test_the_other_average_has_efficacy_and_wants_all_four(self):
        assert avg_gap_salun(MODEL, RETRAINED) == pytest.approx((10 + 1 + 0.5 + 20) / 4)
        for name in ("forget_top1", "retain_top1", "test_top1", "mia_efficacy"):
            assert avg_gap_salun({**MODEL, name: None}, RETRAINED) is None
        # Changes of what only the other average has do not move it.
        assert avg_gap_salun({**MODEL, "mia_auc": 0.9}, RETRAINED) == avg_gap_salun(MODEL, RETRAINED)

    def test_tug_of_war_is_the_product(self):
        assert tug_of_war(MODEL, RETRAINED) == pytest.approx(0.9 * 0.99 * 0.995)
        assert tug_of_war(RETRAINED, RETRAINED) == 1
        assert tug_of_war({**MODEL, "forget_top1": 0.0}, {**RETRAINED, "forget_top1": 100.0}) == 0
        assert tug_of_war({**MODEL, "test_top1": None}, RETRAINED) is None

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("retrained", True), ("retrained-2", True), ("retrained-10", True), ("retrained-", False),
         ("unlearned", False), ("retrained.pt", False), ("runs/retrained", False), ("not retrained", False)],
    )  # fmt: skip
    def test_retrained_models_by_name(self, name, expected):
        assert is_retrained(name) == expected
        assert list(retrained_of({name: 1, "retrained": 2})) == list(dict.fromkeys([name] * expected + ["retrained"]))


class TestBands:
    def test_mean_low_and_high_of_each_figure(self):
        models, found = several(), bands(several())
        assert set(found) == set(models[0])
        for name, band in found.items():
            values = [model[name] for model in models]
            assert band == Band(pytest.approx(np.mean(values)), min(values), max(values))
            assert mean_figures(models)[name] == band.mean

    def test_ends_are_inside(self):
        holds = Band(2.0, 1.0, 3.0).holds
        assert [holds(value) for value in (1.0, 2.0, 3.0, 3.1, 0.9, math.nan)] == [True] * 3 + [False] * 3

    def test_one_model_has_none_and_is_its_own_mean(self):
        assert bands([RETRAINED]) == {} and mean_figures([RETRAINED]) == RETRAINED and noise_floor([RETRAINED]) is None

    def test_what_one_of_them_lacks_has_none(self):
        first, second = several(count=2)
        assert "mia_auc" not in bands([first, {**second, "mia_auc": None}])
        assert "mia_auc_low" not in bands([{**first, "mia_auc_low": 0.1}, {**second, "mia_auc_low": 0.2}])

    def test_noise_floor_of_three_by_hand_and_in_any_order(self):
        models = several()
        expected = []
        for i in range(3):
            j, k = (other for other in range(3) if other != i)
            mean = {name: (models[j][name] + models[k][name]) / 2 for name in models[0]}
            expected.append(avg_gap(models[i], mean))
        for order in itertools.permutations(models):
            assert noise_floor(list(order)) == pytest.approx(np.mean(expected))
        assert noise_floor(models[:2]) == pytest.approx(avg_gap(*models[:2]))


class TestSummary:
    def test_nothing_without_a_retrained_model_and_no_band_with_one(self):
        assert summarise_gaps({"original": MODEL}) == {}
        assert summarise_gaps({"original": MODEL, "retrained": RETRAINED}) == {
            **{measure.__name__: {"original": measure(MODEL, RETRAINED)} for measure in (avg_gap, avg_gap_salun)},
            "tug_of_war": {"original": tug_of_war(MODEL, RETRAINED)}, "retrained_models": 1,
        }  # fmt: skip

    def test_several_have_a_band_and_gaps_are_to_their_mean(self):
        models = several()
        middle = {name: float(np.median([model[name] for model in models])) for name in models[0]}
        outside = {name: 2 * max(model[name] for model in models) + 1 for name in models[0]}
        named = dict(zip(("retrained", "retrained-2", "retrained-3"), models, strict=True))
        found = summarise_gaps({"near": middle, "far": outside, **named})
        assert found["retrained_models"] == 3 and found["noise_floor"] == noise_floor(models)
        assert set(found["inside"]["near"]) == set(models[0]) and found["inside"]["far"] == []
        assert found["avg_gap"]["far"] == avg_gap(outside, mean_figures(models))
        assert plain(found)["bands"]["mia_auc"].keys() == {"mean", "low", "high"}


class TestTable:
    def models(self) -> dict[str, dict]:
        spread = ((0.0, 0.0), (1.0, 0.02), (2.0, 0.04))
        retrained = [
            {**RETRAINED, "forget_top1": 60 + points, "mia_auc": 0.5 + auc, "mia_auc_high": 0.6}
            for points, auc in spread
        ]
        names = ("retrained", "retrained-2", "retrained-3")
        return {
            "original": MODEL,
            "unlearned": {**MODEL, "forget_top1": 61.5},
            **dict(zip(names, retrained, strict=True)),
        }

    def row(self, models, title) -> list[str]:
        return next(line for line in table(models).splitlines() if line.startswith(title))[27:].split()

    def test_several_retrained_models_are_one_column_and_a_band(self):
        heads = table(self.models()).splitlines()[0]
        assert heads.split() == [
            "original", "unlearned", "retrained", "band", "gap", "of", "original", "gap", "of", "unlearned",
        ]  # fmt: skip
        assert self.row(self.models(), "forget top-1, given") == [
            "70.00", "61.50", "61.00", "60.00–62.00", "+9.00", "+0.50*",
        ]  # fmt: skip
        assert self.row(self.models(), "membership attack")[2:] == ["0.520", "0.500–0.540", "+0.030", "+0.030"]

    def test_ends_with_averages_noise_and_what_the_mark_means(self):
        models = self.models()
        reference = mean_figures(list(retrained_of(models).values()))
        measures = {"AvgGap ": (avg_gap, 2), "AvgGap (SalUn)": (avg_gap_salun, 2), "ToW": (tug_of_war, 3)}
        for title, (measure, digits) in measures.items():
            expected = [f"{measure(models[name], reference):.{digits}f}" for name in ("original", "unlearned")]
            assert self.row(models, title) == expected
        last = table(models).splitlines()[-1]
        floor = noise_floor(list(retrained_of(models).values()))
        assert last.startswith("* inside the band between 3 retrained models") and f"noise floor {floor:.2f}" in last

    def test_one_retrained_model_has_no_band_and_none_has_no_gap(self):
        shown = table({"original": MODEL, "retrained": RETRAINED})
        assert "band" not in shown and "*" not in shown and "noise" not in shown and "true labels" not in shown
        alone = table({"original": {**MODEL, "mia_auc": None}, "other": MODEL})
        assert "gap" not in alone and "–" in alone

    def test_three_models_fit_120_columns(self):
        figures = dict.fromkeys(FIGURES, 100.0) | {"mia_auc_low": 0.123, "mia_auc_high": 0.456}
        names = ("original", "unlearned", "retrained", "retrained-2", "retrained-3")
        for models in (dict.fromkeys(names, figures), self.models()):
            lines = table(models, tuple(FIGURES)).splitlines()
            assert max(map(len, lines)) <= 120
            rows = [len(line) for line in lines if not line.startswith("*")]
            assert len({*rows}) <= 2, "columns end below one another, but for the room of the mark"
            assert all(line[:27].endswith(" ") or line.startswith("*") for line in lines), "titles fit their column"

    def test_long_names_are_explained_below(self):
        path = "runs/unlearning-20260101-120000/model.pt"
        lines = table({path: MODEL, "retrained": RETRAINED}).splitlines()
        assert lines[0].split() == ["model", "1", "retrained", "gap", "of", "model", "1"]
        assert lines[-1] == f"model 1: {path}"

    def test_numbers_are_written_as_they_are_read(self):
        models = {"original": {"relearn_steps": 40, "mia_tpr": 1.234, "js_divergence": 0.12345, "ulira_accuracy": 50.0}}
        shown = table(models, tuple(FIGURES))
        for cell in (" 40\n", "1.23\n", "0.123\n", "50.00\n"):
            assert cell in shown + "\n"


class TestIntervals:
    RIGHT = torch.from_numpy(np.random.default_rng(0).random((3, 90)) < np.array([[0.9], [0.8], [0.7]]))

    def test_shares_are_a_brute_force_bootstraps_and_paired(self):
        found = resampled_shares(self.RIGHT, 4000, np.random.RandomState(0))
        rows = np.random.default_rng(1).integers(90, size=(4000, 90))
        expected = self.RIGHT.double().numpy()[:, rows].mean(2)
        assert found.shape == (3, 4000)
        np.testing.assert_allclose(found.mean(1), expected.mean(1), atol=0.004)
        # In closed form; four standard errors.
        np.testing.assert_allclose(np.cov(found), np.cov(self.RIGHT.numpy(), bias=True) / 90, atol=2.5e-4)
        same = resampled_shares(self.RIGHT[[0, 0]], 50, np.random.RandomState(0))
        assert torch.equal(same[0], same[1])

    def test_gaps_are_to_the_mean_of_the_retrained_models(self):
        names = ("unlearned", "retrained", "retrained-2")
        shares = 100 * resampled_shares(self.RIGHT, 500, np.random.RandomState(0))
        models = {name: {"forget_top1": 100 * right.double().mean().item(), "mia_auc": 0.5} for name, right in
                  zip(names, self.RIGHT, strict=True)}  # fmt: skip
        aucs = torch.linspace(0.4, 0.6, 500, dtype=torch.float64)
        resampled = {name: {"forget_top1": share, "mia_auc": aucs + 0.3 * (name == "unlearned")} for name, share in
                     zip(names, shares, strict=True)}  # fmt: skip
        found = gap_intervals(models, resampled)
        gaps = shares[0] - (shares[1] + shares[2]) / 2
        assert set(found) == {"unlearned"} and found["unlearned"]["mia_auc"] == pytest.approx((0.3, 0.3))
        assert found["unlearned"]["forget_top1"] == pytest.approx(np.quantile(gaps, [0.025, 0.975]))
        low, high = np.quantile((gaps.abs() + 30) / 2, [0.025, 0.975])
        # The models' own AvgGap, with no gap of the AUC, lies below.
        own = avg_gap(models["unlearned"], mean_figures([models["retrained"], models["retrained-2"]]))
        assert own < low and found["unlearned"]["avg_gap"] == pytest.approx((own, high))

    def test_a_figure_that_a_model_lacks_has_none(self):
        share = torch.ones(5, dtype=torch.float64)
        resampled = {"original": {"test_top1": share, "mia_auc": share}, "retrained": {"test_top1": share}}
        models = {"original": {"test_top1": 1.0, "mia_auc": 1.0}, "retrained": {"test_top1": 1.0}}
        assert gap_intervals(models, resampled) == {"original": {"test_top1": (0, 0), "avg_gap": (0, 0)}}
        assert gap_intervals(models, {"original": {}, "retrained": {}}) == {}
