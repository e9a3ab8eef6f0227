"""Forgotten pictures that are deleted from their folder: saved splits still load and keep every other picture."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.processes import Done, assert_refused, fork, only
from helpers.run_folders import UNLEARN, report_of
from PIL import Image

from data.datasets import Dataset, load_dataset
from data.preprocessing import Preprocessing
from data.split_record import Splits
from data.splits import make_splits
from helper_functions.errors import UserError

KINDS = {"ash": (200, 40, 40), "bay": (40, 180, 40), "cat": (40, 60, 200)}
EACH = 24


@pytest.fixture
def photos(tmp_path) -> Path:
    folder, rng = tmp_path / "photos", np.random.default_rng(0)
    for kind, colour in KINDS.items():
        (folder / kind).mkdir(parents=True)
        for number in range(EACH):
            pixels = np.clip(np.array(colour) + rng.normal(0, 40, (8, 8, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / kind / f"ä {number:02d}.png")
    return folder


def dataset_of(photos: Path) -> Dataset:
    return load_dataset("imagefolder", photos, Preprocessing(8))


def names_of(splits: Splits, dataset: Dataset) -> dict[str, list[str]]:
    parts = {name: part for name, part in splits.tensors.items() if name != "labels"}
    return {name: [dataset.file_names[index] for index in part] for name, part in parts.items()}


@pytest.fixture
def saved(photos, tmp_path) -> tuple[Path, Dataset, Splits]:
    """Splits of a second request, which had two pictures to forget after three."""
    dataset = dataset_of(photos)
    first = make_splits(dataset, "random:3images")
    second = make_splits(dataset, "random:2images", previous=first.following())
    second.save(tmp_path / "splits.npz")
    return tmp_path / "splits.npz", dataset, second


class TestSplits:
    def test_all_others_are_found_again_by_their_names(self, photos, saved):
        path, dataset, splits = saved
        before = names_of(splits, dataset)
        gone = before["forgotten"][:2]
        for name in gone:
            (photos / name).unlink()
        now = dataset_of(photos)
        found = Splits.load(path, now)
        after = names_of(found, now)
        for name, listed in before.items():
            assert after[name] == [file for file in listed if file not in gone], name
        assert torch.equal(found.labels, now.labels)
        assert (found.deleted, found.num_forgotten) == (2, 3)
        assert found.sha256 != splits.sha256

    def test_saved_again_and_forgotten_in_their_turn(self, photos, saved, tmp_path):
        path, dataset, splits = saved
        before = names_of(splits, dataset)
        for name in before["forgotten"] + before["forget"]:
            (photos / name).unlink()
        now = dataset_of(photos)
        third = make_splits(now, "random:4images", previous=Splits.load(path, now, forget_may_lack=True).following())
        assert (third.deleted, third.num_forgotten, len(third.forgotten)) == (5, 5, 0)
        third.save(tmp_path / "third.npz")
        again = Splits.load(tmp_path / "third.npz", now)
        assert again.sha256 == third.sha256 and again.deleted == 5
        assert sorted(names_of(third, now)["train"]) == before["retain"]

    @pytest.mark.parametrize("part", ["forget", "retain", "validation", "unseen", "test"])
    def test_what_is_needed_is_missed_by_its_name(self, part, photos, saved):
        path, dataset, splits = saved
        name = names_of(splits, dataset)[part][0]
        (photos / name).unlink()
        with pytest.raises(UserError, match=f"{name}, which is gone from the folder"):
            Splits.load(path, dataset_of(photos))

    def test_new_pictures_are_named(self, photos, saved):
        path, dataset, splits = saved
        shutil.copy(photos / dataset.file_names[0], photos / "ash" / "new.png")
        with pytest.raises(UserError, match="lack ash/new.png"):
            Splits.load(path, dataset_of(photos))

    def test_a_renamed_one_is_another(self, photos, saved):
        path, dataset, splits = saved
        (photos / dataset.file_names[0]).rename(photos / "ash" / "zz.png")
        with pytest.raises(UserError, match="lack ash/zz.png"):
            Splits.load(path, dataset_of(photos))

    def test_names_belong_to_the_digest(self, saved):
        path, dataset, splits = saved
        with np.load(path) as archive:
            content = dict(archive)
        stored = content["file_names"].tobytes().decode()
        content["file_names"] = np.frombuffer(stored.replace("ash/ä 00", "ash/ä 99").encode(), np.uint8)
        np.savez(path, **content)
        with pytest.raises(UserError, match="SHA-256"):
            Splits.load(path, dataset)

    def test_splits_from_before_there_were_names_fit_the_same_pictures(self, saved, tmp_path):
        path, dataset, splits = saved
        dataclasses.replace(splits, file_names=None).save(tmp_path / "old.npz")
        found = Splits.load(tmp_path / "old.npz", dataset)
        assert found.file_names is None and torch.equal(found.forget, splits.forget)


class TestRequests:
    FLAGS = (
        "--model", "resnet8", "--width", 4, "--image_size", 8, "--figures", "False", "--train_num_epochs", 12,
        "--train_batch_size", 16, "--num_epochs", 1, "--retain_budget", 60, "--mean", ".5", ".5", ".5",
        "--std", ".3", ".3", ".3",
    )  # fmt: skip

    def unlearn(self, *flags: object) -> tuple[Done, Path]:
        *flags, place = flags
        return fork(UNLEARN, *flags, "--log_dir", place), place

    def test_the_second_goes_on_without_the_pictures_of_the_first_and_is_verified(self, photos, tmp_path):
        own = ("--dataset", "imagefolder", "--data_dir", photos, *self.FLAGS, "--forget", "random:4images")
        done, place = self.unlearn(*own, tmp_path / "first")
        first = only(place)
        assert done.status == 0, done
        dataset = dataset_of(photos)
        for name in names_of(Splits.load(first / "splits.npz", dataset), dataset)["forget"]:
            (photos / name).unlink()
        assert_refused(fork("test.py", "--verify", first), "test.py", "is gone from the folder")
        again = ("--previous_run", first, "--forget", "random:3images", "--num_epochs", 1)
        done, place = self.unlearn(*again, tmp_path / "second")
        assert done.status in (0, 3, 4), done
        second = only(place)
        assert done.status == 0 and done.err == "" and "4 images forgotten before" in done.out, done
        assert report_of(second)["sequence"]["forgotten_images"] == 4
        assert json.dumps(report_of(second)).count("forgotten_top1") == 0, "there is no picture left to measure on"
        checked = fork("test.py", "--verify", second)
        assert checked.status == 0, checked
