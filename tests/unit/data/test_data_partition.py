"""Class-matched pairs, shares and copies against counting."""

from collections import Counter

import numpy as np
import pytest
import torch
from helpers.toy_splits import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from data.partition import copy_groups, match_by_class, stratified_share
from helper_functions.errors import UserError

classes = st.integers(0, 3)


@st.composite
def two_sets(draw):
    """Labels of 60 images, and two disjoint index sets, the second with all classes of the first."""
    labels = torch.tensor(draw(st.lists(classes, min_size=60, max_size=60)))
    cut, order = draw(st.integers(1, 59)), draw(st.permutations(range(60)))
    second = torch.tensor(sorted(order[cut:]))
    known = set(labels[second].tolist())
    first = torch.tensor([i for i in sorted(order[:cut]) if int(labels[i]) in known], dtype=torch.int64)
    return labels, first, second


@settings(deadline=None, max_examples=80)
@given(sets=two_sets(), seed=st.integers(0, 5))
def test_pairs_match_classes_and_use_partners_evenly(sets, seed):
    labels, first, second = sets
    pairs = match_by_class(labels, first, second, seed)
    assert pairs.dtype == torch.int64 and torch.equal(pairs[:, 0], first)
    assert torch.equal(labels[pairs[:, 0]], labels[pairs[:, 1]])
    used = Counter(pairs[:, 1].tolist())
    assert set(used) <= set(second.tolist())
    for label in labels[first].unique():
        counts = [used[i] for i in second[labels[second] == label].tolist()]
        assert max(counts) - min(counts) <= 1
    assert torch.equal(pairs, match_by_class(labels, first, second, seed))


def test_pairs_depend_on_the_seed_and_not_on_other_classes():
    labels = torch.arange(200) % 4
    first, second = torch.arange(100), torch.arange(100, 200)
    pairs = match_by_class(labels, first, second, 0)
    assert not torch.equal(pairs, match_by_class(labels, first, second, 1))
    ones = first[labels[first] == 1]
    assert torch.equal(pairs[ones], match_by_class(labels, ones, second, 0))


def test_a_class_without_partner_is_named():
    with pytest.raises(UserError, match="class 2 has 2 images to pair and no partner"):
        match_by_class(torch.tensor([0, 2, 2, 0]), torch.tensor([0, 1, 2]), torch.tensor([3]), 0)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 50), fraction=st.floats(0.05, 0.5))
def test_shares_without_copies_are_stratified_to_rounding(seed, fraction):
    labels = np.random.RandomState(seed).randint(0, 5, 300)
    candidates = np.arange(20, 290)
    drawn = stratified_share(labels, np.arange(300), candidates, fraction, np.random.RandomState(seed))
    assert set(drawn) <= set(candidates) and len(drawn) == round(fraction * len(candidates))
    exact = np.bincount(labels[candidates]) * fraction
    assert (abs(np.bincount(labels[drawn], minlength=5) - exact) < 1).all()


def test_a_share_leaves_every_class_an_image():
    labels = np.array([0, 1, 1, 1])
    for seed in range(10):
        drawn = stratified_share(labels, np.arange(4), np.arange(4), 0.9, np.random.RandomState(seed))
        assert 0 not in drawn and len(drawn) == 2


def test_copies_are_recognised_bit_by_bit():
    dataset = toy(train=12, test=0, copies=4)
    assert copy_groups(dataset.images).tolist() == [0, 0, 2, 2, 4, 5, 6, 7, 8, 9, 2, 0]
