"""The discriminator as a metric: at chance for what cannot be told apart, above it for what can, by true labels."""

import math

import numpy as np
import pytest
import torch
from helpers.method_cases import CPU
from torch import nn
from torch.nn import functional as F

from contrastive_discrimination.held_out import Auc
from data.datasets import Dataset
from data.image_sets import ImageSets
from data.splits import make_splits
from evaluation import judge as judge_module
from evaluation.attacks.discriminator import discriminator_attack
from evaluation.attacks.loss import FOLDS
from evaluation.attacks.matching import class_matched
from evaluation.judge import judge
from evaluation.report.tables import table
from helper_functions.training.inference import predict

NAMES = ("discriminator_auc", "discriminator_auc_low", "discriminator_auc_high")


def discriminator_auc(*given, **options) -> Auc | None:
    found = [discriminator_attack(*given, **options)[name] for name in NAMES]
    return None if None in found else Auc(*found)


def outputs(count, seed, num_classes=6, margin=2.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `[count, K]` around `margin` for the label and 0 for other classes, and the labels `[count]`."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (count,), generator=generator)
    return torch.randn(count, num_classes, generator=generator) + margin * F.one_hot(labels, num_classes), labels


class TestDiscriminatorAuc:
    def test_is_at_chance_for_one_distribution(self):
        """Most intervals cover 0.5; the variance of each fold's discriminator is only approximated."""
        found = [discriminator_auc(*outputs(500, 2 * seed), *outputs(500, 2 * seed + 1), seed) for seed in range(3)]
        assert np.mean([each.value for each in found]) == pytest.approx(0.5, abs=0.03)
        assert all(abs(each.value - 0.5) < 0.06 and each.low < each.value < each.high for each in found)
        assert sum(each.low <= 0.5 <= each.high for each in found) >= 2

    @pytest.mark.parametrize(("num_classes", "margin"), [(2, -3.0), (100, 5.0)])
    def test_is_at_chance_for_outputs_of_any_kind(self, num_classes, margin):
        forget, test = (outputs(500, seed, num_classes, margin) for seed in (0, 1))
        assert discriminator_auc(*forget, *test).value == pytest.approx(0.5, abs=0.06)

    def test_is_at_chance_for_equal_outputs(self, hasty):
        constant, labels = torch.zeros(100, 6), torch.arange(100) % 6
        assert discriminator_auc(constant, labels, constant, labels) == Auc(0.5, 0.5, 0.5)

    @pytest.mark.parametrize("margin", [0.0, 4.0])
    def test_separates_more_and_less_confident_outputs(self, margin):
        """Too much forgetting is as detectable as too little."""
        found = discriminator_auc(*outputs(400, 0, margin=margin), *outputs(300, 1))
        assert found.value > 0.75 and found.low > 0.7

    def test_separates_wrong_outputs_from_right_ones_by_the_label(self):
        """As confident as the others, but for the next class: only the position of the label differs."""
        forget, labels = outputs(400, 0, margin=8.0)
        test = outputs(400, 1, margin=8.0)
        assert discriminator_auc(forget.roll(1, dims=1), labels, *test).value > 0.99
        assert discriminator_auc(forget.roll(1, dims=1), (labels + 1) % 6, *test).value < 0.6

    @pytest.mark.parametrize("num_classes", [2, 10])
    def test_does_not_depend_on_the_order_of_the_classes(self, num_classes, hasty):
        (forget, labels), (test, test_labels) = (outputs(100, seed, num_classes, seed + 2.0) for seed in (0, 1))
        order = torch.randperm(num_classes, generator=torch.Generator().manual_seed(5))
        names = order.argsort()
        expected = discriminator_auc(forget, labels, test, test_labels, 7)
        assert discriminator_auc(forget[:, order], names[labels], test[:, order], names[test_labels], 7) == expected

    def test_huge_logits_have_one(self):
        forget, labels = outputs(100, 0)
        found = discriminator_auc(1e30 * forget, labels, *outputs(100, 1))
        assert found.value > 0.9 and all(map(math.isfinite, (found.low, found.high)))

    def test_too_few_images_have_none(self, hasty):
        enough, few, no = outputs(FOLDS, 0), outputs(FOLDS - 1, 1), outputs(0, 2)
        assert discriminator_auc(*few, *enough) is None and discriminator_auc(*enough, *few) is None
        assert discriminator_auc(*no, *enough) is None and discriminator_auc(*no, *no) is None
        assert 0 <= discriminator_auc(*enough, *enough).value <= 1

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    @pytest.mark.parametrize("side", [0, 1])
    def test_logits_with_nan_or_infinity_have_none(self, value, side):
        sides = [outputs(50, 0), outputs(50, 1)]
        sides[side][0][3, 2] = value
        assert discriminator_auc(*sides[0], *sides[1]) is None

    def test_the_seed_decides_and_global_generators_stay_as_they_were(self, hasty):
        forget, test = outputs(60, 0), outputs(60, 1)
        torch.manual_seed(1)
        np.random.seed(1)
        before, numpy_before = torch.get_rng_state(), np.random.get_state()[1].copy()
        found = discriminator_auc(*forget, *test, seed=3)
        assert torch.equal(torch.get_rng_state(), before)
        assert (np.random.get_state()[1] == numpy_before).all()
        torch.rand(5)
        assert discriminator_auc(*forget, *test, seed=3) == found
        assert discriminator_auc(*forget, *test, seed=4) != found


def image_sets(forget, size=1500) -> ImageSets:
    """Noise of three classes, its first pixels telling the class."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 100, (size, 1, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 3, (size,), generator=generator)
    images[:, 0, 0, :3] += 150 * F.one_hot(labels, 3).to(torch.uint8)
    dataset = Dataset("toy", images, labels, ("a", "b", "c"), size, (0.5,), (0.5,))
    return ImageSets(dataset, make_splits(dataset, forget), None, torch.device("cpu"), 0)


class Knows(nn.Module):
    """Predicts every true class, without memory of images; the last pixel sets the confidence."""

    def forward(self, images):
        return 3 * images[:, 0, 0, :3] + images[:, 0, 3, 3:] * images[:, 0, 0, :3]


class Remembers(Knows):
    """Predicts given labels for given images, which it identifies by their pixels."""

    def __init__(self, sets: ImageSets, told: torch.Tensor, labels: torch.Tensor) -> None:
        super().__init__()
        images = (sets.dataset.images[told] / 255 - 0.5) / 0.5
        self.keys = {self.key(image): label for image, label in zip(images, labels.tolist(), strict=True)}

    @staticmethod
    def key(image) -> tuple:
        return tuple(image.flatten().mul(255).round().int().tolist())

    def forward(self, images):
        logits = super().forward(images)
        for row, image in enumerate(images):
            label = self.keys.get(self.key(image))
            if label is not None:
                highest = logits[row].argmax().item()
                logits[row, [highest, label]] = logits[row, [label, highest]].clone()
        return logits


class TestJudge:
    @pytest.mark.parametrize("forget", ["random:0.2", "class:b", "mislabelled:0.2"])
    def test_a_model_that_has_not_seen_the_forget_set_is_at_chance(self, forget):
        figures = judge(Knows(), image_sets(forget), CPU).figures
        value, low, high = (figures[name] for name in NAMES)
        assert value == pytest.approx(0.5, abs=0.08) and low < value < high and low <= 0.5 <= high
        assert figures["discriminator_worst_tenth"] == pytest.approx(50, abs=35)

    def test_labels_are_the_true_ones(self, hasty):
        sets = image_sets("mislabelled:0.2")
        splits, true = sets.splits, sets.dataset.labels
        forget, test = class_matched(true, splits.forget, splits.test, splits.seed)
        logits, test_logits = (predict(Knows(), sets.evaluation(part), CPU)[0] for part in (forget, test))
        assert (splits.labels[forget] != true[forget]).all()
        given, expected = (
            discriminator_auc(logits, labels[forget], test_logits, labels[test], splits.seed)
            for labels in (splits.labels, true)
        )
        figures = judge(Knows(), sets, CPU).figures
        assert [figures[name] for name in NAMES] == pytest.approx([expected.value, expected.low, expected.high])
        assert abs(figures["discriminator_auc"] - given.value) > 0.1

    def test_a_model_that_remembers_wrong_labels_is_detected(self):
        sets = image_sets("mislabelled:0.2")
        model = Remembers(sets, sets.splits.forget, sets.splits.labels[sets.splits.forget])
        figures = judge(model, sets, CPU).figures
        assert figures["forget_top1"] > 99 > 50 > figures["forget_true_top1"]
        assert figures["discriminator_auc"] > 0.95 and figures["discriminator_auc_low"] > 0.9

    def test_the_model_sees_each_image_once(self, monkeypatch, hasty):
        seen, sets = [], image_sets("random:0.2")
        inner = judge_module.predict
        monkeypatch.setattr(judge_module, "predict", lambda *args: seen.append(len(args[1])) or inner(*args))
        judge(Knows(), sets, CPU)
        assert len(seen) == len(judge_module.PARTS) - 1  # no earlier request has forgotten anything

    def test_only_final_figures_have_it_and_only_where_something_is_forgotten(self, hasty):
        assert not set(NAMES) & set(judge(Knows(), image_sets("random:0.2"), CPU, final=False).figures)
        assert not set(NAMES) & set(judge(Knows(), image_sets(None), CPU).figures)

    def test_too_few_images_or_logits_with_nan_give_none(self, hasty):
        class Broken(Knows):
            def forward(self, images):
                return super().forward(images) * math.nan

        for model, forget in ((Knows(), "random:4images"), (Broken(), "random:0.2")):
            figures = judge(model, image_sets(forget), CPU).figures
            assert [figures[name] for name in NAMES] == [None] * 3


class TestTable:
    MODEL = {"forget_top1": 70.0, **dict(zip(NAMES, (0.61249, 0.59, 0.6351), strict=True))}
    RETRAINED = {"forget_top1": 60.0, **dict(zip(NAMES, (0.5, 0.4874, 0.5126), strict=True))}

    def rows(self, models) -> list[str]:
        lines = table(models).splitlines()
        start = next(row for row, line in enumerate(lines) if line.startswith("discriminator AUC"))
        return lines[start : start + 2]

    def test_the_interval_stands_below_the_value_and_has_no_gap(self):
        value, interval = self.rows({"original": self.MODEL, "retrained": self.RETRAINED})
        assert value.split()[2:] == ["0.612", "0.500", "+0.112"]
        assert interval.split() == ["95", "%", "interval", "0.590–0.635", "0.487–0.513"]
        # The cells end below one another, the gap's with a blank.
        assert len(interval) == len(value) and interval.index("0.635") == value.index("0.612")

    def test_a_model_without_one_has_none_and_models_without_any_no_row(self):
        none = {"forget_top1": 60.0, **dict.fromkeys(NAMES)}
        value, interval = self.rows({"original": self.MODEL, "other": none})
        assert value.split()[2:] == ["0.612", "–"] and interval.split()[3:] == ["0.590–0.635"]
        assert "interval" not in table({"other": none}) and "discriminator" not in table({"other": none})
