"""Corrupted labels are never the true ones, and are drawn as stated."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from data.confusion import CONFUSIONS, corrupt_labels
from helper_functions.errors import UserError


@settings(deadline=None, max_examples=60)
@given(
    num_classes=st.integers(2, 12), count=st.integers(0, 40), kind=st.sampled_from(sorted(CONFUSIONS)), data=st.data()
)
def test_exactly_the_named_labels_become_wrong(num_classes, count, kind, data):
    labels = torch.tensor(data.draw(st.lists(st.integers(0, num_classes - 1), min_size=40, max_size=40)))
    before = labels.clone()
    chosen = np.sort(np.random.RandomState(0).permutation(40)[:count])
    corrupted = corrupt_labels(labels, chosen, num_classes, kind, np.random.RandomState(1))
    assert torch.equal(torch.nonzero(corrupted != labels).flatten(), torch.from_numpy(chosen))
    assert int(corrupted.min()) >= 0 and int(corrupted.max()) < num_classes
    assert torch.equal(labels, before) and corrupted.dtype == torch.int64
    if kind == "pairwise":
        assert torch.equal(corrupted[chosen], (labels[chosen] + 1) % num_classes)


def test_uniform_confusion_is_uniform_over_the_other_classes():
    labels = torch.arange(5).repeat(4000)
    corrupted = corrupt_labels(labels, np.arange(20_000), 5, "uniform", np.random.RandomState(0))
    for label in range(5):
        counts = torch.bincount(corrupted[labels == label], minlength=5).tolist()
        assert counts.pop(label) == 0
        assert chisquare(counts).pvalue > 0.001


def test_the_same_stream_gives_the_same_labels():
    labels, chosen = torch.arange(10), np.arange(10)
    first, second = (corrupt_labels(labels, chosen, 10, "uniform", np.random.RandomState(7)) for _ in range(2))
    assert torch.equal(first, second)
    # Golden values: the labels of a run must be the same on every platform, next year too.
    assert first.tolist() == [5, 8, 6, 7, 2, 3, 4, 6, 7, 7]


def test_unknown_confusion_and_a_single_class_are_refused():
    with pytest.raises(UserError, match="'sideways'; choose from uniform, pairwise"):
        corrupt_labels(torch.zeros(3, dtype=torch.int64), np.arange(1), 3, "sideways", np.random.RandomState(0))
    with pytest.raises(UserError, match="1 class cannot be corrupted"):
        corrupt_labels(torch.zeros(3, dtype=torch.int64), np.arange(1), 1, "uniform", np.random.RandomState(0))
