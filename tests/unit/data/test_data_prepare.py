"""`python -m data.prepare`: its description of a data set, and its exit status where there is none."""

import hashlib
from pathlib import Path

import pytest

from data.datasets import load_dataset
from data.prepare import Args, describe, get_parser, main
from helper_functions.config import run_script
from helper_functions.errors import UserError


def test_it_says_what_is_there(capsys):
    found = main(get_parser().parse(["--dataset", "digits"]))
    printed = capsys.readouterr().out
    assert found["training_images"] == 1797 and found["test_images"] == 0 and found["image"] == "1 x 8 x 8"
    assert all(str(value) in printed for value in found.values())


def test_the_digest_is_of_pixels_and_labels():
    dataset = load_dataset("digits", ".")
    content = dataset.images.permute(0, 2, 3, 1).numpy().tobytes() + dataset.labels.numpy().astype("<i8").tobytes()
    assert describe(dataset, Path())["sha256"] == hashlib.sha256(content).hexdigest()


def test_an_absent_folder_is_a_user_error(tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        main(Args(dataset="imagefolder", data_dir=str(tmp_path / "nowhere")))


def test_the_command_exits_with_2_and_one_line(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["data.prepare", "--dataset", "imagefolder", "--data_dir", str(tmp_path)])
    assert run_script(get_parser, main) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("\n") == 1
