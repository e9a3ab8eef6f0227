"""Loaders over the parts of a data set: labels, order, and one copy of the images."""

import pytest
import torch

from data.augmentation import Augmentation
from data.datasets import Dataset
from data.image_sets import ImageSets, fits
from data.pictures.fetched import Pictures
from data.splits import make_splits

SIZE = 240
AUGMENTATION = Augmentation(padding=2, flip=True)


def dataset() -> Dataset:
    """Image i is filled with i."""
    images = torch.arange(SIZE, dtype=torch.uint8).view(-1, 1, 1, 1).expand(SIZE, 1, 4, 4)
    return Dataset("toy", images.contiguous(), torch.arange(SIZE) % 3, ("a", "b", "c"), SIZE, (0.5,), (0.25,))


def image_sets(forget="mislabelled:0.2", augmentation=None, seed=0, on_device="auto") -> ImageSets:
    images = dataset()
    return ImageSets(images, make_splits(images, forget), augmentation, torch.device("cpu"), seed, on_device)


def numbers(inputs) -> list[int]:
    return ((inputs.mean((1, 2, 3)) * 0.25 + 0.5) * 255).round().long().tolist()


def passed(loader) -> list[int]:
    return [number for inputs, _ in loader for number in numbers(inputs)]


class TestTraining:
    def test_each_image_once_a_pass_with_its_given_label(self):
        sets = image_sets()
        loader = sets.training(sets.splits.train, 16)
        for _ in range(2):
            seen = []
            for inputs, labels in loader:
                found = numbers(inputs)
                assert torch.equal(labels, sets.splits.labels[found])
                seen += found
            assert sorted(seen) == sets.splits.train.tolist() and seen != sorted(seen)
        wrong = sets.splits.labels[sets.splits.forget] != sets.dataset.labels[sets.splits.forget]
        assert wrong.all(), "the labels that were given are the corrupted ones"

    def test_order_comes_from_seed_and_stream(self):
        indices = image_sets().splits.train
        orders = {
            (seed, stream): tuple(passed(image_sets(seed=seed).training(indices, 16, stream=stream)))
            for seed in (0, 1) for stream in (0, 1)
        }  # fmt: skip
        assert len(set(orders.values())) == 4
        assert orders[0, 1] == tuple(passed(image_sets(seed=0).training(indices, 16, stream=1)))

    @pytest.mark.parametrize("augment", [True, False])
    def test_augments_where_asked_to(self, augment):
        sets = image_sets(augmentation=AUGMENTATION)
        assert (sets.training(sets.splits.train, 8, augment=augment).augmentation is AUGMENTATION) == augment
        assert image_sets().training(sets.splits.train, 8, augment=augment).augmentation is None

    def test_a_batch_is_no_larger_than_the_part(self):
        sets = image_sets()
        loader = sets.training(sets.splits.forget[:5], 128)
        assert len(loader) == 1 and loader.batch_size == 5


class TestEvaluation:
    def test_in_order_not_augmented_with_the_given_labels(self):
        sets = image_sets(augmentation=AUGMENTATION)
        for part in ("forget", "test", "unseen"):
            indices = getattr(sets.splits, part)
            loader = sets.evaluation(indices)
            labels = torch.cat([labels for _, labels in loader])
            assert passed(loader) == passed(loader) == indices.tolist()
            assert torch.equal(labels, sets.splits.labels[indices])

    def test_all_loaders_share_one_copy_of_the_images(self):
        sets = image_sets()
        loaders = [sets.training(sets.splits.train, 8), sets.training(sets.splits.forget, 8, stream=2)]
        loaders += [sets.evaluation(sets.splits.test), sets.evaluation(sets.splits.retain)]
        assert len({loader.images.data_ptr() for loader in loaders}) == 1


class TestPlace:
    def test_auto_keeps_on_a_gpu_what_takes_at_most_half_of_its_free_memory(self, monkeypatch):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1000, 4000))
        assert [fits(size, torch.device("cuda")) for size in (500, 501)] == [True, False]
        assert fits(10**15, torch.device("cpu"))

    @pytest.mark.parametrize(("on_device", "streamed"), [("auto", False), ("yes", False), ("no", True)])
    def test_every_loader_takes_the_images_from_there(self, on_device, streamed):
        sets = image_sets(on_device=on_device)
        loaders = (sets.training(sets.splits.train, 16), sets.evaluation(sets.splits.validation))
        assert [isinstance(loader.images, Pictures) for loader in loaders] == [streamed, streamed]
        assert passed(loaders[1]) == sets.splits.validation.tolist()
