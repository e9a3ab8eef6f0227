"""CIFAR-100 by its superclasses: a fine class is a part of a class that stays."""

import json
from functools import partial

import pytest
import torch
from helpers.processes import SMALL, assert_refused, fork, only
from helpers.tiny_cifar import trust, write_cifar100

from data.datasets import CIFAR100_SUPERCLASSES
from helper_functions.files import load_config, save_config

UNLEARN = "train_constrained_unlearning.py"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The data, and the folder of a model that was trained on its superclasses."""
    home = tmp_path_factory.mktemp("superclasses")
    data, trusted = write_cifar100(home / "cifar100"), partial(trust, home / "cifar100")
    done = fork(
        "train.py", *SMALL, "--data_dir", data, "--labels", "superclass", "--num_epochs", 2, "--batch_size", 100,
        "--validation", 0.25, "--log_dir", home / "runs", "--figures", False, before=trusted,
    )  # fmt: skip
    assert done.status == 0, done.err
    return trusted, only(home / "runs")


def test_a_subclass_is_forgotten_like_unseen_images_of_it(place, tmp_path):
    trusted, trained = place
    assert torch.load(trained / "model.pt", weights_only=True)["fc.weight"].shape[0] == 20
    done = fork(
        UNLEARN, "--weight_path", trained / "model.pt", "--forget", "class:rocket", "--num_epochs", 1,
        "--finetune_num_epochs", 1, "--log_dir", tmp_path, "--figures", False, before=trusted,
    )  # fmt: skip
    assert done.status in (0, 3, 4), done.err
    run = only(tmp_path)
    report = json.loads((run / "report.json").read_text())
    assert report["forget"]["target"] == "unseen"
    assert report["data"]["classes"] == 20 and report["data"]["labels"] == "superclass"
    assert report["data"]["images"] | {"train": 0, "retain": 0} == {
        "train": 0, "forget": 9, "unseen": 1, "validation": 299, "retain": 0, "test": 400
    }
    figures = report["models"]["unlearned"]
    # Of 400 test images, four are of each class.
    assert {"test_remaining_top1", "test_adjacent_top1", "test_remote_top1"} <= set(figures)
    falls = report["class_falls"]
    assert {entry["class"] for part in falls.values() for entry in part} <= set(CIFAR100_SUPERCLASSES)
    again = fork("test.py", "--verify", run, before=trusted)
    assert again.status == 0, again.out + again.err


def test_whole_classes_and_parts_of_others_have_different_targets(place, tmp_path):
    trusted, trained = place
    flags = ("--weight_path", trained / "model.pt", "--log_dir", tmp_path / "runs")
    done = fork(UNLEARN, *flags, "--forget", "class:rocket,fish", before=trusted)
    assert_refused(done, UNLEARN, "class:rocket,fish", "--forget_target")
    done = fork(UNLEARN, *flags, "--forget", "class:rokcet", before=trusted)
    assert_refused(done, UNLEARN, "rokcet", "did you mean rocket")
    done = fork(UNLEARN, *flags, "--labels", "fine", "--forget", "class:rocket", before=trusted)
    assert_refused(done, UNLEARN, "splits.npz", "--labels")
    done = fork(UNLEARN, "--dataset", "digits", "--labels", "superclass", "--log_dir", tmp_path / "runs")
    assert_refused(done, UNLEARN, "--labels superclass: digits has no superclasses")
    assert not (tmp_path / "runs").exists()


def test_a_superclass_is_a_class(place, tmp_path):
    trusted, trained = place
    done = fork(
        UNLEARN, "--weight_path", trained / "model.pt", "--forget", "superclass:fish", "--dry_run", "--log_dir",
        tmp_path, before=trusted,
    )  # fmt: skip
    assert done.status == 0 and "target zero" in done.out, done.out + done.err


def test_judging_takes_the_labels_of_the_run(place):
    trusted, trained = place
    done = fork("test.py", "--weight_path", trained / "model.pt", before=trusted)
    assert done.status == 0 and "20 superclasses" in done.out, done.err


def test_a_board_forgets_subclasses_by_the_labels_of_its_trainings(place, tmp_path):
    trusted, trained = place
    config = load_config(trained / "config.yaml")
    names = ("dataset", "data_dir", "labels", "model", "width", "num_epochs", "batch_size", "validation")
    save_config({name: config[name] for name in names}, tmp_path / "train.yaml")
    (tmp_path / "random").mkdir()
    save_config({"method": "finetune", "num_epochs": 1}, tmp_path / "random" / "finetune.yaml")
    done = fork(
        "benchmarks.leaderboard", "--methods", "finetune", "pour", "--forget", "class:rocket@0", "--seeds", 1,
        "--train_config", tmp_path / "train.yaml", "--tuned", tmp_path, "--output", tmp_path / "out", "--log_dir",
        tmp_path / "runs", "--workers", 1, before=trusted,
    )  # fmt: skip
    assert done.status == 0, done.out + done.err
    (row,) = map(json.loads, (tmp_path / "out" / "results.jsonl").read_text().splitlines())
    assert (row["method"], row["forget"], row["seed"]) == ("finetune", "class:rocket", 0)
    assert row["config"]["labels"] == "superclass" and row["config"]["num_epochs"] == 1
    (references,) = map(json.loads, (tmp_path / "out" / "references.jsonl").read_text().splitlines())
    assert "forget_top1" in references["original"]
