"""Points in the plane: their shapes, their seeds, and a classifier that learns and draws them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from data.synthetic import Points, blobs
from models.plane import PlaneClassifier, decision_grid


def same(first: Points, second: Points) -> bool:
    return torch.equal(first.inputs, second.inputs) and torch.equal(first.labels, second.labels)


class TestBlobs:
    @pytest.mark.parametrize("num_points", [600, 601, 5])
    def test_shapes_and_class_balance(self, num_points):
        points = blobs(num_points=num_points)
        assert points.inputs.shape == (num_points, 2) and points.inputs.dtype == torch.float32
        assert points.labels.shape == (num_points,) and points.labels.dtype == torch.int64
        counts = points.labels.bincount(minlength=4)
        assert points.num_classes == len(counts) == 4 and counts.max() - counts.min() <= 1

    def test_are_a_function_of_the_seed(self):
        np.random.seed(0)
        first = blobs(seed=3)
        np.random.seed(1)
        assert same(first, blobs(seed=3))
        assert not torch.equal(first.inputs, blobs(seed=4).inputs)

    def test_classes_are_mixed(self):
        assert len(blobs().labels[:60].unique()) == 4

    def test_have_their_centres_and_spread(self):
        points = blobs(num_classes=5, num_points=10_000, spread=0.3)
        for label in range(5):
            own = points.inputs[points.labels == label].numpy()
            centre = np.array([np.cos(2 * np.pi * label / 5), np.sin(2 * np.pi * label / 5)])
            assert np.abs(own.mean(0) - centre).max() < 5 * 0.3 / np.sqrt(2000)
            assert own.std(0) == pytest.approx([0.3, 0.3], rel=0.1)


class TestSplit:
    @settings(deadline=None, max_examples=30)
    @given(st.integers(40, 200), st.floats(0.2, 0.8), st.integers(0, 2**31 - 1))
    def test_is_a_stratified_partition(self, num_points, share, seed):
        points = blobs(num_points=num_points, seed=1)
        first, second = points.split(share, seed)
        assert len(first) == int(share * num_points) and len(first) + len(second) == num_points
        both = torch.cat([first.inputs, second.inputs])
        assert sorted(both.tolist()) == sorted(points.inputs.tolist())
        counts = first.labels.bincount(minlength=4)
        assert (counts - share * num_points / 4).abs().max() < 2
        assert first.num_classes == second.num_classes == 4

    def test_labels_go_with_their_points(self):
        points = blobs()
        label_of = {tuple(point): label for point, label in zip(points.inputs.tolist(), points.labels, strict=True)}
        for part in points.split(0.3):
            assert all(label_of[tuple(p)] == label for p, label in zip(part.inputs.tolist(), part.labels, strict=True))

    def test_is_a_function_of_the_seed(self):
        points = blobs()
        assert same(points.split(0.5, 1)[0], points.split(0.5, 1)[0])
        assert not same(points.split(0.5, 1)[0], points.split(0.5, 2)[0])


class TestLoader:
    def passes(self, points: Points, **options) -> list[list]:
        loader = points.loader(64, **options)
        return [torch.cat([inputs for inputs, _ in loader]).tolist() for _ in range(2)]

    def test_every_pass_has_every_point_once(self):
        points = blobs(num_points=100)
        batches = list(points.loader(32))
        assert [tuple(inputs.shape) for inputs, _ in batches] == [(32, 2)] * 3 + [(4, 2)]
        assert sorted(torch.cat([inputs for inputs, _ in batches]).tolist()) == sorted(points.inputs.tolist())
        assert torch.cat([labels for _, labels in batches]).bincount().tolist() == [25] * 4

    def test_order_is_a_function_of_the_seed_and_the_pass(self):
        points = blobs()
        first = self.passes(points, seed=5)
        assert first == self.passes(points, seed=5)
        assert first[0] != first[1] and first[0] != self.passes(points, seed=6)[0]

    def test_leaves_the_global_generator_alone(self):
        before = torch.get_rng_state()
        self.passes(blobs())
        assert torch.equal(before, torch.get_rng_state())


class TestPlaneClassifier:
    def test_learns(self):
        torch.manual_seed(0)
        training, held_out = blobs(num_points=1200).split(0.5)
        model = PlaneClassifier(training.num_classes)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(300):
            optimizer.zero_grad()
            F.cross_entropy(model(training.inputs), training.labels).backward()
            optimizer.step()
        for points in (training, held_out):
            assert (model(points.inputs).argmax(1) == points.labels).float().mean() > 0.97


class TestDecisionGrid:
    @pytest.fixture
    def linear(self) -> nn.Module:
        """Logits x, y and 1 + 2 x - 3 y."""
        model = nn.Linear(2, 3)
        with torch.no_grad():
            model.weight.copy_(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, -3.0]]))
            model.bias.copy_(torch.tensor([0.0, 0.0, 1.0]))
        return model

    def test_x_runs_along_columns_and_y_along_rows(self, linear):
        logits = decision_grid(linear, (-1, 10), (1, 30), 5)
        xs, ys = torch.tensor([-1, -0.5, 0, 0.5, 1]), torch.tensor([10.0, 15, 20, 25, 30])
        assert logits.shape == (5, 5, 3)
        assert torch.equal(logits[..., 0], xs.expand(5, 5))
        assert torch.equal(logits[..., 1], ys[:, None].expand(5, 5))
        torch.testing.assert_close(logits[..., 2], 1 + 2 * xs[None, :] - 3 * ys[:, None])

    def test_is_the_models_own_logits_in_eval_mode(self):
        model = nn.Sequential(PlaneClassifier(3), nn.Dropout(0.5)).double().train()
        logits, xs = decision_grid(model, (-1, -1), (1, 1), 6), torch.linspace(-1, 1, 6).double()
        assert logits.dtype == torch.float64 and not logits.requires_grad
        assert all(module.training for module in model.modules())
        torch.testing.assert_close(logits[1, 4], model.eval()(torch.stack([xs[4], xs[1]])[None])[0])
