"""Points in the plane: their shapes, their seeds, and a classifier that learns and draws them."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from data.synthetic import Points, blobs, spiral, two_moons
from helper_functions.errors import UserError
from models.plane import PlaneClassifier, decision_grid

MAKERS = {"two_moons": two_moons, "blobs": blobs, "spiral": spiral}
CLASSES = {"two_moons": 2, "blobs": 4, "spiral": 3}


def same(first: Points, second: Points) -> bool:
    return torch.equal(first.inputs, second.inputs) and torch.equal(first.labels, second.labels)


def angle_from(point: np.ndarray, degrees: float) -> float:
    """Distance around the circle, in degrees."""
    difference = np.degrees(np.arctan2(point[1], point[0])) - degrees
    return abs((difference + 180) % 360 - 180)


@pytest.mark.parametrize("name", MAKERS)
class TestEverySet:
    @pytest.mark.parametrize("num_points", [600, 601, 5])
    def test_shapes_and_class_balance(self, name, num_points):
        points = MAKERS[name](num_points=num_points)
        assert points.inputs.shape == (num_points, 2) and points.inputs.dtype == torch.float32
        assert points.labels.shape == (num_points,) and points.labels.dtype == torch.int64
        assert points.num_classes == CLASSES[name] and len(points) == num_points
        counts = points.labels.bincount(minlength=points.num_classes)
        assert len(counts) == points.num_classes and counts.max() - counts.min() <= 1

    def test_is_a_function_of_the_seed(self, name):
        np.random.seed(0)
        first = MAKERS[name](seed=3)
        np.random.seed(1)
        assert same(first, MAKERS[name](seed=3))
        assert not torch.equal(first.inputs, MAKERS[name](seed=4).inputs)

    def test_classes_are_mixed(self, name):
        labels = MAKERS[name]().labels
        assert len(labels[:60].unique()) == CLASSES[name]

    def test_bad_requests(self, name):
        with pytest.raises(UserError, match="num_points is 1: pass at least"):
            MAKERS[name](num_points=1)
        with pytest.raises(UserError, match="deviation is -1"):
            MAKERS[name](**{"spread" if name == "blobs" else "noise": -1})


class TestShapes:
    def test_moons_without_noise_are_half_circles(self):
        points = two_moons(noise=0)
        upper, lower = (points.inputs[points.labels == label] for label in (0, 1))
        torch.testing.assert_close(upper.norm(dim=1), torch.ones(300))
        torch.testing.assert_close((lower - torch.tensor([1, 0.5])).norm(dim=1), torch.ones(300))
        assert (upper[:, 1] > -1e-6).all() and (lower[:, 1] < 0.5 + 1e-6).all()

    def test_blobs_have_their_centres_and_spread(self):
        points = blobs(num_classes=5, num_points=10_000, spread=0.3)
        for label in range(5):
            own = points.inputs[points.labels == label].numpy()
            centre = np.array([np.cos(2 * np.pi * label / 5), np.sin(2 * np.pi * label / 5)])
            assert np.abs(own.mean(0) - centre).max() < 5 * 0.3 / np.sqrt(2000)
            assert own.std(0) == pytest.approx([0.3, 0.3], rel=0.1)

    def test_spiral_without_noise_is_the_formula(self):
        points = spiral(num_classes=3, noise=0, turns=0.5)
        radii = points.inputs.norm(dim=1)
        assert radii.min() >= 0.1 - 1e-6 and radii.max() <= 1 + 1e-6
        for point, label, radius in zip(points.inputs.numpy(), points.labels, radii, strict=True):
            assert angle_from(point, 120 * label.item() + 180 * radius.item()) < 1e-2

    def test_a_spiral_needs_a_class(self):
        with pytest.raises(UserError, match="num_classes is 0"):
            spiral(num_classes=0)


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
        points = spiral()
        label_of = {tuple(point): label for point, label in zip(points.inputs.tolist(), points.labels, strict=True)}
        for part in points.split(0.3):
            assert all(label_of[tuple(p)] == label for p, label in zip(part.inputs.tolist(), part.labels, strict=True))

    def test_is_a_function_of_the_seed(self):
        points = two_moons()
        assert same(points.split(0.5, 1)[0], points.split(0.5, 1)[0])
        assert not same(points.split(0.5, 1)[0], points.split(0.5, 2)[0])

    @pytest.mark.parametrize("share", [0, 1, -0.5, 3])
    def test_bad_share(self, share):
        with pytest.raises(UserError, match=f"share is {share}"):
            two_moons().split(share)

    def test_too_few_points_for_the_classes(self):
        with pytest.raises(UserError, match="0.2 of 10 points") as info:
            blobs(num_points=10).split(0.2)
        assert "\n" not in str(info.value)


class TestLoader:
    def passes(self, points: Points, **options) -> list[list]:
        loader = points.loader(64, **options)
        return [torch.cat([inputs for inputs, _ in loader]).tolist() for _ in range(2)]

    def test_every_pass_has_every_point_once(self):
        points = two_moons(num_points=100)
        batches = list(points.loader(32))
        assert [tuple(inputs.shape) for inputs, _ in batches] == [(32, 2)] * 3 + [(4, 2)]
        assert sorted(torch.cat([inputs for inputs, _ in batches]).tolist()) == sorted(points.inputs.tolist())
        assert torch.cat([labels for _, labels in batches]).bincount().tolist() == [50, 50]

    def test_order_is_a_function_of_the_seed_and_the_pass(self):
        points = two_moons()
        first = self.passes(points, seed=5)
        assert first == self.passes(points, seed=5)
        assert first[0] != first[1] and first[0] != self.passes(points, seed=6)[0]

    def test_without_shuffling_the_order_is_the_sets(self):
        points = two_moons()
        assert self.passes(points, shuffle=False) == [points.inputs.tolist()] * 2

    @pytest.mark.parametrize("shuffle", [True, False])
    def test_leaves_the_global_generator_alone(self, shuffle):
        before = torch.get_rng_state()
        self.passes(two_moons(), shuffle=shuffle)
        assert torch.equal(before, torch.get_rng_state())

    def test_bad_batch_size(self):
        with pytest.raises(UserError, match="batch size 0"):
            two_moons().loader(0)


class TestPlaneClassifier:
    @pytest.mark.parametrize("depth", [1, 2, 4])
    def test_has_its_size(self, depth):
        model = PlaneClassifier(5, width=8, depth=depth)
        assert model(torch.randn(7, 2)).shape == (7, 5)
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        assert [layer.in_features for layer in layers] == [2] + depth * [8]

    @pytest.mark.parametrize(("name", "least"), [("two_moons", 0.97), ("blobs", 0.97), ("spiral", 0.95)])
    def test_learns_each_set(self, name, least):
        torch.manual_seed(0)
        training, held_out = MAKERS[name](num_points=1200).split(0.5)
        model = PlaneClassifier(training.num_classes)
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(300):
            optimizer.zero_grad()
            F.cross_entropy(model(training.inputs), training.labels).backward()
            optimizer.step()
        for points in (training, held_out):
            assert (model(points.inputs).argmax(1) == points.labels).float().mean() > least


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
