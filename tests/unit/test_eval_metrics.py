"""Distances between outputs: against SciPy, closed forms, and what a distance must be."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from evaluation.metrics import activation_distance, js_divergence

DISTANCES = (js_divergence, activation_distance)


def logits(seed, count=40, classes=6, scale=2.0) -> torch.Tensor:
    return scale * torch.randn(count, classes, generator=torch.Generator().manual_seed(seed))


def test_js_divergence_is_scipys():
    first, second = logits(0), logits(1)
    # SciPy gives the root of it.
    expected = jensenshannon(first.double().softmax(1).numpy(), second.double().softmax(1).numpy(), axis=1) ** 2
    assert js_divergence(first, second) == pytest.approx(expected.mean())


def test_activation_distance_is_the_norm_of_the_softmax_difference():
    first, second = logits(0), logits(1)
    rows = zip(first.double().softmax(1).numpy(), second.double().softmax(1).numpy(), strict=True)
    assert activation_distance(first, second) == pytest.approx(np.mean([np.linalg.norm(a - b) for a, b in rows]))


@pytest.mark.parametrize("distance", DISTANCES)
class TestDistance:
    def test_is_0_between_a_model_and_itself_whatever_is_added_to_its_logits(self, distance):
        assert distance(logits(0), logits(0)) == pytest.approx(0, abs=1e-12)
        assert distance(logits(0), logits(0) + 7) == pytest.approx(0, abs=1e-6)

    def test_is_symmetric_and_knows_no_order_of_images_or_classes(self, distance):
        first, second = logits(0), logits(1)
        value = distance(first, second)
        assert value > 0 and distance(second, first) == pytest.approx(value)
        images, classes = (torch.randperm(n, generator=torch.Generator().manual_seed(2)) for n in first.shape)
        assert distance(first[images], second[images]) == pytest.approx(value)
        assert distance(first[:, classes], second[:, classes]) == pytest.approx(value)

    @pytest.mark.parametrize("size", [1e2, 1e4, 1e30])
    def test_sure_of_different_classes_is_the_greatest(self, distance, size):
        greatest = {js_divergence: math.log(2), activation_distance: math.sqrt(2)}[distance]
        first, second = size * torch.eye(3), size * torch.eye(3).roll(1, 0)
        assert distance(first, second) == pytest.approx(greatest)
        assert distance(logits(0), logits(1)) < greatest
