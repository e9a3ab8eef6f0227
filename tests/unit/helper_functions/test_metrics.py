"""Accuracies against scikit-learn and brute force, the gradient norm against torch's own."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import top_k_accuracy_score
from torch import nn

from helper_functions import _grad_norm, calculate_accuracy, calculate_binary_accuracy
from helper_functions.metrics import target_ranks
from models import get_model


@st.composite
def scores(draw, elements):
    """Logits [N, K] and targets [N]."""
    size, classes = draw(st.integers(1, 12)), draw(st.integers(2, 7))
    logits = draw(hnp.arrays(np.float32, (size, classes), elements=elements))
    targets = draw(hnp.arrays(np.int64, size, elements=st.integers(0, classes - 1)))
    return logits, targets


class TestCalculateAccuracy:
    @settings(max_examples=50)
    @given(st.integers(1, 12), st.integers(3, 7), st.integers(0, 2**31 - 1), st.integers(1, 9))
    def test_is_scikit_learns_where_nothing_is_tied(self, size, classes, seed, k):
        generator = np.random.default_rng(seed)
        logits = np.stack([generator.permutation(classes) for _ in range(size)]).astype(np.float32)
        targets = generator.integers(0, classes, size)
        with warnings.catch_warnings():
            # k that takes in all classes is no useful score, it says.
            warnings.simplefilter("ignore")
            expected = top_k_accuracy_score(targets, logits, k=k, labels=range(classes)) * 100
        (found,) = calculate_accuracy(torch.from_numpy(logits), torch.from_numpy(targets), (k,))
        assert found.ndim == 0 and found.item() == pytest.approx(expected, abs=1e-4)

    @settings(max_examples=60)
    @given(scores(st.sampled_from([-np.inf, -1.0, 0.0, 1.0, np.inf])), st.lists(st.integers(1, 9), min_size=1))
    def test_ties_go_to_the_lower_class(self, drawn, topk):
        """A stable sort by falling logit, row by row."""
        logits, targets = drawn
        order = [sorted(range(len(row)), key=lambda k, row=row: (-row[k], k)) for row in logits]
        found = calculate_accuracy(torch.from_numpy(logits), torch.from_numpy(targets), tuple(topk))
        for k, value in zip(topk, found, strict=True):
            right = np.mean([target in row[:k] for row, target in zip(order, targets, strict=True)])
            assert value.item() == pytest.approx(100 * right, abs=1e-4)

    @settings(max_examples=40)
    @given(scores(st.sampled_from([0.0, 1.0, 2.0])))
    def test_top1_is_argmax(self, drawn):
        logits, targets = map(torch.from_numpy, drawn)
        (found,) = calculate_accuracy(logits, targets)
        assert found.item() == pytest.approx(100 * (logits.argmax(1) == targets).float().mean().item())

    def test_a_constant_output_is_right_for_one_class_in_k(self):
        (top1,) = calculate_accuracy(torch.zeros(10, 10), torch.arange(10))
        assert top1.item() == pytest.approx(10)

    def test_more_than_all_classes_is_all_of_them(self):
        for value in calculate_accuracy(torch.randn(4, 3), torch.tensor([0, 1, 2, 0]), (3, 5, 100)):
            assert value == 100

    @settings(max_examples=40)
    @given(scores(st.floats(-5, 5, width=32)), st.data())
    def test_a_row_with_a_nan_is_wrong_whatever_k(self, drawn, data):
        logits, targets = drawn
        broken = data.draw(hnp.arrays(bool, len(targets)))
        column = data.draw(st.integers(0, logits.shape[1] - 1))
        logits[broken, column] = np.nan
        for value in calculate_accuracy(torch.from_numpy(logits), torch.from_numpy(targets), (logits.shape[1], 50)):
            assert value.item() == pytest.approx(100 * np.mean(~broken), abs=1e-4)
        ranks = target_ranks(torch.from_numpy(logits), torch.from_numpy(targets))
        assert (ranks[torch.from_numpy(broken)] == logits.shape[1]).all()


class TestCalculateBinaryAccuracy:
    @settings(max_examples=40)
    @given(st.lists(st.tuples(st.floats(-3, 3, width=32), st.integers(0, 1)), min_size=1, max_size=20), st.booleans())
    def test_counts_signs(self, pairs, column):
        logits, targets = (torch.tensor(values) for values in zip(*pairs, strict=True))
        expected = 100 * np.mean([(logit > 0) == (target == 1) for logit, target in pairs])
        if column:
            logits = logits[:, None]
        assert calculate_binary_accuracy(logits, targets).item() == pytest.approx(expected, abs=1e-4)
        assert calculate_binary_accuracy(logits, targets.float()[:, None]).item() == pytest.approx(expected, abs=1e-4)

    def test_zero_says_class_0_and_nan_too(self):
        logits = torch.tensor([0.0, 0.0, float("nan"), float("nan")])
        assert calculate_binary_accuracy(logits, torch.tensor([0, 1, 0, 1])) == 50


class TestGradNorm:
    def test_is_what_clipping_measures(self):
        torch.manual_seed(0)
        model = get_model("resnet8", 3, in_channels=1, width=4)
        model(torch.randn(4, 1, 8, 8)).square().sum().backward()
        expected = torch.nn.utils.clip_grad_norm_(model.parameters(), float("inf"))
        plain = sum(p.grad.double().square().sum() for p in model.parameters()).sqrt()
        assert _grad_norm(model).item() == pytest.approx(expected.item(), rel=1e-6)
        assert _grad_norm(model).item() == pytest.approx(plain.item(), rel=1e-5)
        assert _grad_norm(model).ndim == 0

    def test_parameters_without_a_gradient_do_not_count(self):
        model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
        assert _grad_norm(model) == 0
        model[0].weight.grad = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
        assert _grad_norm(model).item() == pytest.approx(5)

    def test_a_nan_shows(self):
        model = nn.Linear(2, 2)
        model.weight.grad = torch.full((2, 2), float("nan"))
        assert _grad_norm(model).isnan()
