"""The classes that lost most, against counting by hand."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import binomtest

from data.views import fixed_sample
from evaluation.judge import Judgement
from evaluation.report.classes import MOST, class_falls

CLASSES = tuple(f"class {number}" for number in range(15))


def judgement(retain: torch.Tensor, held_out: torch.Tensor) -> Judgement:
    return Judgement({}, {}, {}, retain, held_out, torch.zeros(0, dtype=torch.bool))


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 1000), sampled=st.sampled_from([None, 60]))
def test_as_counted_by_hand(seed, sampled):
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, len(CLASSES), (200,), generator=generator)
    retain, validation, unseen = torch.randperm(200, generator=generator).split([120, 50, 30])
    retain = retain[labels[retain] != 3].sort().values  # a class that does not stay
    splits = SimpleNamespace(labels=labels, retain=retain, validation=validation, unseen=unseen)
    sets = SimpleNamespace(splits=splits, strata=labels)
    experiment = SimpleNamespace(splits=splits, sets=sets, dataset=SimpleNamespace(classes=CLASSES))
    held_out = torch.cat([unseen, validation])
    held_out = held_out[torch.isin(labels[held_out], labels[retain])]
    images = {"retain": fixed_sample(retain, sampled), "held_out": held_out}
    right = {
        name: {part: torch.rand(len(at), generator=generator) < share for part, at in images.items()}
        for name, share in {"original": 0.9, "unlearned": 0.7}.items()
    }
    models = {name: judgement(parts["retain"], parts["held_out"]) for name, parts in right.items()}
    for part, found in class_falls(models, experiment, sampled).items():
        expected = {}
        for number, name in enumerate(CLASSES):
            own = labels[images[part]] == number
            counts = [right[model][part][own].sum().item() for model in ("original", "unlearned")]
            if counts[0] > counts[1]:
                expected[name] = (own.sum().item(), *counts)
        falls = [entry["fall"] for entry in found]
        assert falls == sorted(falls, reverse=True) and len(found) == min(len(expected), MOST)
        for entry in found:
            count, before, after = expected.pop(entry["class"])
            low, high = binomtest(after, count).proportion_ci()
            numbers = [count, 100 * before / count, 100 * after / count, 100 * low, 100 * high]
            assert [entry[key] for key in ("images", "before", "after", "low", "high")] == pytest.approx(numbers)
            assert entry["fall"] == pytest.approx(entry["before"] - entry["after"])
        rest = [100 * (before - after) / count for count, before, after in expected.values()]
        assert not rest or max(rest) <= falls[-1] + 1e-9
