"""Discriminators: statistics against SciPy, logits of the right sign, shape and slope, and the registry."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy
from sklearn.linear_model import LogisticRegression
from torch.nn import functional as F

from contrastive_discrimination.discriminators import (
    DISCRIMINATORS,
    DifferenceComparator,
    JensenShannon,
    ScalarProduct,
    StatisticsRegression,
    jensen_shannon_divergence,
    pair_statistics,
)

outputs = st.lists(st.floats(-30, 30), min_size=5, max_size=5)
SIZES = [(name, size) for name in DISCRIMINATORS for size in (1, 2, 10) if (name, size) != ("jensen_shannon", 1)]


def randn(*shape, seed=0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def fitted(name, size, dtype=torch.float32) -> torch.nn.Module:
    """A discriminator in eval mode whose parameters and statistics are those of no initialisation."""
    torch.manual_seed(0)
    discriminator = DISCRIMINATORS[name](size).to(dtype)
    first = 2 * randn(200, size, seed=1, dtype=dtype)
    second = torch.cat([first[:100] + 0.5 * randn(100, size, seed=2, dtype=dtype), randn(100, size, dtype=dtype)])
    if name == "logistic":
        discriminator.fit(first, second, (torch.arange(200) < 100).to(dtype))
        return discriminator.eval()
    with torch.no_grad():
        discriminator(first, second)
        for index, parameter in enumerate(discriminator.parameters()):
            parameter += 0.2 * randn(*parameter.shape, seed=index, dtype=dtype)
    return discriminator.eval()


class TestJensenShannonDivergence:
    @settings(max_examples=80)
    @given(outputs, outputs)
    def test_against_scipy(self, first, second):
        exact = jensenshannon(softmax(first), softmax(second)) ** 2
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 2e-6)):
            rows = torch.tensor([first], dtype=dtype), torch.tensor([second], dtype=dtype)
            # SciPy takes the root of a difference, which near 0 is rounding.
            assert jensen_shannon_divergence(*rows).item() == pytest.approx(np.nan_to_num(exact), abs=tolerance)

    def test_range_and_symmetry(self):
        first, second = 50 * randn(100, 7, seed=1), 50 * randn(100, 7, seed=2)
        found = jensen_shannon_divergence(first, second)
        assert found.min() >= 0 and found.max() <= math.log(2) + 1e-6
        torch.testing.assert_close(found, jensen_shannon_divergence(second, first))
        assert jensen_shannon_divergence(first, first + 3).abs().max() < 1e-6

    @pytest.mark.parametrize("low", [-1e4, -math.inf])
    def test_certain_outputs_are_log_2_apart_with_finite_gradients(self, low):
        first = torch.tensor([[0.0, low]], requires_grad=True)
        second = torch.tensor([[low, 0.0]], requires_grad=True)
        divergence = jensen_shannon_divergence(first, second)
        divergence.sum().backward()
        assert divergence.item() == pytest.approx(math.log(2))
        assert first.grad.isfinite().all() and second.grad.isfinite().all()


class TestPairStatistics:
    @settings(max_examples=40)
    @given(outputs, outputs)
    def test_against_scipy(self, first, second):
        a, b = np.array(first), np.array(second)
        p, q = softmax(a), softmax(b)
        expected = [
            entropy(p), entropy(q), np.log(p.max()), np.log(q.max()), np.nan_to_num(jensenshannon(p, q)) ** 2,
            np.mean((a - b) ** 2), np.mean(a * b), a[0], b[0],
        ]  # fmt: skip
        rows = torch.tensor([first, second], dtype=torch.float64), torch.tensor([second, first], dtype=torch.float64)
        found = pair_statistics(*rows)
        np.testing.assert_allclose(found[0], expected, atol=1e-10)
        swapped = [1, 0, 3, 2, 4, 5, 6, 8, 7]
        torch.testing.assert_close(found[1], found[0, swapped])

    def test_one_output_leaves_what_varies(self):
        first, second = randn(50, 1, seed=1), randn(50, 1, seed=2)
        found = pair_statistics(first, second)
        expected = torch.cat([(first - second) ** 2, first * second, first, second], dim=1)
        torch.testing.assert_close(found, expected)

    def test_is_finite_for_log_probabilities_that_underflow(self):
        first = torch.tensor([[0.0, -1e4, -300.0], [-1e4, 0.0, -1e4]]).requires_grad_()
        found = pair_statistics(first, first.detach().flip(1))
        (gradient,) = torch.autograd.grad(found.sum(), first)
        assert found.isfinite().all() and gradient.isfinite().all()


class TestEveryDiscriminator:
    @pytest.mark.parametrize(("name", "size"), SIZES)
    def test_gives_one_logit_a_pair(self, name, size):
        discriminator = fitted(name, size)
        for count in (1, 7):
            logits = discriminator(randn(count, size, seed=3), randn(count, size, seed=4))
            assert logits.shape == (count,) and logits.dtype == torch.float32 and logits.isfinite().all()
        fresh = DISCRIMINATORS[name](size)
        assert fresh(randn(2, size), randn(2, size, seed=1)).shape == (2,)

    @pytest.mark.parametrize("name", DISCRIMINATORS)
    def test_gives_logits_and_not_probabilities(self, name):
        first, second = 3 * randn(500, 10, seed=3), 3 * randn(500, 10, seed=4)
        discriminator = fitted(name, 10)
        logits = torch.cat([discriminator(first, second), discriminator(first, first), discriminator(first, -first)])
        assert logits.min() < 0 and logits.max() > 1

    @pytest.mark.parametrize(("name", "size"), SIZES)
    def test_a_pair_is_judged_alone(self, name, size):
        discriminator, first, second = fitted(name, size), randn(9, size, seed=3), randn(9, size, seed=4)
        alone = torch.cat([discriminator(a[None], b[None]) for a, b in zip(first, second, strict=True)])
        torch.testing.assert_close(discriminator(first, second), alone)

    @pytest.mark.parametrize("name", DISCRIMINATORS)
    def test_extreme_outputs_stay_finite(self, name):
        first = torch.tensor([[0.0, -1e3, -1e3], [0.0, 0.0, 0.0], [-1e3, 1e3, 0.0]]).requires_grad_()
        logits = fitted(name, 3)(first, first.detach().flip(0))
        (gradient,) = torch.autograd.grad(logits.sum(), first)
        assert logits.isfinite().all() and gradient.isfinite().all()


class TestClosedForms:
    def test_scalar_product(self):
        module = ScalarProduct(4)
        with torch.no_grad():
            module.log_scale.fill_(math.log(3))
            module.bias.fill_(-0.5)
        first, second = randn(20, 4, seed=1), randn(20, 4, seed=2)
        cosine = (first * second).sum(1) / first.norm(dim=1) / second.norm(dim=1)
        torch.testing.assert_close(module(first, second), 3 * cosine - 0.5)
        torch.testing.assert_close(module(first[:, :1], second[:, :1]), 3 * first[:, 0] * second[:, 0] - 0.5)

    def test_jensen_shannon(self):
        module = JensenShannon(4)
        first, second = randn(20, 4, seed=1), randn(20, 4, seed=2)
        expected = module.bias - module.log_scale.exp() * jensen_shannon_divergence(first, second)
        torch.testing.assert_close(module(first, second), expected)
        # The nearest and the farthest pair are equally far from undecided.
        certain = 100 * torch.eye(4)
        nearest, farthest = module(first, first).mean(), module(certain, certain.roll(1, 0)).mean()
        assert nearest.item() == pytest.approx(-farthest.item(), rel=1e-5) and nearest > 0

    def test_difference_ignores_each_outputs_location_and_scale(self):
        module = DifferenceComparator(5)
        torch.nn.init.normal_(module.linear.weight, generator=torch.Generator().manual_seed(0))
        first, second = randn(20, 5, seed=1), randn(20, 5, seed=2)
        normed = [F.layer_norm(x, (5,)) for x in (first, second)]
        expected = (normed[0] - normed[1]).square() @ module.linear.weight[0]
        torch.testing.assert_close(module(first, second), expected)
        torch.testing.assert_close(module(3 * first + 1, 2 * second - 4), expected, atol=1e-3, rtol=1e-3)

    def test_temperature_divides(self):
        module = DifferenceComparator(1)
        with torch.no_grad():
            module.linear.weight.fill_(-1)
            module.log_temperature.fill_(math.log(4))
        found = module(torch.tensor([[3.0]]), torch.tensor([[1.0]]))
        assert found.item() == pytest.approx(-1.0)

    def test_comparator_is_symmetric(self):
        module = fitted("comparator", 5)
        first, second = randn(20, 5, seed=1), randn(20, 5, seed=2)
        torch.testing.assert_close(module(first, second), module(second, first))


class TestStatisticsRegression:
    def test_against_scikit_learn(self):
        first, second = randn(300, 5, seed=1), randn(300, 5, seed=2)
        second[:60] = first[:60] + second[:60]
        targets = (torch.arange(300) < 60).float()
        module = StatisticsRegression(5)
        assert (module(first, second) == 0).all()
        module.fit(first, second, targets)
        statistics = pair_statistics(first.double(), second.double()).numpy()
        statistics = (statistics - statistics.mean(0)) / statistics.std(0)
        weights = np.where(targets > 0, 300 / 120, 300 / 480)
        solver = LogisticRegression(C=1.0, tol=1e-10, max_iter=10_000).fit(statistics, targets, weights)
        np.testing.assert_allclose(module(first, second), solver.decision_function(statistics), atol=1e-3)

    def test_has_nothing_for_an_optimizer(self):
        assert list(StatisticsRegression(5).parameters()) == []

    @pytest.mark.parametrize("size", [1, 5])
    def test_constant_statistics_are_no_evidence(self, size):
        first, second = torch.full((50, size), 0.1), randn(50, size, seed=2)
        module = StatisticsRegression(size)
        module.fit(first, second, (torch.arange(50) < 25).float())
        assert module.coefficients.isfinite().all()
        first_columns = [-2] if size == 1 else [0, 2, -2]
        assert module.coefficients[:-1][first_columns].abs().max() < 1e-6
        module.fit(first, first, (torch.arange(50) < 25).float())
        assert module(first, first).abs().max() < 1e-6
