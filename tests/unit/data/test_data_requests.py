"""Images by the names that users give them, tables of requests and of groups, and splits around what they name."""

import csv
import io
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from data.copies import find_copies
from data.datasets import Dataset
from data.image_list import ImageNames, Request, load_requests, read_group, read_image_list, read_requests
from data.splits import make_splits
from helper_functions.errors import UserError

CLASSES = ("apple", "photos", "pear, ripe")


def album(folder: Path = Path("data/photos"), each: int = 20, copies: int = 0) -> Dataset:
    """Three classes of random pictures as of an image folder; the first `copies` repeat the last ones."""
    count = each * len(CLASSES)
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, 2, 2, 3), dtype=np.uint8))
    for index in range(copies):
        images[index] = images[count - 1 - index]
    names = tuple(f"{kind}/{number:02}.png" for kind in CLASSES for number in range(each))
    labels = torch.arange(len(CLASSES)).repeat_interleave(each)
    return Dataset("imagefolder", images.permute(0, 3, 1, 2), labels, CLASSES, count, (0.5,) * 3, (0.5,) * 3,
                   file_names=names, folder=folder)  # fmt: skip


def complaint(function, *arguments) -> str:
    with pytest.raises(UserError) as info:
        function(*arguments)
    assert "\n" not in str(info.value)
    return str(info.value)


class TestNames:
    @pytest.mark.parametrize(
        "entry",
        ["apple/03.png", "./apple/03.png", "photos/apple/03.png", "data/photos/apple/03.png", "apple/../apple//03.png",
         "./data/photos/apple/03.png", f"{Path.cwd()}/data/photos/apple/03.png", "photos\\apple\\03.png", "3"],
    )  # fmt: skip
    def test_with_the_folder_and_without(self, entry):
        assert ImageNames(album()).find(entry) == 3

    def test_a_class_that_is_called_like_the_folder(self):
        names = ImageNames(album())
        assert names.find("photos/05.png") == names.find("photos/photos/05.png") == 25

    @pytest.mark.parametrize("entry", ["apple/3.png", "/photos/apple/03.png", "other/apple/03.png", "60", "-1", ""])
    def test_others_are_none(self, entry):
        assert ImageNames(album()).find(entry) is None

    def test_all_that_is_not_found_is_listed_with_the_nearest_name(self, tmp_path):
        path = tmp_path / "list.txt"
        path.write_text("apple/03.png\nphotos/aple/04.png\n\nzzzzzz\n")
        said = complaint(read_image_list, tmp_path / "list.txt", album())
        first = f"line 2 of {path}: 'photos/aple/04.png' (nearest: apple/04.png) is no image of imagefolder"
        assert said.startswith(first)
        assert "nor are line 4 'zzzzzz'; give an index from 0 to 59 or a file name" in said


class TestGroups:
    TABLE = "group,file,age\nAnna,photos/apple/01.png,3\n\nAnna,apple/02.png,3\n\"B, C\",photos/07.png,4\nx,gone.png,1"

    def read(self, tmp_path, *names: str) -> list[int]:
        (tmp_path / "groups.csv").write_text(self.TABLE)
        return read_group(tmp_path / "groups.csv", names, album()).tolist()

    def test_columns_are_found_by_their_names(self, tmp_path):
        assert self.read(tmp_path, "Anna") == [1, 2]
        assert self.read(tmp_path, "B", "C") == [27], "a group may have a comma in its name"

    def test_what_is_not_there(self, tmp_path):
        assert "no group 'Ana'; did you mean Anna?" in complaint(self.read, tmp_path, "Ana")
        assert "line 6 of " in complaint(self.read, tmp_path, "x"), "its file is missing"

    def test_a_request_needs_the_table(self, tmp_path):
        assert "name the table of groups by --groups" in complaint(make_splits, album(), "group:Anna")
        self.read(tmp_path, "Anna")
        splits = make_splits(album(), "group:Anna", groups=str(tmp_path / "groups.csv"), validation="0.3")
        assert splits.forget.tolist() == [1, 2] and splits.forget_request == "group:Anna"


class TestRequests:
    def read(self, tmp_path, text: str) -> list[Request]:
        (tmp_path / "requests.csv").write_text(text)
        return read_requests(tmp_path / "requests.csv", album())

    def test_pictures_and_lists(self, tmp_path):
        (tmp_path / "lists").mkdir()
        (tmp_path / "lists/b.txt").write_text("photos/07.png\nphotos/apple/01.png\n")
        text = "\ufeffRequest_ID, requester ,file\nr1,Anna,apple/03.png\nr2,Ben,lists/b.txt\nr1,Anna,apple/01.png"
        expected = [Request("r1", "Anna", (1, 3)), Request("r2", "Ben", (1, 27))]
        assert self.read(tmp_path, text) == expected
        assert self.read(tmp_path, text.replace(",", ";")) == expected, "as some spreadsheets write it"
        splits = make_splits(album(), f"requests:{tmp_path}/requests.csv", validation="0.3")
        assert splits.forget.tolist() == [1, 3, 27]

    @pytest.mark.parametrize(
        ("text", "says"),
        [
            ("", "no column request_id; begin with request_id,requester,file"),
            ("id,requester,file\n", "no column request_id"),
            ("request_id,requester,file\n", "holds no request"),
            ("request_id,requester,file\n1,A\n", "line 2 of .* has 2 values, its first line 3"),
            ("request_id,requester,file\n,A,0\n", "give each request an id"),
            ("request_id,requester,file\n1,,0\n", "give each request an id and a requester"),
            (f"request_id,requester,file\n1,{'x' * 201},0\n", "give each request an id"),
            ("request_id,requester,file\n1,a\x1b[2J,0\n", "give each request an id"),
            ("request_id,requester,file\n1,A,0\n1,B,1\n", "request '1' is of 'A' above and of 'B' here"),
            ("request_id,requester,file\n1,A,aple/03.png\n", r"line 2 of .*'aple/03.png' \(nearest: apple/03.png\)"),
            ('request_id,requester,file\n1,A,"0\n', "is no CSV"),
        ],
    )  # fmt: skip
    def test_tables_that_are_none(self, tmp_path, text, says):
        with pytest.raises(UserError, match=says):
            self.read(tmp_path, text)

    @pytest.mark.parametrize(
        "text", ["", "[1]", "3", '[{"id": 1}]', '[{"id": 1, "requester": 2, "images": ["a"]}]', "[" * 99999]
    )
    def test_damaged_records_of_a_run(self, tmp_path, text):
        (tmp_path / "requests.json").write_text(text)
        assert "requests.json cannot be read, or is damaged" in complaint(load_requests, tmp_path / "requests.json")


class TestAround:
    """Nothing that a request names one by one is held out, whatever the seed; copies of it neither."""

    @settings(max_examples=40)
    @given(st.sets(st.integers(0, 59), min_size=1, max_size=25), st.integers(0, 50), st.sampled_from([0, 8]))
    def test_any_list_is_forgotten_whole(self, tmp_path_factory, named, seed, copies):
        folder, dataset = tmp_path_factory.mktemp("around"), album(copies=copies)
        (folder / "list.txt").write_text("\n".join(dataset.file_names[image] for image in named))
        table = io.StringIO()
        rows = [("request_id", "requester", "file"), *((image, "A", dataset.file_names[image]) for image in named)]
        csv.writer(table).writerows(rows)
        (folder / "requests.csv").write_text(table.getvalue())
        for request in (f"file:{folder}/list.txt", f"requests:{folder}/requests.csv"):
            try:
                splits = make_splits(dataset, request, seed=seed, validation="0.3")
            except UserError as error:  # next to nothing of a class is left to be held out
                assert "held-out images" in str(error) and max(torch.bincount(dataset.labels[list(named)])) > 6
                continue
            assert set(splits.forget.tolist()) == named
            assert find_copies(dataset, splits).keys() <= {"retain"}
            everything = torch.cat([splits.train, splits.validation, splits.unseen, splits.test])
            assert everything.sort().values.tolist() == list(range(60))
            assert all(len(part) for part in (splits.retain, splits.validation, splits.unseen, splits.test))

    def test_other_requests_leave_the_parts_as_they_are(self):
        plain, random = (make_splits(album(), request, validation="0.3") for request in (None, "random:0.1"))
        assert torch.equal(plain.test, random.test) and torch.equal(plain.train, random.train)

    def test_what_a_list_calls_never_seen_cannot_be_forgotten(self, tmp_path):
        (tmp_path / "held_out.txt").write_text("\n".join(album().file_names[::4]))
        (tmp_path / "list.txt").write_text("apple/04.png")
        options = {"validation": f"file:{tmp_path}/held_out.txt"}
        with pytest.raises(UserError, match="never trained on"):
            make_splits(album(), f"file:{tmp_path}/list.txt", **options)
