"""Hashes of pixels find a picture again: renamed, re-encoded, at another size, as grey or RGB, in another data set."""

import hashlib

import numpy as np
import pytest
import torch
from helpers.toy_splits import sets, toy
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from data.datasets import load_dataset
from data.exclusion import HASHES, exclude, pixel_hashes, read_hashes
from data.preprocessing import Preprocessing
from data.split_record import Splits
from data.splits import make_splits
from helper_functions.errors import UserError


def by_hand(pixels: np.ndarray) -> str:
    """Of RGB pixels uint8 [H, W, 3]."""
    return hashlib.sha256(f"{len(pixels)} {pixels.shape[1]}\n".encode() + pixels.tobytes()).hexdigest()


@pytest.fixture
def photos(tmp_path):
    """Two classes of three pictures of 12 x 9 pixels; their pixels by name."""
    draw, found = np.random.default_rng(0), {}
    for kind in ("ash", "bay"):
        (tmp_path / kind).mkdir()
        for number in range(3):
            found[f"{kind}/{number}.png"] = pixels = draw.integers(0, 256, (9, 12, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / kind / f"{number}.png")
    return tmp_path, found


def test_of_a_folder_it_is_the_whole_picture_of_the_file(photos):
    folder, pixels = photos
    for size in (4, 8):
        dataset = load_dataset("imagefolder", folder, Preprocessing(size))
        assert pixel_hashes(dataset, range(6)) == [by_hand(pixels[name]) for name in dataset.file_names]
    assert pixel_hashes(dataset, [4]) == [by_hand(pixels["bay/1.png"])] and pixel_hashes(dataset, []) == []


def test_a_picture_that_comes_back_is_found(photos):
    """Under another name and class, stored otherwise, and turned by its EXIF data."""
    folder, pixels = photos
    picture = Image.fromarray(pixels["ash/0.png"])
    (folder / "ash/0.png").unlink()
    picture.save(folder / "bay/again.png", compress_level=0)
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    picture.rotate(180).save(folder / "bay/turned.png", exif=exif)
    dataset = load_dataset("imagefolder", folder, Preprocessing(8))
    found = dict(zip(dataset.file_names, pixel_hashes(dataset, range(7)), strict=True))
    same = {name for name, each in found.items() if each == by_hand(pixels["ash/0.png"])}
    assert same == {"bay/again.png", "bay/turned.png"}


def test_a_built_in_picture_is_found_in_a_folder(tmp_path):
    digits = load_dataset("digits", ".")
    for index in (0, 1, 2):
        (tmp_path / str(index % 2)).mkdir(exist_ok=True)
        Image.fromarray(digits.images[index, 0].numpy()).save(tmp_path / str(index % 2) / f"{index}.png")
    folder = load_dataset("imagefolder", tmp_path, Preprocessing(8))
    assert pixel_hashes(folder, range(3)) == pixel_hashes(digits, [0, 2, 1])


@settings(max_examples=30)
@given(images=st.sets(st.integers(0, 239), max_size=30), forget=st.sampled_from([None, "random:0.1", "class:1"]))
def test_excluded_images_are_in_no_part(images, forget, tmp_path_factory):
    dataset = toy(test=40)
    splits, gone = make_splits(dataset, forget), torch.tensor(sorted(images), dtype=torch.int64)
    left = splits.without(gone)
    assert left.forgotten.tolist() == sorted(images)
    for name, part in sets(splits).items():
        assert sets(left)[name] == part - images, name
    path = tmp_path_factory.mktemp("splits") / "splits.npz"
    left.save(path)
    assert Splits.load(path, dataset).sha256 == left.sha256


class TestExclude:
    def ask(self, tmp_path, dataset, images: list[int]):
        hashes = pixel_hashes(dataset, images)
        (tmp_path / HASHES).write_text("\n".join(["# of a run", *hashes, "0" * 64, ""]))
        return exclude(make_splits(dataset, None), dataset, tmp_path / HASHES)

    def test_says_how_many_were_found(self, tmp_path, capsys):
        dataset = toy(copies=20)
        groups = {}
        for index, each in enumerate(pixel_hashes(dataset, range(len(dataset.labels)))):
            groups.setdefault(each, []).append(index)
        copies = max(groups.values(), key=len)
        assert len(copies) > 1
        splits = self.ask(tmp_path, dataset, copies[:1])
        assert splits.forgotten.tolist() == copies, "copies have the same pixels"
        said = capsys.readouterr().out
        assert said.startswith("exclude  1 of the 2 pictures of ") and f"found: {len(copies)} images left out" in said

    def test_nothing_left_is_refused(self, tmp_path):
        with pytest.raises(UserError, match="--exclude .*: it leaves no train image"):
            self.ask(tmp_path, toy(), list(range(len(toy().labels))))

    @pytest.mark.parametrize("text", ["a" * 63, "A" * 64, "g" * 64, "a" * 65, "ash/0.png", f"{'a' * 64} ash/0.png"])
    def test_other_files_are_refused_by_their_line(self, tmp_path, text):
        (tmp_path / "list.txt").write_text(f"{'a' * 64}\n{text}\n")
        with pytest.raises(UserError, match="--exclude, line 2 of .*list.txt: no hash; give the forgotten.sha256"):
            read_hashes(tmp_path / "list.txt", 9)

    def test_files_that_cannot_be_read(self, tmp_path):
        (tmp_path / "bytes").write_bytes(b"\xff\xfe")
        (tmp_path / "long").write_text(f"{'a' * 64}\n" * 1001)
        said = {"nowhere": "cannot read", "bytes": "no UTF-8", ".": "cannot read", "long": "more than"}
        for name, says in said.items():
            with pytest.raises(UserError, match=says):
                read_hashes(tmp_path / name, 0)
