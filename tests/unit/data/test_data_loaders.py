"""TensorLoader: its batches, their order, and that a pass is a function of seed and number."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.augmentation import Augmentation
from data.loaders import TensorLoader
from data.pictures.fetched import Pictures
from data.pixels import Normaliser, channels_last_storage
from data.streams import CyclingLoader

MEAN, STD = (0.5,), (0.25,)
# Image i is filled with the value i, and its label is 2 i, so that a batch tells which images it holds.
IMAGES = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(100, 1, 6, 6).contiguous()
LABELS = 2 * torch.arange(100)
CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


def loader(indices=range(100), batch_size=10, images=IMAGES, **options) -> TensorLoader:
    indices = torch.tensor(list(indices), dtype=torch.int64)
    return TensorLoader(images, LABELS, indices, batch_size, mean=MEAN, std=STD, **options)


def normalised(indices: torch.Tensor) -> torch.Tensor:
    return Normaliser(MEAN, STD, (6, 6))(channels_last_storage(IMAGES[indices]))


def order(batches) -> list[int]:
    return [label // 2 for _, labels in batches for label in labels.tolist()]


@settings(max_examples=60)
@given(
    indices=st.lists(st.integers(0, 99), unique=True, max_size=40),
    batch_size=st.integers(1, 50),
    shuffle=st.booleans(),
)
def test_a_pass_shows_each_image_once_in_batches_of_one_size(indices, batch_size, shuffle):
    batches = loader(indices, batch_size, shuffle=shuffle)
    shown = list(batches)
    sizes = [len(labels) for _, labels in shown]
    assert len(batches) == len(shown) == math.ceil(len(indices) / batch_size) and batches.num_images == len(indices)
    assert max(sizes, default=0) <= batch_size and (not sizes or max(sizes) - min(sizes) <= 1)
    assert sorted(order(shown)) == sorted(indices)
    if not shuffle:
        assert order(shown) == indices


def test_inputs_are_normalised_images_of_the_labels():
    for augmentation in (None, Augmentation(padding=2)):
        for inputs, labels in loader(batch_size=7, shuffle=True, augmentation=augmentation):
            assert torch.equal(inputs, normalised(labels // 2))
            assert inputs.dtype == torch.float32 and labels.dtype == torch.int64
            assert inputs.is_contiguous(memory_format=torch.channels_last)


def test_passes_differ_and_setting_epoch_repeats_them():
    batches = loader(shuffle=True, seed=5)
    passes = [order(batches) for _ in range(3)]
    assert batches.epoch == 3 and len({tuple(p) for p in passes}) == 3
    again = loader(shuffle=True, seed=5)
    again.epoch = 2
    assert order(again) == passes[2]
    assert order(loader(shuffle=True, seed=6)) != passes[0]


def test_epoch_advances_when_a_pass_begins():
    batches = loader()
    first = iter(batches)
    assert batches.epoch == 1
    second = iter(batches)
    assert batches.epoch == 2 and order(first) == order(second)


def test_augmentation_is_a_function_of_seed_and_epoch_and_entry_point():
    ramp = torch.arange(36, dtype=torch.uint8).view(1, 6, 6, 1).expand(100, 6, 6, 1).permute(0, 3, 1, 2)
    options = {"mean": MEAN, "std": STD, "augmentation": Augmentation(padding=3, cutout=2), "shuffle": True}
    first, second = (TensorLoader(ramp, LABELS, torch.arange(100), 9, seed=1, **options) for _ in range(2))
    list(second)
    second.epoch = 0
    for (a, _), (b, _) in zip(first, second, strict=True):
        assert torch.equal(a, b)
    whole, tail = list(first.batches(4)), list(first.batches(4, start=5))
    assert all(torch.equal(a[0], b[0]) for a, b in zip(whole[5:], tail, strict=True))
    assert not torch.equal(whole[0][0], next(first.batches(5))[0])


def test_augmentation_does_not_shift_the_order():
    assert order(loader(shuffle=True)) == order(loader(shuffle=True, augmentation=Augmentation(padding=1)))


def test_a_loader_in_order_shows_chosen_images_as_they_are():
    source = loader(shuffle=True, augmentation=Augmentation(padding=2, cutout=3))
    chosen = torch.tensor([9, 4, 70])
    ((inputs, labels),) = source.in_order(chosen, 10)
    assert torch.equal(inputs, normalised(chosen)) and torch.equal(labels, LABELS[chosen])


def test_golden_order():
    assert order(loader(range(12), shuffle=True, seed=3)) == [9, 6, 2, 10, 0, 8, 1, 5, 7, 11, 4, 3]


def test_images_on_the_device_are_not_copied():
    images = IMAGES.to(memory_format=torch.channels_last)
    storages = [
        TensorLoader(images, LABELS, torch.arange(3), 1, mean=MEAN, std=STD).images.data_ptr() for _ in range(2)
    ]
    assert storages == [images.data_ptr()] * 2


@pytest.mark.parametrize("wrong", [-1, 3])
def test_a_picture_that_is_not_there_is_an_error(wrong):
    with pytest.raises(IndexError):
        Pictures(torch.zeros(3, 2, 2, 1, dtype=torch.uint8)).read(torch.tensor([0, wrong]))


@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=CUDA)])
@pytest.mark.parametrize("augmentation", [None, Augmentation(padding=2, cutout=3)])
@pytest.mark.parametrize("rows", [None, torch.arange(100).flip(0)])
def test_fetched_pictures_make_the_same_batches(device, augmentation, rows):
    options = {"shuffle": True, "seed": 2, "augmentation": augmentation, "device": device}
    storage = channels_last_storage(IMAGES)
    pictures = Pictures(storage if rows is None else storage[rows], rows)
    kept, fetched = loader(**options), loader(**options, images=pictures)
    for (a, x), (b, y) in zip(kept, fetched, strict=True):
        assert a.device == b.device and torch.equal(a, b) and torch.equal(x, y)
    streams = CyclingLoader(kept), CyclingLoader(fetched)
    for _ in range(15):  # beyond the end of a pass
        for one, other in zip(*(stream.take() for stream in streams), strict=True):
            assert torch.equal(one, other)
    assert fetched.in_order(torch.arange(4), 2).images is pictures


@CUDA
def test_a_cuda_loader_shows_the_same_images_in_the_same_order():
    options = {"shuffle": True, "seed": 2}
    for (a, x), (b, y) in zip(loader(**options), loader(device="cuda", **options), strict=True):
        assert b.is_cuda and torch.equal(x, y.cpu())
        torch.testing.assert_close(a, b.cpu())
    augmented = loader(device="cuda", augmentation=Augmentation(padding=2), **options)
    assert order(augmented) == order(loader(**options))
