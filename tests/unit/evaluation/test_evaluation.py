"""Verdicts, matched classes, figures of a judged model against a plain evaluation, drawings, tables of costs."""

import math
import re
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.method_cases import CPU
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import nn
from torch.nn import functional as F

from data.datasets import Dataset
from data.image_sets import ImageSets
from data.splits import make_splits
from evaluation.attacks.loss import loss_attack, loss_folds
from evaluation.attacks.matching import class_matched
from evaluation.judge import judge
from evaluation.metrics import loss_histograms
from evaluation.report.figures import draw_images, draw_losses
from evaluation.report.tables import cost_table, plain
from evaluation.verdict import Verdict, give_verdict, next_try
from helper_functions.training.loop import Cost
from unlearning.evaluator import is_forgotten, paired_fall


def losses(size, seed) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).exponential(size=size)).float()


class TestClassMatched:
    @settings(max_examples=60)
    @given(
        st.lists(st.tuples(st.integers(0, 3), st.sampled_from(["first", "second", "neither"])), max_size=40),
        st.integers(0, 2**32 - 1),
    )
    def test_as_many_of_each_class_as_both_sides_have(self, images, seed):
        labels = torch.tensor([label for label, _ in images], dtype=torch.int64)
        sides = {
            side: torch.tensor([i for i, (_, where) in enumerate(images) if where == side], dtype=torch.int64)
            for side in ("first", "second")
        }
        first, second = class_matched(labels, sides["first"], sides["second"], seed)
        counts = [Counter(labels[side].tolist()) for side in sides.values()]
        expected = Counter({label: min(counts[0][label], counts[1][label]) for label in range(4)})
        for chosen, side in ((first, sides["first"]), (second, sides["second"])):
            assert +Counter(labels[chosen].tolist()) == +expected
            assert len(set(chosen.tolist())) == len(chosen) and set(chosen.tolist()) <= set(side.tolist())
        assert torch.equal(labels[first], labels[second])
        again = class_matched(labels, sides["first"], sides["second"], seed)
        assert torch.equal(first, again[0]) and torch.equal(second, again[1])


class TestVerdict:
    def figures(self, **changes) -> dict:
        return {
            "retain_top1": 90.0, "retain_loss": 0.3, "forget_top1": 5.0, "forget_loss": 3.0, "unseen_top1": 60.0,
        } | changes  # fmt: skip

    def verdict(
        self, budget=1.0, target="chance", retain=(0.0, 0.0), held_out=(0.0, 0.0), original=None, **changes
    ) -> Verdict:
        original = {"forget_top1": 99.0, "forget_loss": 0.1, "unseen_top1": 60.0} if original is None else original
        return give_verdict(original, self.figures(**changes), budget, target, 10, retain, held_out)

    @pytest.mark.parametrize(
        ("fall", "feasible", "slack"),
        [(0.0, True, 1.0), (0.5, True, 0.5), (1.0, True, 0.0), (1.1, False, -0.1), (-3.0, True, 4.0)],
    )
    def test_slack_is_what_is_left_of_the_budget(self, fall, feasible, slack):
        verdict = self.verdict(retain=(fall, 0.0))
        assert verdict.feasible == feasible and verdict.slack == pytest.approx(slack) and verdict.retain_budget == 1

    @pytest.mark.parametrize("lost", [1, 7, 299])
    def test_a_budget_kept_to_the_image_does_not_fail_by_rounding(self, lost, count=30_000):
        right = torch.ones(2, count, dtype=torch.bool)
        right[1, :lost] = False
        fall = paired_fall(*right, count)
        assert self.verdict(100 * lost / count, retain=fall).feasible
        assert not self.verdict(100 * (lost - 1) / count, retain=fall).feasible

    @pytest.mark.parametrize(("margin", "feasible"), [(0.0, True), (0.4, True), (0.6, False)])
    def test_on_a_sample_the_bound_has_to_keep_the_budget(self, margin, feasible):
        verdict = self.verdict(retain=(0.5, margin))
        assert verdict.feasible == feasible and verdict.slack == pytest.approx(0.5)
        assert ("by a sample at 95 %" in str(verdict)) == (margin > 0)

    def test_numbers_that_are_none_are_not_feasible(self):
        assert not self.verdict(100.0, retain_loss=math.nan).feasible

    @pytest.mark.parametrize(("fall", "margin", "feasible"), [(0.9, 0, True), (1.6, 0.7, True), (1.6, 0.5, False)])
    def test_a_fall_on_held_out_images_that_is_no_noise_breaks_the_budget(self, fall, margin, feasible):
        """A model that knows its training set by heart keeps its retain accuracy while it gets worse."""
        verdict = self.verdict(held_out=(fall, margin))
        assert verdict.feasible == feasible and verdict.slack == 1.0
        assert f"held-out {fall:.1f} ± {margin:.1f} lost" in str(verdict)

    @pytest.mark.parametrize(
        ("target", "changes", "forgotten"),
        [
            ("zero", {"forget_top1": 1.0}, True), ("zero", {"forget_top1": 1.1}, False),
            ("chance", {"forget_loss": math.log(10) + 0.01, "forget_top1": 9.0}, True),
            ("chance", {"forget_loss": math.log(10) - 0.01, "forget_top1": 9.0}, False),
            ("chance", {"forget_loss": 5.0, "forget_top1": 11.0}, False),
            ("chance", {"forget_loss": math.nan, "forget_top1": 0.0}, False),
            ("unseen", {"forget_top1": 64.9}, True), ("unseen", {"forget_top1": 65.1}, False),
            ("unseen", {"forget_top1": 10.0}, True),
        ],
    )  # fmt: skip
    def test_forgotten_by_its_target(self, target, changes, forgotten):
        figures = self.figures(**changes)
        assert is_forgotten(target, figures, 10) == forgotten
        assert self.verdict(target=target, **changes).forgotten == forgotten

    @pytest.mark.parametrize(
        ("feasible", "forgotten", "stage", "epochs", "flags"),
        [(True, True, "", 10, set()), (True, False, "", 10, {"--num_epochs 20", "--retain_budget"}),
         (True, False, "finetune_", 3, {"--finetune_num_epochs 6", "--retain_budget"}),
         (True, False, "", 0, {"--retain_budget"}), (False, True, "", 10, {"--retain_budget", "--learning_rate"}),
         (False, True, "finetune_", 3, {"--retain_budget", "--finetune_learning_rate"})],
    )  # fmt: skip
    def test_what_was_not_reached_comes_with_flags_to_try(self, feasible, forgotten, stage, epochs, flags):
        advice = next_try(Verdict(feasible, forgotten, 1.0, 0.5), stage, epochs) or ""
        assert set(re.findall(r"--\w+(?: \d+)?", advice)) == flags

    @pytest.mark.parametrize(
        ("original", "met"),
        [({"forget_top1": 64.9, "forget_loss": 0.1}, True), ({"forget_top1": 65.1, "forget_loss": 0.1}, False),
         ({"forget_top1": 0.0, "forget_loss": math.nan}, False)],
    )  # fmt: skip
    def test_whether_the_original_met_it_already(self, original, met):
        verdict = self.verdict(target="unseen", original={**original, "unseen_top1": 60.0}, forget_top1=50.0)
        assert verdict.met_before == met == ("(the original met this already)" in verdict.outcome)

    def test_says_it_in_words(self):
        assert str(Verdict(True, True, 1.0, 0.6)) == (
            "forgotten, budget kept: retain accuracy 0.4 points lost of the 1 allowed, held-out 0.0 ± 0.0 lost"
        )
        broken = str(Verdict(False, False, 2.0, -1.0))
        assert broken.startswith("NOT forgotten, budget NOT kept: retain accuracy 3.0 points lost of the 2 allowed")
        gained = str(Verdict(True, True, 1.0, 1.3, 0.2, -2.5, 1.0))
        sampled = "(at most 0.2 lower, by a sample at 95 %)"
        said = f"retain accuracy 0.0 points lost of the 1 allowed (0.3 gained) {sampled}, held-out 2.5 ± 1.0 gained"
        assert gained.endswith(said)
        assert "retain accuracy 0.0 points lost" in str(Verdict(True, True, 1.0, 1.01)), "no minus before nothing"
        assert Verdict(True, False, 1.0, 0.6, met_before=True).outcome == "NOT forgotten, budget kept"


class TestReport:
    def test_costs(self):
        cost = Cost(seconds=12.34, gradient_steps=1500, images=1_200_000, peak_memory_bytes=3 * 2**20)
        assert cost_table({"original": cost}).splitlines()[1].split() == [
            "original", "12.3", "1,500", "1,200,000", "3", "MiB",
        ]  # fmt: skip

    def test_plain_values_are_what_json_holds(self):
        value = {"a": Verdict(True, True, 1.0, math.nan), "b": [math.inf, (1, -math.inf)], "c": "text", "d": None}
        verdict = {"feasible": True, "forgotten": True, "retain_budget": 1.0, "slack": None, "margin": 0.0,
                   "held_out_fall": 0.0, "held_out_margin": 0.0, "met_before": False,
                   "outcome": "forgotten, budget kept"}  # fmt: skip
        assert plain(value) == {"a": verdict, "b": [None, [1, None]], "c": "text", "d": None}


def image_sets(forget="random:30", size=400) -> ImageSets:
    """Random pictures of three classes; the first test images of class 0 are the brightest."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 255, (size, 1, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (size,), generator=generator)
    images[:, 0, 0, :3] = 250 * F.one_hot(labels, 3).to(torch.uint8)
    dataset = Dataset("toy", images, labels, ("a", "b", "c"), size, (0.5,), (0.5,))
    return ImageSets(dataset, make_splits(dataset, forget), None, torch.device("cpu"), 0)


def network() -> nn.Sequential:
    """Knows its classes, roughly."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, 3))
    nn.init.normal_(model[2].weight, std=0.3)
    model[2].weight.data[:, :3] += torch.eye(3)
    return model


class TestJudge:
    @pytest.mark.parametrize("forget", ["random:30", "class:b", "mislabelled:0.2"])
    def test_figures_are_those_of_a_plain_evaluation(self, forget, hasty):
        sets, model = image_sets(forget), network().train()
        before = {name: value.clone() for name, value in model.state_dict().items()}
        found = judge(model, sets, CPU)
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()) and model.training
        model.eval()
        splits, dataset = sets.splits, sets.dataset
        with torch.no_grad():
            logits = model((dataset.images / 255 - 0.5) / 0.5)
        labels = {"given": splits.labels, "true": dataset.labels}
        per_image = F.cross_entropy(logits, splits.labels, reduction="none")
        remaining = splits.test[splits.labels[splits.test] != 1]
        names = ("retain", "forget", "unseen", "validation", "test")
        parts = {name: (getattr(splits, name), "given") for name in names}
        parts["forget_true"] = (splits.forget, "true")
        if forget == "class:b":
            parts["test_remaining"] = (remaining, "given")
        for name, (indices, kind) in parts.items():
            rows, wanted = logits[indices], labels[kind][indices]
            top1 = 100 * (rows.argmax(1) == wanted).double().mean().item()
            assert found.figures[f"{name}_top1"] == pytest.approx(top1, abs=1e-4)
            assert found.figures[f"{name}_loss"] == pytest.approx(F.cross_entropy(rows, wanted).item(), rel=1e-4)
            assert found.figures[f"{name}_top5"] == 100
            if name in found.losses:
                torch.testing.assert_close(found.losses[name], per_image[indices])
        assert ("test_remaining_top1" in found.figures) == (forget == "class:b")
        members, others = class_matched(dataset.labels, splits.forget, splits.test, splits.seed)
        folds = loss_folds(per_image[members], per_image[others], splits.seed)
        expected = loss_attack(folds, splits.seed)["mia_auc"]
        assert found.figures["mia_auc"] == pytest.approx(expected, abs=1e-6)


class TestFigures:
    @pytest.mark.filterwarnings("ignore::RuntimeWarning")
    def test_losses_are_drawn_for_each_model(self, tmp_path):
        losses = [{"forget": torch.tensor([0.5, value]), "test": torch.tensor([value, 1.0, 0.0])}
                  for value in (1.0, math.nan, math.inf)]  # fmt: skip
        draw_losses(tmp_path / "one.png", loss_histograms({"original": losses[0]}))
        draw_losses(tmp_path / "two.png", loss_histograms({"original": losses[1], "unlearned": losses[2]}))
        one, two = (Image.open(tmp_path / f"{name}.png") for name in ("one", "two"))
        assert two.width > one.width and two.height == one.height
        assert len(np.unique(np.asarray(one.convert("L")))) > 2, "a picture, not a blank"

    @pytest.mark.parametrize(("count", "channels"), [(1, 1), (7, 3)])
    def test_images_carry_their_labels_before_and_after(self, count, channels):
        images = torch.zeros(count, channels, 4, 4, dtype=torch.uint8)
        figure = draw_images(images, ("a", "b", "c"), [0] * count, [1] * count, [2] * count)
        titles = [axis.get_title() for axis in figure.axes if axis.get_title()]
        assert titles == ["given a\nb → c"] * count
