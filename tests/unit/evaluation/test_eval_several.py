"""Figures of several models (SWAP, KLoM) and of copies of images or heads (residual knowledge, prototypes)."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers.method_cases import CPU
from helpers.numbered_images import Table, numbered_sets
from torch import nn
from torch.distributions import Normal, kl_divergence
from torch.nn import functional as F

from data.datasets import Dataset
from data.image_sets import ImageSets
from data.splits import make_splits
from evaluation.attacks import residual
from evaluation.attacks.klom import by_unlearned, klom
from evaluation.attacks.lira import OWN_VARIANCE_FROM
from evaluation.attacks.prototype import prototype_figures, shots_of, with_prototypes
from evaluation.attacks.residual import residual_knowledge, right_near
from evaluation.attacks.swap import swap_advantage

CLASSES = 4


def normal(*shape, seed=0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def swapped(runs: int, targets: int, seed: int = 0) -> torch.Tensor:
    """Which targets each run forgets: a random half, and the other half in the run after."""
    rng, rows = np.random.default_rng(seed), []
    for _ in range(runs // 2):
        half = torch.zeros(targets, dtype=torch.bool)
        half[rng.permutation(targets)[: targets // 2]] = True
        rows += [half, ~half]
    return torch.stack(rows)


class TestSwap:
    def test_is_the_mean_of_true_minus_false_positives_by_hand(self):
        """Four images; the two surest are called members."""
        confidences = torch.tensor([[4.0, 3.0, 2.0, 1.0], [1.0, 4.0, 3.0, 2.0]])
        unlearned = torch.tensor([[True, True, False, False], [False, False, True, True]])
        assert swap_advantage(confidences, unlearned) == (1.0 + 0.0) / 2
        assert swap_advantage(-confidences, unlearned) == 0.5, "images that became unsure tell as much"

    @pytest.mark.parametrize("pairs", [1, 3])
    def test_one_model_that_saw_neither_set_has_exactly_none(self, pairs):
        """Retraining takes the same images in both runs: what is easy counts once for and once against."""
        unlearned = swapped(2 * pairs, 40)
        model = normal(pairs, 40).repeat_interleave(2, 0)
        assert swap_advantage(model, unlearned) == pytest.approx(0, abs=1e-12)

    def test_grows_with_what_is_left(self):
        unlearned = swapped(8, 2000)
        easy = 3 * normal(2000, seed=5)
        found = [swap_advantage(easy + normal(8, 2000) + left * unlearned, unlearned) for left in (0, 1, 4)]
        # The standard error of a share of 8 x 1,000.
        assert found[0] < 4 / math.sqrt(8000) and found[0] + 0.1 < found[1] < found[2] - 0.1


class TestKlom:
    @pytest.mark.parametrize("models", [(6, 9), (OWN_VARIANCE_FROM, OWN_VARIANCE_FROM + 3)])
    def test_is_the_divergence_of_fitted_gaussians(self, models):
        unlearned, retrained = normal(models[0], 50) + 1, 2 * normal(models[1], 50, seed=1)
        own = models[0] >= OWN_VARIANCE_FROM
        gaussians = []
        for side in (retrained, unlearned):
            variance = side.var(0) if own else side.var(0).mean().expand(50)
            gaussians.append(Normal(side.mean(0), variance.sqrt()))
        expected = np.quantile(kl_divergence(*gaussians).numpy(), 0.95)
        assert klom(unlearned, retrained) == pytest.approx(expected)

    @pytest.mark.parametrize(("count", "others"), [(4, 8), (20, 20)])
    def test_is_at_its_chance_level_for_retrained_models(self, count, others):
        """The squared difference of two means is chi-squared; its 95th percentile is 3.84 variances."""
        shared = 3 * normal(1, 20_000, seed=9)
        found = klom(normal(count, 20_000) + shared, normal(others, 20_000, seed=1) + shared)
        assert found == pytest.approx(1.92 * (1 / count + 1 / others), rel=0.05)

    def test_grows_where_a_tenth_of_the_images_stay_known(self):
        unlearned, retrained = normal(6, 500), normal(6, 500, seed=1)
        unlearned[:, :50] += 4
        assert klom(unlearned, retrained) > 5 > klom(unlearned[:, 50:], retrained[:, 50:])

    def test_shadow_models_are_sorted_by_image(self):
        unlearned = swapped(6, 10)
        sides = by_unlearned(torch.where(unlearned, 1.0, 2.0), unlearned)
        assert [side.shape for side in sides] == [(3, 10)] * 2
        assert [side.unique().tolist() for side in sides] == [[1], [2]]


class Brightness(nn.Module):
    """Class 0 where the first pixel is at least the threshold: noise decides about images close to it."""

    def __init__(self, threshold: float) -> None:
        super().__init__()
        self.threshold = threshold

    def forward(self, images):
        return F.one_hot((images[:, 0, 0, 0] < self.threshold).long(), 2).float()


class TestResidual:
    def sets(self, size=600) -> ImageSets:
        images = torch.full((size, 1, 2, 2), 128, dtype=torch.uint8)
        images[:, 0, 1, 0], images[:, 0, 1, 1] = torch.arange(size) // 256, torch.arange(size) % 256  # no copies
        data = Dataset("toy", images, (torch.arange(size) % 4 == 0).long(), ("a", "b"), size, (128 / 255,), (1.0,))
        return ImageSets(data, make_splits(data, "random:300"), None, torch.device("cpu"), 0)

    @pytest.mark.parametrize("threshold", [-0.1, 0.0, 0.05])
    def test_the_share_near_a_threshold_is_that_of_the_normal_distribution(self, threshold):
        sets, below = self.sets(), Normal(0.0, residual.NOISE).cdf(torch.tensor(threshold)).item()
        dark = sets.splits.labels[sets.splits.forget].double().mean().item()
        expected = dark * below + (1 - dark) * (1 - below)
        share = right_near(Brightness(threshold), sets, CPU)
        assert share == pytest.approx(expected, abs=4 * math.sqrt(0.25 / (300 * residual.DRAWS)))

    def test_all_models_see_the_same_noise_and_global_generators_stay(self):
        sets, state = self.sets(), torch.get_rng_state()
        assert right_near(Brightness(0.0), sets, CPU) == right_near(Brightness(0.0), sets, CPU)
        assert torch.equal(torch.get_rng_state(), state)

    def test_is_a_ratio_to_the_mean_and_none_where_that_is_nothing(self):
        assert residual_knowledge(0.9, [0.5, 0.7]) == pytest.approx(1.5)
        assert residual_knowledge(0.9, [0.0]) is None

    def test_without_noise_it_is_forget_accuracy_by_given_labels(self, monkeypatch):
        monkeypatch.setattr(residual, "NOISE", 0.0)
        sets = numbered_sets("mislabelled:0.2", 400, CLASSES)
        forget = sets.splits.forget
        logits = normal(400, CLASSES).float()
        expected = (logits[forget].argmax(1) == sets.splits.labels[forget]).float().mean().item()
        assert right_near(Table(logits), sets, CPU) == pytest.approx(expected)


class Head(nn.Module):
    """The first four pixels as features; a head whose row for class 1 is cut off."""

    def __init__(self, informative: bool = True) -> None:
        super().__init__()
        self.start = 0 if informative else 8
        self.head = nn.Linear(CLASSES, CLASSES)
        self.head.weight.data = torch.eye(CLASSES)
        self.head.weight.data[1] = -1.0
        nn.init.zeros_(self.head.bias)

    def forward(self, images):
        return self.head(images.flatten(1)[:, self.start : self.start + CLASSES])


class TestPrototype:
    def sets(self, forget="class:b", size=600) -> ImageSets:
        """Noise, and in the first row a bright pixel that tells the class."""
        images = torch.randint(0, 40, (size, 1, 4, 4), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
        labels = torch.arange(size) % CLASSES
        images[:, 0, 0] += 200 * F.one_hot(labels, CLASSES).to(torch.uint8)
        data = Dataset("toy", images, labels, tuple("abcd"), size, (0.0,), (1.0,))
        return ImageSets(data, make_splits(data, forget), None, torch.device("cpu"), 0)

    def test_brings_back_what_the_features_hold_and_leaves_the_model(self):
        model = Head()
        before = copy.deepcopy(model.state_dict())
        assert prototype_figures(model, self.sets(), CPU) == {"prototype1_top1": 100, "prototype10_top1": 100}
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    @pytest.mark.parametrize("forget", ["class:b", "class:b,c"])
    def test_a_class_does_not_come_back_by_a_row_that_takes_all_images(self, forget):
        """All features are positive, so that a mean of them alone answers to any image."""
        found = prototype_figures(Head(informative=False), self.sets(forget), CPU)
        assert all(value < 75 for value in found.values())

    def test_is_at_chance_where_features_hold_nothing(self):
        """All classes have prototypes, of noise: none is better than another."""
        for value in prototype_figures(Head(informative=False), self.sets("random:300"), CPU).values():
            assert value == pytest.approx(100 / CLASSES, abs=4 * 100 * math.sqrt(0.1875 / 260))

    def test_rows_are_mean_features_of_the_norm_of_the_others(self):
        features, weight, bias = torch.rand(6, 3), torch.randn(2, 3), torch.tensor([1.0, 2.0])
        labels, shots = torch.tensor([0, 0, 0, 1, 1, 1]), torch.tensor([True, True, False, False, False, False])
        logits = features @ weight.T + bias
        after = with_prototypes(features, logits, labels, shots, weight, bias)
        mean = (features[0] + features[1]) / 2
        row = mean / mean.norm() * (weight[0].norm() + weight[1].norm()) / 2
        torch.testing.assert_close(after, torch.stack([features @ row + 1.5, logits[:, 1]], 1))

    def test_shots_are_ten_of_a_class_and_at_most_half(self):
        labels = torch.tensor([0] * 50 + [1] * 7 + [2])
        shots = shots_of(labels, 10, seed=0)
        assert torch.bincount(labels[shots], minlength=3).tolist() == [10, 3, 0]
        assert torch.equal(shots, shots_of(labels, 10, 0)) and not torch.equal(shots, shots_of(labels, 10, 1))

    def test_none_without_features_or_with_a_class_of_one_image(self):
        model = Head()
        model.register_forward_pre_hook(lambda _, images: (images[0] * torch.nan,))
        assert set(prototype_figures(model, self.sets(), CPU).values()) == {None}
        assert set(prototype_figures(Head(), self.sets("random:1image"), CPU).values()) == {None}
