"""Copies of forget images: exact and near ones are found and named, the former forgotten by --with_copies."""

import dataclasses
import json
import re
import shutil
import types
from pathlib import Path

import imagehash
import numpy as np
import pytest
import torch
from helpers.processes import SMALL, assert_refused, fork, only
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageEnhance

from data.copies import (
    find_copies,
    find_near_duplicates,
    near_distance,
    perceptual_hashes,
    tell_copies,
    tell_near_duplicates,
)
from data.datasets import Dataset, load_dataset
from data.preprocessing import Preprocessing
from data.split_record import Splits
from data.splits import make_splits
from helper_functions.errors import UserError
from train_constrained_unlearning import get_parser

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
@given(seed=st.integers(0, 100), request=st.sampled_from(["random:3images", "class:a", "random:0.2"]))
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
    with pytest.raises(UserError, match="random:2images and its copies are the whole training set"):
        make_splits(dataset, "random:2images", with_copies=True, previous=some_splits(dataset, 1))


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
        dataset = load_dataset("imagefolder", photos, Preprocessing(8))
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
        dataset = load_dataset("imagefolder", photos, Preprocessing(8))
        forget = Splits.load(folder / "splits.npz", dataset).forget.tolist()
        assert {dataset.file_names[image] for image in forget} == set(trained_on)
        assert json.loads((folder / "report.json").read_text())["copies"] == {}

    def test_a_list_of_held_out_photographs_says_where_each_stands(self, photos, tmp_path):
        dataset = load_dataset("imagefolder", photos, Preprocessing(8))
        splits = make_splits(dataset, None, validation="0.3")
        images = [*splits.validation[:1].tolist(), *splits.test[:1].tolist(), *splits.train[:2].tolist()]
        # Drawn around a list that is known from the start, these are those of splits from before it.
        splits.save(tmp_path / "splits.npz")
        named = [dataset.file_names[image] for image in images]
        done = self.ask(photos, tmp_path, named, "--splits", tmp_path / "splits.npz")
        where = dict.fromkeys(images[:1], "validation") | dict.fromkeys(images[1:2], "test")
        named = ", ".join(f"{dataset.file_names[image]} ({part})" for image, part in sorted(where.items()))
        assert_refused(done, UNLEARN, named, "list.txt", "take them off the list")
        assert not (tmp_path / "runs").exists()


def smooth(seed: int) -> Image.Image:
    """A picture of 48 x 48 pixels whose patches of colour are as coarse as those of photographs."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return Image.fromarray(coarse).resize((48, 48), Image.Resampling.BICUBIC)


@pytest.fixture(scope="module")
def album(tmp_path_factory) -> Path:
    """Two classes of 20 pictures; some of the first stand in the second, stored again, smaller, brighter."""
    folder = tmp_path_factory.mktemp("album")
    for label, name in enumerate(("cats", "dogs")):
        (folder / name).mkdir()
        for number in range(20):
            smooth(100 * label + number).save(folder / name / f"{number:02}.png")
    smooth(3).save(folder / "dogs/stored.jpg", quality=60)
    smooth(4).resize((24, 24)).save(folder / "dogs/smaller.png")
    ImageEnhance.Brightness(smooth(5)).enhance(1.15).save(folder / "dogs/brighter.png")
    smooth(6).save(folder / "dogs/same.png")
    return folder


class TestNearDuplicates:
    def splits(self, album: Path):
        dataset = load_dataset("imagefolder", album, Preprocessing(48))
        places = {name: index for index, name in enumerate(dataset.file_names)}
        forget = torch.tensor(sorted(places[f"cats/{number:02}.png"] for number in (3, 4, 5, 6, 7)))
        retain = torch.tensor(sorted(set(places.values()) - set(forget.tolist())))
        nothing = torch.zeros(0, dtype=torch.int64)
        splits = dataclasses.replace(some_splits(few_pictures(0, 2), 0), forget=forget, retain=retain)
        return dataset, dataclasses.replace(splits, validation=nothing, unseen=nothing, test=nothing)

    def test_pictures_that_look_alike_are_named_and_exact_copies_are_not(self, album):
        dataset, splits = self.splits(album)
        found = find_near_duplicates(dataset, splits, 6)
        assert found["distance"] == 6 and found["parts"].keys() == {"retain"}
        pairs = {tuple(example[:2]) for example in found["parts"]["retain"]["examples"]}
        assert pairs == {("cats/03.png", "dogs/stored.jpg"), ("cats/04.png", "dogs/smaller.png"),
                         ("cats/05.png", "dogs/brighter.png")}  # fmt: skip
        (line,) = tell_near_duplicates(found)
        assert line.startswith("similar  3 in retain (") and "cats/03.png ~ dogs/stored.jpg" in line

    @pytest.mark.parametrize("distance", [0, 20, 28])
    def test_they_are_all_pairs_within_the_distance(self, album, distance):
        """By the library's own difference, the nearest forget image for each."""
        dataset, splits = self.splits(album)

        def hashed(image: int) -> imagehash.ImageHash:
            return imagehash.phash(Image.fromarray(dataset.images[image].permute(1, 2, 0).numpy()))

        expected = {}
        for other in splits.retain.tolist():
            bits = {image: hashed(image) - hashed(other) for image in splits.forget.tolist()}
            nearest = min(bits, key=bits.get)
            if bits[nearest] <= distance and not torch.equal(dataset.images[nearest], dataset.images[other]):
                expected[dataset.file_names[other]] = [dataset.file_names[nearest], bits[nearest]]
        found = find_near_duplicates(dataset, splits, distance)["parts"].get("retain", {"count": 0, "examples": []})
        assert found["count"] == len(expected) and len(found["examples"]) == min(20, len(expected))
        assert all(expected[other] == [image, bits] for image, other, bits in found["examples"])

    def test_hashes_are_those_of_the_library(self, album):
        dataset, _ = self.splits(album)
        grey = dataclasses.replace(dataset, images=dataset.images[:, :1].contiguous())
        for each in (dataset, grey):
            found = perceptual_hashes(each, np.arange(len(each.labels)))
            for index, value in enumerate(found):
                pixels = each.images[index].permute(1, 2, 0).numpy()
                picture = Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[:, :, 0])
                bits = np.unpackbits(np.array([value]).view(np.uint8))
                assert np.array_equal(bits, imagehash.phash(picture).hash.ravel())

    def test_photographs_are_compared_unless_it_is_turned_off(self):
        photographs, digits = types.SimpleNamespace(file_names=("a",)), types.SimpleNamespace(file_names=None)
        for asked, distances in (("auto", (6, None)), ("off", (None, None)), (0, (0, 0)), (9, (9, 9))):
            assert (near_distance(asked, photographs), near_distance(asked, digits)) == distances
        flags = [get_parser().parse(["--near_duplicates", each]).near_duplicates for each in ("auto", "off", "9")]
        assert flags == ["auto", "off", 9]
        with pytest.raises(UserError, match="near_duplicates"):
            get_parser().parse(["--near_duplicates", "many"])

    def test_a_run_names_them_and_its_report_is_verified(self, album, tmp_path):
        flags = (
            *SMALL, "--data_dir", album, "--image_size", 16, "--validation", "0.3", "--train_num_epochs", 1,
            "--num_epochs", 1, "--retain_budget", 100, "--figures", "False", "--near_duplicates", 20,
            "--forget", "random:10",
        )  # fmt: skip
        done = fork(UNLEARN, *flags, "--log_dir", tmp_path)
        assert done.status in (0, 4), done.err
        told = json.loads((only(tmp_path) / "report.json").read_text())["near_duplicates"]
        assert told["distance"] == 20 and told["parts"]
        for part, found in told["parts"].items():
            assert f"similar  {found['count']} in {part} (" in done.out
        verified = fork("test.py", "--verify", only(tmp_path))
        assert verified.status == 0 and re.search("near-duplicates elsewhere .* holds", verified.out), verified.out
