"""Whole-batch augmentation against a slow reference that treats one image at a time."""

import pytest
import torch
from torch.nn import functional as F

from data.augmentation import Augmentation, AugmentationPlan
from data.pixels import channels_last_storage, normalise
from helper_functions.errors import UserError

MEAN, STD = (0.5, 0.4, 0.3), (0.2, 0.25, 0.3)


def random_images(count: int, channels: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(count * height + width)
    return torch.randint(0, 256, (count, height, width, channels), dtype=torch.uint8, generator=generator).permute(
        0, 3, 1, 2
    )


def reference(images, mean, std, augmentation, plan):
    """Pad, slice, flip, normalise, and blank a square: one image after the other."""
    p, height, width = augmentation.padding, *images.shape[2:]
    outputs = []
    for i, image in enumerate(images.float()):
        padded = F.pad(image[None], (p, p, p, p), mode="reflect")[0]
        top, left = int(plan.top[i]), int(plan.left[i])
        crop = padded[:, top : top + height, left : left + width]
        if plan.flip[i]:
            crop = crop.flip(-1)
        crop = normalise(crop[None].to(torch.uint8), mean, std)[0].clone()
        row, column, half = int(plan.cutout_row[i]), int(plan.cutout_column[i]), augmentation.cutout // 2
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
    augmented = augmentation(images, mean, std, torch.Generator().manual_seed(1))
    assert torch.equal(augmented, reference(images, mean, std, augmentation, plan))
    assert augmented.is_contiguous(memory_format=torch.channels_last)


def test_draws_cover_their_ranges_evenly():
    plan = Augmentation(padding=4, flip=True, cutout=3).draw(9000, 32, torch.Generator().manual_seed(0))
    for draws, size in ((plan.top, 9), (plan.left, 9), (plan.cutout_row, 32), (plan.cutout_column, 32)):
        counts = torch.bincount(draws, minlength=size).double()
        assert len(counts) == size
        # Chi-square with 8 and 31 degrees of freedom exceeds 26 and 61 once in a thousand seeds.
        assert ((counts - 9000 / size) ** 2 / (9000 / size)).sum() < (26 if size == 9 else 61)
    assert abs(plan.flip.double().mean() - 0.5) < 0.02
    assert not torch.equal(plan.top, plan.left)


def test_draws_are_a_function_of_the_generator():
    first, second, other = (Augmentation(cutout=4).draw(64, 32, torch.Generator().manual_seed(s)) for s in (3, 3, 4))
    assert all(torch.equal(a, b) for a, b in zip(first.tensors(), second.tensors(), strict=True))
    assert not torch.equal(first.top, other.top)


def test_plans_slice_and_concatenate():
    plan = Augmentation().draw(10, 32, torch.Generator().manual_seed(0))
    whole = AugmentationPlan.concatenate([plan[:3], plan[3:3], plan[3:]])
    assert len(plan[2:5]) == 3
    assert all(torch.equal(a, b) for a, b in zip(plan.tensors(), whole.tensors(), strict=True))


def test_no_flip_and_no_padding_is_the_identity():
    images = random_images(5, 3, 8, 8)
    plain = Augmentation(padding=0, flip=False)(images, MEAN, STD, torch.Generator())
    assert torch.equal(plain, normalise(images, MEAN, STD))


def test_cutout_shows_the_mean():
    images = random_images(50, 3, 8, 8)
    blanked = Augmentation(0, False, cutout=4)(images, MEAN, STD, torch.Generator().manual_seed(0))
    changed = (blanked != normalise(images, MEAN, STD)).any(1)
    assert (blanked.permute(0, 2, 3, 1)[changed] == 0).all()
    # A 4 x 4 square cut off at the border leaves at least 2 x 2 pixels.
    assert changed.sum((1, 2)).min() >= 4 and changed.sum((1, 2)).max() == 16


def test_contiguous_images_give_the_same():
    images = random_images(5, 3, 8, 8)
    outputs = [Augmentation()(x, MEAN, STD, torch.Generator().manual_seed(0)) for x in (images, images.contiguous())]
    assert torch.equal(*outputs)


@pytest.mark.parametrize("options", [{"padding": -1}, {"cutout": -2}])
def test_negative_sizes_are_refused(options):
    with pytest.raises(UserError, match="negative"):
        Augmentation(**options)


def test_padding_must_be_below_the_image_size():
    with pytest.raises(UserError, match="padding 8 must be below the image size 8 x 9"):
        Augmentation(padding=8).draw(1, (8, 9), torch.Generator())


@pytest.mark.parametrize("channels", [1, 3])
def test_normalisation_matches_its_formula(channels):
    images = random_images(6, channels, 5, 7)
    mean, std = torch.tensor(MEAN[:channels]).view(-1, 1, 1), torch.tensor(STD[:channels]).view(-1, 1, 1)
    expected = (images.double() / 255 - mean) / std
    normalised = normalise(images, MEAN[:channels], STD[:channels])
    torch.testing.assert_close(normalised.double(), expected, rtol=1e-5, atol=1e-5)
    assert normalised.dtype == torch.float32 and normalised.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("mean, std", [((0.5,), (0.2,)), (MEAN, (0.2, 0.2)), (MEAN, (0.2, 0.2, 0.0))])
def test_normalisation_refuses_what_does_not_fit(mean, std):
    with pytest.raises(UserError):
        normalise(random_images(2, 3, 4, 4), mean, std)


def test_storage_is_no_copy_where_memory_is_channels_last():
    images = random_images(3, 3, 4, 4)
    assert channels_last_storage(images).data_ptr() == images.data_ptr()
    assert torch.equal(channels_last_storage(images.contiguous()), channels_last_storage(images))
