"""Whole-batch augmentation against a slow reference that treats one image at a time."""

import pytest
import torch
from torch.nn import functional as F

from data.augmentation import Augmentation
from data.pixels import Normaliser, channels_last_storage

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def random_images(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count * height + width)
    pixels = torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator)
    return pixels.permute(0, 3, 1, 2)


def normalise(images: torch.Tensor, mean=MEAN, std=STD) -> torch.Tensor:
    return Normaliser(mean, std, tuple(images.shape[2:]))(channels_last_storage(images))


def augment(augmentation, images, mean=MEAN, std=STD, seed=0):
    """All of these images under the plan of a seed."""
    plan = augmentation.draw(len(images), tuple(images.shape[2:]), torch.Generator().manual_seed(seed))
    normaliser = Normaliser(mean, std, tuple(images.shape[2:]))
    return augmentation.apply(channels_last_storage(images), torch.arange(len(images)), plan, normaliser)


def reference(images, mean, std, augmentation, plan):
    """Pad, slice, flip, normalise, and blank a square: one image after the other."""
    p, height, width = augmentation.padding, *images.shape[2:]
    outputs = []
    for image, (top, left, flip, row, column) in zip(images.float(), plan.tolist(), strict=True):
        padded = F.pad(image[None], (p, p, p, p), mode="reflect")[0]
        crop = padded[:, top : top + height, left : left + width]
        if flip:
            crop = crop.flip(-1)
        crop = normalise(crop[None].to(torch.uint8), mean, std)[0].clone()
        half = augmentation.cutout // 2
        bottom, right = row - half + augmentation.cutout, column - half + augmentation.cutout
        crop[:, max(row - half, 0) : max(bottom, 0), max(column - half, 0) : max(right, 0)] = 0
        outputs.append(crop)
    return torch.stack(outputs)


@pytest.mark.parametrize("padding, flip, cutout", [
    (0, False, 0), (4, False, 0), (0, True, 0), (4, True, 0), (7, True, 3), (2, True, 8), (1, False, 1), (4, True, 40),
])  # fmt: skip
@pytest.mark.parametrize("height, width, channels", [(8, 8, 1), (10, 8, 3)])
def test_batch_equals_reference(padding, flip, cutout, height, width, channels):
    images = random_images(40, channels, height, width)
    augmentation = Augmentation(padding, flip, cutout)
    mean, std = MEAN[:channels], STD[:channels]
    plan = augmentation.draw(40, (height, width), torch.Generator().manual_seed(1))
    augmented = augment(augmentation, images, mean, std, seed=1)
    assert torch.equal(augmented, reference(images, mean, std, augmentation, plan))
    assert augmented.is_contiguous(memory_format=torch.channels_last)


def test_draws_cover_their_ranges_evenly():
    plan = Augmentation(padding=4, flip=True, cutout=3).draw(9000, (32, 32), torch.Generator().manual_seed(0))
    top, left, flip, row, column = plan.unbind(1)
    for draws, size in ((top, 9), (left, 9), (row, 32), (column, 32)):
        counts = torch.bincount(draws, minlength=size).double()
        assert len(counts) == size
        # Chi-square with 8 and 31 degrees of freedom exceeds 26 and 61 once in a thousand seeds.
        assert ((counts - 9000 / size) ** 2 / (9000 / size)).sum() < (26 if size == 9 else 61)
    assert set(flip.tolist()) == {0, 1} and abs(flip.double().mean() - 0.5) < 0.02
    assert not torch.equal(top, left)


def test_golden_draws():
    plan = Augmentation(padding=4, cutout=4).draw(3, (32, 32), torch.Generator().manual_seed(7))
    assert plan.tolist() == [[0, 2, 1, 25, 8], [4, 4, 1, 14, 25], [7, 6, 0, 23, 14]]


@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation_matches_its_formula(channels):
    images = random_images(6, channels, 5, 7)
    mean, std = torch.tensor(MEAN[:channels]).view(-1, 1, 1), torch.tensor(STD[:channels]).view(-1, 1, 1)
    expected = (images.double() / 255 - mean) / std
    normalised = normalise(images, MEAN[:channels], STD[:channels])
    torch.testing.assert_close(normalised.double(), expected, rtol=1e-5, atol=1e-5)
    assert normalised.dtype == torch.float32 and normalised.is_contiguous(memory_format=torch.channels_last)


def test_storage_is_no_copy_where_memory_is_channels_last():
    images = random_images(3, 3, 4, 4)
    assert channels_last_storage(images).data_ptr() == images.data_ptr()
    assert torch.equal(channels_last_storage(images.contiguous()), channels_last_storage(images))
