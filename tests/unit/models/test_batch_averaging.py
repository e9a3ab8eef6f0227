"""Batch averaging against a plain loop, finite differences and the statistics that it is for."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from torch.autograd import gradcheck

from models.batch_averaging import BatchAverage

SIZES = [(12, 4), (13, 4), (15, 4), (3, 4), (4, 4), (1, 4), (5, 1), (1, 1), (7, 10**15)]


def normal(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def averaged(values: torch.Tensor, group_size: int) -> torch.Tensor:
    """One group after the other."""
    groups = [values[start : start + group_size] for start in range(0, len(values), group_size)]
    return torch.stack([group.sum(0) / len(group) for group in groups])


class TestBatchAverage:
    @pytest.mark.parametrize(("batch_size", "group_size"), SIZES)
    @pytest.mark.parametrize("shape", [(), (3,), (2, 5)])
    def test_is_the_loop(self, batch_size, group_size, shape):
        values = normal(batch_size, *shape)
        torch.testing.assert_close(BatchAverage(group_size)(values), averaged(values, group_size))

    @pytest.mark.parametrize(("batch_size", "group_size"), SIZES)
    def test_counts(self, batch_size, group_size):
        counts = BatchAverage(group_size).counts(batch_size)
        groups = range(0, batch_size, group_size)
        assert counts.tolist() == [len(range(batch_size)[start : start + group_size]) for start in groups]
        assert counts.dtype == torch.int64

    @settings(max_examples=100)
    @given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**31 - 1))
    def test_weighted_by_counts_the_means_average_to_the_batchs(self, batch_size, group_size, seed):
        values, average = normal(batch_size, 2, seed=seed), BatchAverage(group_size)
        means, counts = average(values), average.counts(batch_size)
        assert len(means) == len(counts) == math.ceil(batch_size / group_size)
        torch.testing.assert_close((counts[:, None] * means).sum(0) / counts.sum(), values.mean(0))

    @pytest.mark.parametrize(("batch_size", "group_size"), SIZES)
    def test_gradients_are_finite_differences(self, batch_size, group_size):
        assert gradcheck(BatchAverage(group_size), normal(batch_size, 2).requires_grad_())

    @pytest.mark.parametrize("bad", [float("inf"), float("nan")])
    def test_what_is_not_finite_stays_in_its_group(self, bad):
        values = torch.ones(5, 1, requires_grad=True)
        with torch.no_grad():
            values[4] = bad
        means = BatchAverage(2)(values)
        assert means.isfinite().flatten().tolist() == [True, True, False]
        means[:2].sum().backward()
        assert values.grad.flatten().tolist() == [0.5, 0.5, 0.5, 0.5, 0]

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
    def test_keeps_the_dtype(self, dtype):
        found = BatchAverage(2)(torch.tensor([1, 0, 1], dtype=dtype))
        assert found.tolist() == [0.5, 1] and found.dtype == dtype

    def test_reads_no_value(self):
        """On the meta device there is none: whatever would wait for the device fails."""
        values = torch.empty(10, 3, device="meta")
        assert BatchAverage(4)(values).shape == (3, 3)
        assert BatchAverage(4).counts(10, device="meta").shape == (3,)


class TestStatistics:
    """The standard deviation falls as sigma / sqrt(g), so the area under the ROC curve of a shift rises."""

    @pytest.mark.parametrize("group_size", [1, 4, 16, 64])
    @pytest.mark.parametrize("distance", [0.1, 0.3])
    def test_area_under_the_roc_curve(self, distance, group_size):
        groups, average = 4000, BatchAverage(group_size)
        generator = np.random.default_rng(1)
        first, second = (torch.from_numpy(generator.normal(m, 1, groups * group_size)) for m in (0, distance))
        scores = torch.cat([average(first), average(second)])
        expected = norm.cdf(math.sqrt(group_size) * distance / math.sqrt(2))
        # The variance of the area is at most area (1 - area) / min(n, m): Birnbaum and Klose 1957.
        tolerance = 4 * math.sqrt(expected * (1 - expected) / groups)
        assert roc_auc_score(np.repeat([0, 1], groups), scores) == pytest.approx(expected, abs=tolerance)
