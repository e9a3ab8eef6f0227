"""Shares and copies against counting."""

import numpy as np
from helpers.toy_splits import toy
from hypothesis import given, settings
from hypothesis import strategies as st

from data.partition import copy_groups, stratified_share


@settings(max_examples=30)
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
