"""Evidence for single requesters: counts, exact intervals, the score and its band, and pages that keep others out."""

import re
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers.report_cases import Page, example
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from data.image_list import Request
from evaluation.attacks.intervals import share_interval
from evaluation.judge import Judgement
from evaluation.report.requesters import evidence_for, requester_page

NOTHING = torch.zeros(0, dtype=torch.bool)
REQUESTS = [Request("r1", "Anna", (10, 12)), Request("r2", "Ben", (14,)), Request("r3", "Anna", (4, 12, 16))]


def judgement(right: list[bool], forget: list[float], test: list[float]) -> Judgement:
    losses = {"forget": torch.tensor(forget), "test": torch.tensor(test)}
    return Judgement({}, losses, {}, NOTHING, NOTHING, torch.tensor(right))


@pytest.fixture
def experiment() -> SimpleNamespace:
    """Images 10, 12, 14 and 16 are forgotten, 4 was before; even multiples of 4 are of class 0, others of class 1."""
    labels = torch.tensor([0 if index % 4 == 0 else 1 for index in range(30)])
    splits = SimpleNamespace(forget=torch.tensor([10, 12, 14, 16]), test=torch.tensor([20, 21, 22, 24]), labels=labels)
    sets = SimpleNamespace(strata=labels)
    return SimpleNamespace(splits=splits, sets=sets, dataset=SimpleNamespace(file_names=None))


def entries(experiment) -> list[dict]:
    models = {
        "original": judgement([True] * 4, [0.0, 0.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]),
        "unlearned": judgement([True, False, True, False], [2.5, 4.0, 1.0, 5.0], [1.0, 2.0, 3.0, 4.0]),
    }
    return evidence_for(REQUESTS, models, experiment)


def test_each_requester_has_his_own_images_counts_and_scores(experiment):
    anna, ben = entries(experiment)
    assert (anna["requester"], anna["requests"], anna["images"], anna["earlier"]) == ("Anna", ["r1", "r3"], 4, 1)
    assert (ben["requester"], ben["requests"], ben["images"], ben["earlier"]) == ("Ben", ["r2"], 1, 0)
    assert anna["before"]["named"] == 3 and anna["after"]["named"] == 1
    assert anna["before"]["score"] == 1.0, "no loss of an image that was never seen is as low"
    # Class 1 has test losses 2 and 3, class 0 has 1 and 4: image 10 has one of two above it, 12 half of one, 16 none.
    assert anna["after"]["score"] == pytest.approx((0.5 + 0.25 + 0) / 3)
    assert ben["after"]["score"] == 1.0 and ben["page"] == "requester-2.html"


def test_without_test_images_validation_images_take_their_place(experiment):
    models = {name: judgement([True] * 4, [2.5] * 4, [9.0] * 4) for name in ("original", "unlearned")}
    for each in models.values():
        each.losses["validation"] = each.losses.pop("test")[:2]
    experiment.splits.validation = torch.tensor([20, 24])
    anna, ben = evidence_for(REQUESTS, models, experiment)
    assert anna["after"]["score"] == 1.0 and ben["after"]["score"] is None, "no held-out image of his class"


@settings(max_examples=40)
@given(st.integers(0, 40).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_the_interval_of_a_share_is_exact(case):
    hits, count = case
    found = (0.0, 100.0) if count == 0 else binomtest(hits, count).proportion_ci(0.95, "exact")
    expected = found if count == 0 else (100 * found.low, 100 * found.high)
    assert share_interval(hits, count) == pytest.approx(expected)


@pytest.mark.parametrize("count", [1, 2, 3, 10])
def test_the_band_holds_the_scores_of_images_that_were_never_seen(experiment, count):
    """Ranks of such images are uniform: 19 of 20 means lie in it, or more where it is cut off at the ends."""
    requests = [Request("r", "A", (10, 12, 14, 16))]
    models = {name: judgement([True] * 4, [0.0] * 4, [1.0] * 4) for name in ("original", "unlearned")}
    (entry,) = evidence_for(requests, models, experiment)
    assert (entry["score_low"] + entry["score_high"]) / 2 == pytest.approx(0.5)
    half = (entry["score_high"] - 0.5) * np.sqrt(4 / count)
    means = np.random.default_rng(0).random((20_000, count)).mean(1)
    inside = (abs(means - 0.5) <= min(half, 0.5)).mean()
    assert 0.94 < inside <= (0.962 if count > 2 else 1)


class TestPage:
    def page(self, experiment, number: int = 0, **changes) -> Page:
        report = example(requesters=entries(experiment))
        return Page(requester_page(report, {**report["requesters"][number], **changes}))

    def test_it_says_what_was_found_and_how_sure_that_is(self, experiment):
        page = self.page(experiment)
        assert page.open == [] and page.headings[:2] == ["Removal of your pictures from an image classifier",
                                                         "✓ Forgotten, budget kept"]  # fmt: skip
        assert "Request r1, r3. Requester: Anna." in page.text and "asked for the removal of 4 pictures" in page.text
        assert "1 had been removed for an earlier request" in page.text
        low, high = binomtest(1, 3).proportion_ci(0.95, "exact")
        assert page.row("Recognised")[1] == f"1 of 3 {100 * low:.0f}–{100 * high:.0f} %"
        assert "the model recognises 92 %" in page.text and "the test cannot tell" in page.text
        assert entries(experiment)[0]["sha256"] in page.text

    def test_a_trace_and_a_run_that_fails_are_said(self, experiment):
        found = {**entries(experiment)[0]["after"], "score": 0.99}
        assert "the test still finds a trace" in self.page(experiment, after=found).text
        report = example(requesters=entries(experiment))
        report["verdict"] |= {"forgotten": False, "outcome": "NOT forgotten, budget kept"}
        page = Page(requester_page(report, report["requesters"][1]))
        assert page.headings[1] == "✗ NOT forgotten, budget kept" and "does not fulfil your request" in page.text

    def test_no_word_needs_explaining(self, experiment):
        jargon = r"\b(class|run|accuracy|confidence|points?|retain\w*|held-out|training|loss|AUC|comparable)\b"
        report = example(requesters=entries(experiment))
        report["preprocessing"]["confirmed_by"] = None
        text = Page(requester_page(report, report["requesters"][0])).text
        assert re.findall(jargon, text) == [] and "Unconfirmed: the pictures may have been shown" in text

    def test_nobody_else_is_on_it(self, experiment):
        first, second = (self.page(experiment, number).text for number in (0, 1))
        assert "Ben" not in first and "r2" not in first and "Anna" not in second and "r1" not in second

    def test_names_stay_text(self, experiment):
        page = self.page(experiment, requester="<script>alert(1)</script>", requests=["\u202ex"])
        assert "<script>alert(1)</script>" in page.text and not [tag for tag, _ in page.tags if tag == "script"]
        assert "\u202e" not in page.text

    def test_all_images_of_earlier_requests(self, experiment):
        assert "Recognised" not in self.page(experiment, earlier=4).text
