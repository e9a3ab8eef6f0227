"""Evaluation views: the images of a training loader in a fixed order, without augmentation."""

import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from data.augmentation import Augmentation
from data.loaders import TensorLoader
from data.views import EVALUATION_BATCH, evaluation_batch, evaluation_view

IMAGES = torch.arange(100, dtype=torch.uint8).view(-1, 1, 1, 1).expand(100, 1, 6, 6).contiguous()
LABELS = torch.arange(100)


def tensor_loader(size=40) -> TensorLoader:
    """Shuffled, augmented, and over images in no order."""
    indices = torch.randperm(100, generator=torch.Generator().manual_seed(1))[:size]
    augmentation = Augmentation(padding=2, cutout=3)
    return TensorLoader(
        IMAGES, LABELS, indices, 7, mean=(0.5,), std=(0.25,), augmentation=augmentation, shuffle=True
    )


def shown(view) -> list[int]:
    return [label for _, labels in view for label in labels.tolist()]


class TestTensorLoader:
    def test_every_image_in_the_loaders_order_and_as_it_is(self):
        loader = tensor_loader()
        view = evaluation_view(loader)
        assert shown(view) == shown(view) == loader.indices.tolist()
        for inputs, labels in view:
            expected = ((IMAGES[labels].float() / 255) - 0.5) / 0.25
            torch.testing.assert_close(inputs, expected)
        assert loader.epoch == 0, "looking is no pass of the training loader"

    def test_a_sample_is_fixed_by_its_seed_and_without_repetition(self):
        loader = tensor_loader()
        samples = {seed: shown(evaluation_view(loader, 15, seed)) for seed in range(20)}
        for seed, sample in samples.items():
            assert len(set(sample)) == len(sample) == 15 and set(sample) <= set(loader.indices.tolist())
            assert sample == shown(evaluation_view(loader, 15, seed))
        assert len({tuple(sample) for sample in samples.values()}) == 20
        # Each of the 40 images is in 15 of 40 samples, on average.
        counts = torch.bincount(torch.tensor([image for sample in samples.values() for image in sample]), minlength=100)
        assert counts[loader.indices].min() >= 1 and counts.max() <= 15

    @pytest.mark.parametrize("limit", [40, 41, 10_000])
    def test_a_sample_of_all_is_all(self, limit):
        loader = tensor_loader()
        assert shown(evaluation_view(loader, limit, 3)) == loader.indices.tolist()

    def test_no_image_is_copied(self):
        loader = tensor_loader()
        assert evaluation_view(loader, 10).images.data_ptr() == loader.images.data_ptr()


class TestOtherLoaders:
    def loader(self, shuffle, size=40) -> DataLoader:
        generator = torch.Generator().manual_seed(0)
        dataset = TensorDataset(torch.arange(size).float()[:, None], torch.arange(size))
        return DataLoader(dataset, 7, shuffle=shuffle, generator=generator)

    @pytest.mark.parametrize("limit", [None, 1000])
    @pytest.mark.parametrize("shuffle", [False, True])
    def test_every_image_in_one_order(self, shuffle, limit):
        view = evaluation_view(self.loader(shuffle), limit)
        assert sorted(shown(view)) == list(range(40)) and shown(view) == shown(view)

    @pytest.mark.parametrize("shuffle", [False, True])
    def test_a_sample_is_the_same_on_each_pass(self, shuffle):
        view = evaluation_view(self.loader(shuffle), 15)
        first = shown(view)
        assert len(set(first)) == len(first) >= 15 and first == shown(view) == shown(view)
        for inputs, labels in view:
            assert torch.equal(inputs[:, 0].long(), labels)

    def test_any_sized_iterable_will_do(self):
        batches = [(torch.zeros(2, 1), torch.tensor([0, 1])), (torch.zeros(1, 1), torch.tensor([2]))]
        assert shown(evaluation_view(batches)) == [0, 1, 2]
        assert shown(evaluation_view(batches, 2)) == [0, 1]

    def test_a_sample_of_an_ordered_loader_is_spread_over_it(self):
        assert max(shown(evaluation_view(self.loader(False, size=1000), 100))) > 500


@pytest.mark.parametrize(
    ("image_size", "device", "images"),
    [((8, 8), "cpu", 1000), ((32, 32), "cpu", 512), ((64, 64), "cpu", 128), ((1024, 1024), "cpu", 1),
     ((224, 224), "cuda", EVALUATION_BATCH)],
)  # fmt: skip
def test_a_batch_is_as_large_as_the_caches_of_a_cpu_allow(image_size, device, images):
    assert evaluation_batch(image_size, torch.device(device)) == images
