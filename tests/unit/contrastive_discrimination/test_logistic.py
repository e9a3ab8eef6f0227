"""Exact logistic regression: against scikit-learn, against its own stationarity, and without waiting for the device."""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from contrastive_discrimination.logistic import solve_logistic


def sample(n, s, seed=0, separation=1.0, positive=0.5) -> tuple[torch.Tensor, torch.Tensor]:
    """Features `[n, s]` of two Gaussian classes, float64, and targets with both classes present."""
    rng = np.random.default_rng(seed)
    targets = (np.arange(n) < max(1, round(positive * n))).astype(float)
    features = rng.normal(size=(n, s)) + separation * targets[:, None] * rng.normal(size=s)
    return torch.from_numpy(features), torch.from_numpy(targets)


def reference(features, targets, weights=None, l2=1.0) -> np.ndarray:
    """scikit-learn's coefficients and intercept."""
    solver = LogisticRegression(C=1 / l2 if l2 else np.inf, solver="newton-cholesky", tol=1e-12, max_iter=10_000)
    solver.fit(features.numpy(), targets.numpy(), sample_weight=None if weights is None else weights.numpy())
    return np.append(solver.coef_[0], solver.intercept_)


def slope(solution, features, targets, weights, l2) -> torch.Tensor:
    """Gradient of the objective as it is defined, in the features' own units."""
    at = solution.clone().requires_grad_()
    logits = features @ at[:-1] + at[-1]
    losses = F.binary_cross_entropy_with_logits(logits, targets, weights, reduction="sum")
    (gradient,) = torch.autograd.grad(losses + l2 / 2 * at[:-1].square().sum(), at)
    return gradient


def assert_agrees(features, targets, weights=None, l2=1.0):
    found = solve_logistic(features, targets, weights=weights, l2=l2).numpy()
    np.testing.assert_allclose(found, reference(features, targets, weights, l2), rtol=1e-4, atol=1e-4)


class TestAgainstScikitLearn:
    @pytest.mark.parametrize("l2", [1e-3, 1.0, 100.0])
    @pytest.mark.parametrize(("n", "s"), [(4, 1), (30, 16), (200, 3), (1000, 9)])
    def test_sizes_and_penalties(self, n, s, l2):
        assert_agrees(*sample(n, s), l2=l2)

    def test_without_penalty(self):
        assert_agrees(*sample(300, 4, separation=0.5), l2=0.0)

    @pytest.mark.parametrize("l2", [1.0, 1e-2])
    def test_weights(self, l2):
        features, targets = sample(120, 3)
        weights = torch.from_numpy(np.random.default_rng(1).exponential(size=120)) * (torch.arange(120) % 5 > 0)
        assert_agrees(features, targets, weights, l2)

    def test_one_value_separates(self):
        assert_agrees(torch.linspace(-1, 1, 50).double()[:, None], (torch.arange(50) >= 25).double(), l2=1e-4)

    @pytest.mark.parametrize("positive", [0.002, 0.998])
    def test_one_class_outnumbered(self, positive):
        assert_agrees(*sample(2000, 3, positive=positive))

    @pytest.mark.parametrize("l2", [1.0, 0.0])
    def test_constant_feature_has_no_coefficient(self, l2):
        features, targets = sample(150, 3, separation=0.5)
        features[:, 1] = 0.1
        found = solve_logistic(features, targets, l2=l2)
        assert abs(found[1]) < 1e-9
        np.testing.assert_allclose(found[[0, 2, 3]], reference(features[:, [0, 2]], targets, l2=l2), rtol=1e-4)

    def test_repeated_feature_shares_its_coefficient(self):
        features, targets = sample(100, 2)
        features = torch.cat([features, features[:, :1]], dim=1)
        assert_agrees(features, targets)

    def test_without_features_there_are_the_log_odds(self):
        found = solve_logistic(torch.zeros(10, 0), (torch.arange(10) < 3).float())
        torch.testing.assert_close(found, torch.tensor([math.log(3 / 7)]))

    @settings(max_examples=40)
    @given(
        n=st.integers(5, 80),
        s=st.integers(1, 8),
        seed=st.integers(0, 2**16),
        separation=st.floats(0, 10),
        positive=st.floats(0.1, 0.9),
        l2=st.floats(1e-2, 1e2),
    )
    def test_random_problems(self, n, s, seed, separation, positive, l2):
        features, targets = sample(n, s, seed, separation, positive)
        assume(0 < targets.sum() < n)
        weights = torch.from_numpy(np.random.default_rng(seed).uniform(0.1, 3, size=n))
        assert_agrees(features, targets, weights, l2)


class TestStationarity:
    """Where scikit-learn itself does not converge, the gradient in the features' own units decides."""

    @pytest.mark.parametrize("l2", [1.0, 1e-4])
    @pytest.mark.parametrize("scales", [(1e-4, 1.0, 1e4), (1e6, 1e-6, 1.0), (1e-3, 1e-3, 1e-3)])
    @pytest.mark.parametrize("shift", [0.0, 1e3])
    def test_badly_scaled_features(self, scales, shift, l2):
        features, targets = sample(200, 3)
        features = (features + shift) * torch.tensor(scales).double()
        found = solve_logistic(features, targets, l2=l2)
        gradient = slope(found, features, targets, None, l2)
        # In units of a feature's spread, as an error of a coefficient shows in the logits.
        assert (gradient[:-1] / features.std(0)).abs().max() < 1e-5 and gradient[-1].abs() < 1e-5

    @pytest.mark.parametrize("l2", [1e-3, 1e-6, 1e-9])
    @pytest.mark.parametrize("separation", [5.0, 1e3])
    def test_separable(self, separation, l2):
        features, targets = sample(100, 3, separation=separation)
        gradient = slope(solve_logistic(features, targets, l2=l2), features, targets, None, l2)
        assert gradient.abs().max() < 1e-6 * max(1, separation)

    def test_far_outlier(self):
        features, targets = sample(200, 2)
        features[0] = 1e5
        gradient = slope(solve_logistic(features, targets), features, targets, None, 1.0)
        assert (gradient[:-1] / features.std(0)).abs().max() < 1e-6


class TestContract:
    def test_input_dtype_comes_back_and_float64_computes(self):
        features, targets = sample(200, 3)
        exact = solve_logistic(features.float().double(), targets)
        single = solve_logistic(features.float(), targets.float())
        assert single.dtype == torch.float32 and exact.dtype == torch.float64
        assert torch.equal(single, exact.float())

    def test_unbounded_problems_stay_finite(self):
        features, targets = sample(30, 2, separation=50.0)
        assert solve_logistic(features, targets, l2=0.0).isfinite().all()
        assert solve_logistic(features, torch.ones(30)).isfinite().all()
        assert solve_logistic(features, torch.zeros(30), l2=0.0).isfinite().all()

    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_non_finite_features_are_not_hidden(self, value):
        features, targets = sample(30, 2)
        features[3, 0] = value
        assert solve_logistic(features, targets).isnan().any()

    def test_carries_no_gradient(self):
        features, targets = sample(30, 2)
        assert not solve_logistic(features.requires_grad_(), targets).requires_grad

    def test_never_asks_the_device_for_a_value(self):
        """Reads of one number, and results whose size depends on values, are what makes a host wait."""

        class Refuse(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                name = func.overloadpacket.__name__
                assert name not in {"_local_scalar_dense", "nonzero", "masked_select", "equal", "is_nonzero"}, name
                return func(*args, **(kwargs or {}))

        features, targets = sample(30, 3)
        with Refuse():
            solve_logistic(features, targets, weights=torch.ones(30))
