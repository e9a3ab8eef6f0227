"""Metrics: distances between outputs against SciPy and closed forms; histograms of losses against counts."""

import math

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon

from evaluation.metrics import SMALLEST_LOSS, activation_distance, js_divergence, loss_histograms

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


def test_shares_are_those_of_each_part_and_every_image_is_in_one_bin():
    generator = torch.Generator().manual_seed(0)
    losses = {
        model: {part: torch.rand(count, generator=generator) * 9 for part, count in (("forget", 70), ("test", 300))}
        for model in ("original", "unlearned")
    }
    losses["original"]["retain"] = torch.full((5,), 100.0)
    found = loss_histograms(losses)
    edges = np.array(found["edges"])
    assert len(edges) == 31 and np.all(np.diff(np.log(edges)) > 0) and edges[0] == SMALLEST_LOSS
    for model, parts in losses.items():
        assert set(found[model]) == {"forget", "test"}
        for part in ("forget", "test"):
            shares, values = found[model][part], parts[part].double().numpy()
            assert math.isclose(sum(shares), 100)
            bins = zip(edges[:-1], edges[1:], strict=True)
            inside = [100 * np.mean((values >= low) & (values < high)) for low, high in bins]
            # The largest loss of all stands on the last edge, which belongs to the last bin.
            np.testing.assert_allclose(shares[:-1], inside[:-1], atol=1e-9)


def test_losses_beyond_the_ends_are_in_the_first_and_the_last_bin():
    found = loss_histograms({"original": {"forget": torch.tensor([0.0, 1e-9, 3.0, math.inf])}})
    shares = found["original"]["forget"]
    assert shares[0] == 50 and shares[-1] == 50 and all(math.isfinite(edge) for edge in found["edges"])


def test_models_without_forget_and_test_images_have_no_histogram():
    assert loss_histograms({"original": {"retain": torch.tensor([1.0])}})["original"] == {}
