"""The record of a run: folders of its own, figures line by line, checkpoints that take later figures back."""

import dataclasses
import json
import math
import time

import pytest
import torch
from helpers.method_cases import QuietRecord
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from helper_functions.config import RunArgs
from helper_functions.errors import UserError
from helper_functions.files import load_config
from helper_functions.record import RunRecord

CPU = torch.device("cpu")


@dataclasses.dataclass
class Args(RunArgs):
    """Of a script that does not exist."""

    rate: float = 0.1
    """A number."""
    names: list[str] | None = None
    """A list."""


def lines(record) -> list[dict]:
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    text = record.path("metrics.jsonl").read_text()
    return [json.loads(line, parse_constant=refuse) for line in text.splitlines()]


class TestFolder:
    def test_two_runs_of_one_name_in_one_second_have_their_own(self, tmp_path, monkeypatch):
        monkeypatch.setattr(time, "strftime", lambda *_: "20260101-120000")
        records = [RunRecord.create(str(tmp_path / "runs"), "name", Args(), CPU) for _ in range(4)]
        folders = [record.folder for record in records]
        assert [folder.name for folder in folders] == [f"name-20260101-12000{second}" for second in range(4)]
        for record in records:
            record.close()
            assert {path.name for path in record.folder.iterdir()} == {"config.yaml", "environment.json"}

    def test_the_configuration_reproduces_the_arguments(self, tmp_path):
        args = Args(rate=0.25, names=["a", "b"], seed=7, log_dir=str(tmp_path), resume="an/earlier/run")
        record = RunRecord.create(str(tmp_path), "name", args, CPU)
        # What a run was resumed from is no part of what it does.
        assert load_config(record.path("config.yaml")) == {**dataclasses.asdict(args), "resume": None}
        again, found = RunRecord.reopen(str(record.folder), Args)
        assert found == dataclasses.replace(args, resume=str(record.folder)) and again.folder == record.folder

    def test_says_what_it_ran_on(self, tmp_path):
        record = RunRecord.create(str(tmp_path), "name", Args(), CPU)
        environment = json.loads(record.path("environment.json").read_text())
        assert environment["torch"] == torch.__version__ and environment["device"] == "cpu"
        assert {"python", "torchvision", "numpy", "platform", "cpu"} <= set(environment)

    def test_a_file_where_the_folder_should_be_is_one_line(self, tmp_path):
        (tmp_path / "runs").write_text("occupied")
        with pytest.raises(UserError, match="--log_dir"):
            RunRecord.create(str(tmp_path / "runs"), "name", Args(), CPU)
        assert (tmp_path / "runs").read_text() == "occupied"

    @pytest.mark.parametrize("content", [None, "rate: 0.1\n", "rate: [\n"])
    def test_what_is_no_run_of_this_script_is_not_reopened(self, content, tmp_path):
        if content is not None:
            (tmp_path / "config.yaml").write_text(content)
        with pytest.raises(UserError):
            RunRecord.reopen(str(tmp_path), Args)


class TestFigures:
    def test_numbers_that_are_none_become_null(self, tmp_path):
        record = QuietRecord(tmp_path)
        record.scalars({"a": 1.5, "b": math.nan, "c": math.inf, "d": -math.inf}, step=3)
        record.scalars({"a": 2.0}, step=4)
        assert lines(record) == [{"step": 3, "a": 1.5, "b": None, "c": None, "d": None}, {"step": 4, "a": 2.0}]

    def test_tensorboard_holds_the_same(self, tmp_path):
        record = RunRecord(tmp_path)
        record.scalars({"retain/top1": 90.0, "forget/loss": 0.5}, step=10)
        record.scalars({"retain/top1": 91.0}, step=20)
        record.histograms({"forget/losses": torch.tensor([1.0, 2.0, math.nan]), "empty": torch.zeros(0)}, step=20)
        record.close()
        events = EventAccumulator(str(tmp_path)).Reload()
        assert sorted(events.Tags()["scalars"]) == ["forget/loss", "retain/top1"]
        assert [(event.step, event.value) for event in events.Scalars("retain/top1")] == [(10, 90.0), (20, 91.0)]
        assert events.Tags()["histograms"] == ["forget/losses"]
        assert events.Histograms("forget/losses")[0].histogram_value.num == 2

    def test_a_table_repeats_its_heading_when_columns_change(self, tmp_path, capsys):
        record = QuietRecord(tmp_path)
        for epoch in (1, 2):
            record.print_row("forget", epoch, 2, {"retain/top1": 99.5, "train/loss": 0.01})
        record.print_row("finetune", 1, 2, {"retain/top1": 99.5})
        rows = [line for line in capsys.readouterr().out.splitlines() if line]
        assert [row.split()[0] for row in rows] == ["forget", "1/2", "2/2", "finetune", "1/2"]
        assert "99.50" in rows[1] and len(rows[0]) == len(rows[1])


class TestCheckpoint:
    def content(self, step) -> dict:
        return {"step": step, "model": {"weight": torch.arange(3.0) + step}, "epochs": [{"a": 0.5}], "chosen": None}

    def test_none_before_the_first(self, tmp_path):
        assert RunRecord(tmp_path).load_checkpoint() is None

    def test_comes_back_and_takes_later_figures_back(self, tmp_path):
        record = QuietRecord(tmp_path)
        for step in range(6):
            record.scalars({"figure": float(step)}, step)
            if step == 3:
                record.save_checkpoint(self.content(step))
        found = QuietRecord(tmp_path).load_checkpoint()
        assert found["step"] == 3 and found["epochs"] == [{"a": 0.5}] and found["chosen"] is None
        assert torch.equal(found["model"]["weight"], torch.tensor([3.0, 4.0, 5.0]))
        assert [line["step"] for line in lines(record)] == [0, 1, 2, 3]
        again = QuietRecord(tmp_path)
        again.load_checkpoint()
        again.scalars({"figure": 40.0}, 4)
        assert [line["figure"] for line in lines(record)] == [0, 1, 2, 3, 40]

    def test_the_last_one_counts(self, tmp_path):
        record = QuietRecord(tmp_path)
        for step in range(3):
            record.scalars({"figure": 0.0}, step)
            record.save_checkpoint(self.content(step))
        assert RunRecord(tmp_path).load_checkpoint()["step"] == 2
        assert len(lines(record)) == 3

    def test_figures_of_a_run_that_was_killed_before_its_first_are_taken_back(self, tmp_path):
        record = QuietRecord(tmp_path)
        record.scalars({"figure": 0.0}, 1)
        assert QuietRecord(tmp_path).load_checkpoint() is None
        assert not record.path("metrics.jsonl").exists() or lines(record) == []

    def test_tensorboard_goes_on_without_what_was_taken_back(self, tmp_path):
        record = RunRecord(tmp_path)
        record.scalars({"figure": 1.0}, 1)
        record.save_checkpoint(self.content(1))
        record.scalars({"figure": 2.0}, 2)
        record.writer.flush()
        again = RunRecord(tmp_path)
        again.load_checkpoint()
        again.scalars({"figure": 20.0}, 2)
        again.close()
        events = EventAccumulator(str(tmp_path)).Reload()
        assert [(event.step, event.value) for event in events.Scalars("figure")] == [(1, 1.0), (2, 20.0)]

    def test_a_damaged_one_says_so(self, tmp_path):
        record = QuietRecord(tmp_path)
        record.save_checkpoint(self.content(1))
        path = record.path("checkpoint.pt")
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        with pytest.raises(UserError, match="checkpoint.pt"):
            record.load_checkpoint()

    def test_one_of_another_version_is_refused(self, tmp_path):
        record = QuietRecord(tmp_path)
        record.save_checkpoint(self.content(1))
        content = torch.load(record.path("checkpoint.pt"))
        content.pop("format")
        torch.save(content, record.path("checkpoint.pt"))
        with pytest.raises(UserError, match="no checkpoint of this version; start a new run without --resume"):
            record.load_checkpoint()

    def test_figures_that_a_crash_lost_are_not_made_up(self, tmp_path):
        """The checkpoint is synced to the disk and the figures are not: after a power failure they may be fewer."""
        record = QuietRecord(tmp_path)
        for step in range(3):
            record.scalars({"figure": 0.0}, step)
        record.save_checkpoint(self.content(2))
        metrics = record.path("metrics.jsonl")
        metrics.write_text("".join(metrics.read_text().splitlines(keepends=True)[:2]))
        again = QuietRecord(tmp_path)
        again.load_checkpoint()
        again.scalars({"figure": 0.0}, 3)
        assert [line["step"] for line in lines(again)] == [0, 1, 3]
