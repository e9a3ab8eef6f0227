"""Runs from Python: the folder and the report of a script, and a run's scalars as they were written."""

import math
import types

import numpy as np
import pytest

import train
from helper_functions.errors import UserError
from helper_functions.record import RunRecord
from helper_functions.run_folder import read_scalars, run_name, run_quietly

FLAGS = ("--model", "resnet8", "--width", 4, "--num_epochs", 1, "--dataset", "digits")


@pytest.mark.parametrize(
    ("parts", "name"),
    [
        (("unlearning", "constrained", "random:0.1"), "unlearning-constrained-random_0.1"),
        (("train", "original", ""), "train-original"),
        (("unlearning", "scrub", "class:aquarium fish,7"), "unlearning-scrub-class_aquarium_fish_7"),
        (("unlearning", "../../x", "file:.."), "unlearning-x-file"),
        (("unlearning", "ssd", "class:" + "very_long," * 99), "unlearning-ssd-class_very_long_very_long_very_l"),
        (("unlearning", "ssd", "group:Zoë\n*?"), "unlearning-ssd-group_Zo"),
    ],
)
def test_a_run_is_named_by_script_method_and_forget_set(parts, name, tmp_path):
    assert run_name(*parts) == name
    (tmp_path / f"{name}-20260101-120000").mkdir()


def test_a_script_gives_its_folder_and_report_and_says_nothing(tmp_path, capsys):
    (tmp_path / "small-of-before").mkdir()
    folder, report = run_quietly(train, [*FLAGS, "--log_dir", tmp_path], "small")
    assert (folder / "model.pt").is_file() and "test_top1" in report["models"]["original"]
    assert capsys.readouterr().out == ""


def test_a_second_run_has_a_folder_of_its_own(tmp_path):
    def main(args):
        RunRecord.create(args.log_dir, args.name_prefix, args, train.Experiment(args).precision.device)
        return {}

    script = types.SimpleNamespace(get_parser=train.get_parser, main=main)
    first, second = (run_quietly(script, ["--log_dir", tmp_path], "same")[0] for _ in range(2))
    assert first != second


def test_a_folder_that_another_process_made_meanwhile_is_not_its_own(tmp_path):
    def main(args):
        record = RunRecord.create(args.log_dir, args.name_prefix, args, train.Experiment(args).precision.device)
        (tmp_path / "same-of-another-process").mkdir()
        return {"folder": record.folder}

    script = types.SimpleNamespace(get_parser=train.get_parser, main=main)
    folder, report = run_quietly(script, ["--log_dir", tmp_path], "same")
    assert folder == report["folder"]


def test_scalars_are_read_as_they_were_written(tmp_path):
    record = RunRecord(tmp_path)
    for step in (1, 2, 5):
        record.scalars({"constraint/violation": step / 3}, step)
    record.scalars({"retain/top1": 99.5, "forget/loss": math.nan}, 7)
    record.close()
    scalars = read_scalars(tmp_path)
    assert [part.tolist() for part in scalars["constraint/violation"]] == [[1, 2, 5], [1 / 3, 2 / 3, 5 / 3]]
    assert [part.tolist() for part in scalars["retain/top1"]] == [[7], [99.5]]
    assert np.isnan(scalars["forget/loss"][1]).all()


def test_a_folder_of_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="no metrics.jsonl"):
        read_scalars(tmp_path)
