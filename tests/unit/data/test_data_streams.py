"""Endless and paired streams: evenness, full batches, and exact resuming."""

import json
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader, TensorDataset

from data.augmentation import Augmentation
from data.loaders import TensorLoader
from data.streams import CyclingLoader, PairedLoader
from helper_functions.errors import UserError

IMAGES = torch.arange(60, dtype=torch.uint8).view(-1, 1, 1, 1) + torch.arange(36, dtype=torch.uint8).view(1, 1, 6, 6)
LABELS = torch.arange(60)
sizes, batch_sizes, steps = st.integers(1, 25), st.integers(1, 30), st.integers(0, 20)


def tensor_loader(size: int, batch_size: int, **options) -> TensorLoader:
    options = {"shuffle": True, "seed": 1} | options
    return TensorLoader(IMAGES, LABELS, torch.arange(size), batch_size, mean=(0.5,), std=(0.2,), **options)


def plain_loader(size: int, batch_size: int) -> DataLoader:
    return DataLoader(TensorDataset(torch.arange(size).float(), torch.arange(size)), batch_size)


def paired(forget: int, retain: int, batch_size: int = 4, retain_batch_size: int = 6) -> PairedLoader:
    augmentation = Augmentation(padding=2)
    return PairedLoader(
        tensor_loader(forget, batch_size, augmentation=augmentation),
        CyclingLoader(tensor_loader(retain, retain_batch_size, augmentation=augmentation, seed=2)),
    )


def same(first, second) -> bool:
    return all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


@settings(max_examples=60)
@given(size=sizes, batch_size=batch_sizes, count=st.integers(1, 20))
def test_a_stream_has_full_batches_and_is_even(size, batch_size, count):
    stream = CyclingLoader(tensor_loader(size, batch_size))
    counts = Counter(dict.fromkeys(range(size), 0))
    for _ in range(count):
        labels = stream.take()[1]
        assert len(labels) == batch_size
        counts.update(labels.tolist())
        assert max(counts.values()) - min(counts.values()) <= 1


def test_a_stream_is_the_concatenation_of_passes():
    loader = tensor_loader(10, 4)
    passes = torch.cat([labels for epoch in range(4) for _, labels in loader.batches(epoch)])
    stream = CyclingLoader(loader)
    streamed = torch.cat([stream.take()[1] for _ in range(10)])
    assert torch.equal(passes, streamed)
    assert loader.epoch == 0


@settings(max_examples=40)
@given(size=sizes, batch_size=batch_sizes, before=steps)
def test_a_stream_goes_on_exactly(size, batch_size, before):
    options = {"augmentation": Augmentation(padding=2, cutout=2)}
    stream = CyclingLoader(tensor_loader(size, batch_size, **options))
    for _ in range(before):
        stream.take()
    state = json.loads(json.dumps(stream.state_dict()))
    resumed = CyclingLoader(tensor_loader(size, batch_size, **options))
    resumed.load_state_dict(state)
    assert all(same(stream.take(), resumed.take()) for _ in range(5))


@settings(max_examples=20)
@given(size=sizes, batch_size=batch_sizes, before=steps)
def test_a_foreign_stream_takes_batches_as_they_come_and_goes_on(size, batch_size, before):
    stream = CyclingLoader(plain_loader(size, batch_size))
    expected = [labels for _ in range(before + 6) for _, labels in plain_loader(size, batch_size)]
    assert all(torch.equal(stream.take()[1], expected[i]) for i in range(before))
    resumed = CyclingLoader(plain_loader(size, batch_size))
    resumed.load_state_dict(stream.state_dict())
    for i in range(before, before + 5):
        assert torch.equal(stream.take()[1], expected[i])
        assert torch.equal(resumed.take()[1], expected[i])


def test_empty_streams_are_refused():
    with pytest.raises(UserError, match="no images"):
        CyclingLoader(tensor_loader(0, 4))
    with pytest.raises(UserError, match="no images"):
        CyclingLoader([])


def test_a_loader_that_runs_dry_is_an_error():
    class Once:
        batches = iter([(torch.zeros(1), torch.zeros(1))])

        def __len__(self):
            return 1

        def __iter__(self):
            return self.batches

    stream = CyclingLoader(Once())
    stream.take()
    with pytest.raises(UserError, match="iterated again"):
        stream.take()


@settings(max_examples=40)
@given(forget=sizes, retain=sizes, batch_size=batch_sizes, retain_batch_size=batch_sizes)
def test_an_epoch_visits_forget_once_and_retain_evenly(forget, retain, batch_size, retain_batch_size):
    pairs = paired(forget, retain, batch_size, retain_batch_size)
    retained = Counter(dict.fromkeys(range(retain), 0))
    for _ in range(3):
        visited = []
        batches = list(pairs)
        assert len(batches) == len(pairs) == -(-forget // batch_size)
        for batch in batches:
            visited += batch["forget"][1].tolist()
            retained.update(batch["retain"][1].tolist())
            assert len(batch["retain"][1]) == retain_batch_size
        assert sorted(visited) == list(range(forget))
        assert max(retained.values()) - min(retained.values()) <= 1


@settings(max_examples=40)
@given(forget=sizes, retain=sizes, epochs=st.integers(0, 2), within=st.integers(0, 6))
def test_a_paired_state_resumes_to_the_same_batches(forget, retain, epochs, within):
    pairs = paired(forget, retain)
    for _ in range(epochs):
        list(pairs)
    running = iter(pairs)
    within = min(within, len(pairs))
    for _ in range(within):
        next(running)
    state = json.loads(json.dumps(pairs.state_dict()))
    # Between the last batch and the end of the pass, the epoch counts as done.
    rest = list(running) + list(pairs) if within == len(pairs) else list(running)
    resumed = paired(forget, retain)
    resumed.load_state_dict(state)
    for expected, batch in zip(rest, resumed, strict=True):
        assert same(expected["forget"], batch["forget"]) and same(expected["retain"], batch["retain"])


def test_an_epoch_left_early_is_followed_by_another():
    pairs = paired(20, 20)
    first = next(iter(pairs))["forget"][1]
    whole = [batch["forget"][1] for batch in pairs]
    assert pairs.epoch == 2 and pairs.leader.epoch == 2
    assert torch.cat(whole).sort().values.tolist() == list(range(20)) and not torch.equal(first, whole[0])


def test_passes_are_counted_on_from_the_loader():
    loader = tensor_loader(20, 4)
    expected = [labels for _, labels in loader.batches(1)]
    list(loader)
    pairs = PairedLoader(loader, CyclingLoader(tensor_loader(20, 4)))
    assert all(torch.equal(a, b["forget"][1]) for a, b in zip(expected, pairs, strict=True))


def test_foreign_loaders_pair_and_resume():
    def build():
        return PairedLoader(plain_loader(7, 2), CyclingLoader(plain_loader(3, 2)))

    pairs = build()
    running = iter(pairs)
    next(running)
    resumed = build()
    resumed.load_state_dict(pairs.state_dict())
    for expected, batch in zip(running, resumed, strict=True):
        assert same(expected["forget"], batch["forget"]) and same(expected["retain"], batch["retain"])
