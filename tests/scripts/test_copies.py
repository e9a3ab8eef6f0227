"""Exact copies of forget images: found by their pixels, named, and forgotten as well with --with_copies."""

import dataclasses
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.processes import assert_refused, fork, only
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.copies import find_copies, tell_copies
from data.datasets import Dataset, load_dataset
from data.split_record import Splits
from data.splits import make_splits
from helper_functions.errors import UserError

UNLEARN = "train_constrained_unlearning.py"
SIZE = 60


def few_pictures(seed: int, kinds: int, file_names: bool = False) -> Dataset:
    """Images out of a few different ones, so that nearly each has copies; the last third is the test part."""
    rng = np.random.RandomState(seed)
    kind = rng.randint(0, kinds, SIZE)
    images = rng.randint(0, 256, (kinds, 2, 2, 1), dtype=np.uint8)[kind]
    names = tuple(f"{i % 3}/{i}.png" for i in range(SIZE)) if file_names else None
    labels = torch.arange(SIZE) % 3
    classes = ("a", "b", "c")
    tensor = torch.from_numpy(images).permute(0, 3, 1, 2)
    return Dataset("toy", tensor, labels, classes, 2 * SIZE // 3, (0.5,), (0.5,), file_names=names)


def some_splits(dataset: Dataset, seed: int, request: str = "file:list") -> Splits:
    """Parts drawn without a thought for copies."""
    order = torch.from_numpy(np.random.RandomState(seed).permutation(SIZE))
    forget, retain, validation, unseen, test = (part.sort().values for part in order.split([5, 25, 10, 5, 15]))
    train = torch.cat([forget, retain]).sort().values
    return Splits(train, validation, unseen, forget, retain, test, dataset.labels, request, "toy", 0, "stratified")


@settings(max_examples=60)
@given(seed=st.integers(0, 1000), kinds=st.integers(2, 200), names=st.booleans())
def test_each_copy_is_found_with_the_image_that_it_is_a_copy_of(seed, kinds, names):
    dataset = few_pictures(seed, kinds, names)
    splits = some_splits(dataset, seed)
    expected = {}
    for part in ("retain", "validation", "unseen", "test"):
        for image in getattr(splits, part).tolist():
            same = [i for i in splits.forget.tolist() if torch.equal(dataset.images[i], dataset.images[image])]
            if same:
                pair = [same[0], image] if not names else [dataset.file_names[same[0]], dataset.file_names[image]]
                expected.setdefault(part, []).append(pair)
    found = find_copies(dataset, splits)
    assert json.loads(json.dumps(found)) == {
        part: {"count": len(pairs), "examples": pairs[:20]} for part, pairs in expected.items()
    }
    lines = tell_copies(found, splits)
    assert len(lines) == len(expected)
    for line, (part, pairs) in zip(lines, expected.items(), strict=True):
        named = ", ".join(f"{image} = {copy}" for image, copy in pairs[:5])
        more = f" and {len(pairs) - 5} more" if len(pairs) > 5 else ""
        assert line.startswith(f"copies   {len(pairs)} in {part} ({named}{more}): ")


def test_copies_of_nothing():
    dataset = few_pictures(0, 2)
    splits = dataclasses.replace(some_splits(dataset, 0), forget=torch.zeros(0, dtype=torch.int64))
    assert find_copies(dataset, splits) == {}


def test_copies_of_wrong_labels_have_right_ones():
    dataset = few_pictures(0, 2)
    lines = [tell_copies(find_copies(dataset, splits), splits)[0] for splits in (
        some_splits(dataset, 0), some_splits(dataset, 0, "mislabelled:0.1"),
    )]  # fmt: skip
    assert "stay in training" in lines[0] and "--with_copies" in lines[0]
    assert "right labels" in lines[1] and "--with_copies" not in lines[1]


@settings(max_examples=30)
@given(seed=st.integers(0, 100), request=st.sampled_from(["random:3", "class:a", "random:0.2"]))
def test_with_copies_no_copy_is_retained(seed, request):
    dataset = few_pictures(seed, 25)
    # Enough of each class in the held-out part, whatever the copies.
    options = {"seed": seed, "validation": "0.4"}
    try:
        alone = make_splits(dataset, request, **options)
        splits = make_splits(dataset, request, with_copies=True, **options)
    except UserError as error:
        assert "held-out images" in str(error) or "whole training set" in str(error)
        return
    assert "retain" not in find_copies(dataset, splits)
    assert torch.equal(splits.train, alone.train) and torch.equal(splits.test, alone.test)
    copies = find_copies(dataset, alone).get("retain", {"count": 0})
    assert len(splits.forget) == len(alone.forget) + copies["count"]
    assert set(alone.forget.tolist()) <= set(splits.forget.tolist())
    # Likewise where there are splits already.
    again = make_splits(dataset, request, with_copies=True, previous=alone, **options)
    assert again.sha256 == splits.sha256


def test_copies_of_wrong_labels_cannot_join_them():
    with pytest.raises(UserError, match="--with_copies: mislabelled:0.1 forgets wrong labels"):
        make_splits(load_dataset("digits", "."), "mislabelled:0.1", with_copies=True)


def test_copies_that_are_all_of_the_training_set_are_refused():
    dataset = few_pictures(1, 1)
    with pytest.raises(UserError, match="random:2 and its copies are the whole training set"):
        make_splits(dataset, "random:2", with_copies=True, previous=some_splits(dataset, 1))


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Two classes of 24 PNG files; two of the first class lie in the second as well, one of them under another name."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.RandomState(0)
    for label, name in enumerate(("cats", "dogs")):
        (folder / name).mkdir()
        for number in range(24):
            picture = rng.randint(0, 128, (8, 8, 3), dtype=np.uint8) + np.uint8(100 * label)
            Image.fromarray(picture).save(folder / name / f"{number:02}.png")
    shutil.copyfile(folder / "cats" / "03.png", folder / "dogs" / "a <b>.png")
    shutil.copyfile(folder / "cats" / "07.png", folder / "dogs" / "07b.png")
    return folder


class TestAFolderOfPhotographs:
    FLAGS = (
        "--dataset", "imagefolder", "--image_size", 8, "--model", "resnet8", "--width", 2, "--train_num_epochs", 1,
        "--num_epochs", 1, "--retain_budget", 100, "--figures", "False", "--judge", "validation",
        "--validation", "0.3",
    )  # fmt: skip

    def ask(self, photos: Path, tmp_path: Path, names: list[str], *flags: object):
        (tmp_path / "list.txt").write_text("\n".join(names))
        flags = (*self.FLAGS, "--data_dir", photos, "--forget", f"file:{tmp_path / 'list.txt'}", *flags)
        return fork(UNLEARN, *flags, "--log_dir", tmp_path / "runs")

    @pytest.fixture
    def trained_on(self, photos) -> list[str]:
        """Which of the two photographs with a copy the model learns from, with its copy's name."""
        dataset = load_dataset("imagefolder", photos, image_size=8)
        splits = make_splits(dataset, None, validation="0.3")
        names = [dataset.file_names[image] for image in splits.train.tolist()]
        pairs = [("cats/03.png", "dogs/a <b>.png"), ("cats/07.png", "dogs/07b.png")]
        return next(pair for pair in pairs if set(pair) <= set(names))

    def test_a_copy_under_another_name_and_class_is_named(self, photos, trained_on, tmp_path):
        image, copy = trained_on
        done = self.ask(photos, tmp_path, [image])
        assert done.status == 0, done.err
        assert f"copies   1 in retain ({image} = {copy}): they stay in training" in done.out
        report = json.loads((only(tmp_path / "runs") / "report.json").read_text())
        assert report["copies"] == {"retain": {"count": 1, "examples": [[image, copy]]}}

    def test_with_copies_it_goes_as_well(self, photos, trained_on, tmp_path):
        done = self.ask(photos, tmp_path, [trained_on[0]], "--with_copies")
        assert done.status == 0, done.err
        assert "copies " not in done.out and "forget 2," in done.out
        folder = only(tmp_path / "runs")
        dataset = load_dataset("imagefolder", photos, image_size=8)
        forget = Splits.load(folder / "splits.npz", dataset).forget.tolist()
        assert {dataset.file_names[image] for image in forget} == set(trained_on)
        assert json.loads((folder / "report.json").read_text())["copies"] == {}

    def test_a_list_of_held_out_photographs_says_where_each_stands(self, photos, tmp_path):
        dataset = load_dataset("imagefolder", photos, image_size=8)
        splits = make_splits(dataset, None, validation="0.3")
        images = [*splits.validation[:1].tolist(), *splits.test[:1].tolist(), *splits.train[:2].tolist()]
        done = self.ask(photos, tmp_path, [dataset.file_names[image] for image in images])
        where = dict.fromkeys(images[:1], "validation") | dict.fromkeys(images[1:2], "test")
        named = ", ".join(f"{dataset.file_names[image]} ({part})" for image, part in sorted(where.items()))
        assert_refused(done, UNLEARN, named, "list.txt", "take them off the list")
        assert not (tmp_path / "runs").exists()
