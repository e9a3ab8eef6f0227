"""The benchmark that kills runs: it tells a run that goes on from one that does not, and says where it was killed."""

import dataclasses
import json
from pathlib import Path

import pytest

from benchmarks import kills
from benchmarks.kill_jobs import JOBS, OF_ONE_RUN
from benchmarks.kills import Args, main, table
from data.random_streams import random_state
from helper_functions.errors import UserError

# Counts to 20 in a file, never half-written, a twentieth of a second of computing for each; `sound` goes on where it
# was, and so ends with the same file; the other one begins anew below what stands there.
COUNTER = """
import os, sys, time
from pathlib import Path
file, sound = Path(sys.argv[1]), sys.argv[2] == "sound"
lines = file.read_text().splitlines() if file.exists() else []
for number in range(len(lines) if sound else 0, 20):
    end = time.process_time() + 0.05
    while time.process_time() < end:
        pass
    lines.append(str(number))
    whole = file.with_suffix(".new")
    whole.write_text("\\n".join(lines))
    os.replace(whole, file)
"""
# Of its moments, for runs 0 and 1: some way into the run.
SEED = next(
    seed for seed in range(100)
    if all(0.4 < random_state(seed, "kill", number).uniform(size=1)[0] < 0.8 for number in range(2))
)  # fmt: skip


@dataclasses.dataclass
class Counting:
    """A job that counts."""

    script: Path
    kind: str

    def command(self, folder: Path, weights: Path) -> list[str]:
        return [str(self.script), str(folder / "counted.txt"), self.kind]

    again = command

    def place(self, folder: Path) -> str:
        return f"checkpoint of {len((folder / 'counted.txt').read_text().splitlines())}"

    def outcome(self, folder: Path) -> dict:
        return {"counted": (folder / "counted.txt").read_text()}

    def left_over(self, folder: Path) -> None:
        return None


@pytest.fixture
def args(tmp_path, monkeypatch) -> Args:
    script = tmp_path / "counter.py"
    script.write_text(COUNTER)
    monkeypatch.setattr(kills, "original_of", lambda *_: tmp_path / "none")
    for kind in ("sound", "forgetful"):
        monkeypatch.setitem(JOBS, kind, Counting(script, kind))
    output, log_dir = str(tmp_path / "kills.jsonl"), str(tmp_path / "runs")
    return Args(times=2, jobs=["sound"], seed=SEED, output=output, log_dir=log_dir)


def test_a_run_that_goes_on_survives_and_is_not_run_again(args, monkeypatch, capsys):
    rows = main(args)["rows"]
    assert [row["difference"] for row in rows] == [None, None]
    assert all(len(row["killed"]) == 1 and row["killed"][0].startswith("checkpoint of ") for row in rows)
    assert "| sound | 2 | 2 | 0 | 2 |" in capsys.readouterr().out
    assert main(args, launch=lambda *_: pytest.fail("it was started again"))["rows"] == rows


def test_one_that_does_not_is_named(args):
    with pytest.raises(UserError, match="2 of 2 did not survive, the first of them forgetful: counted is another one"):
        main(dataclasses.replace(args, jobs=["forgetful"]))


def test_unknown_jobs_are_refused_before_any_work(args):
    with pytest.raises(UserError, match="--jobs stroll: one of train, "):
        main(dataclasses.replace(args, jobs=["stroll"]), launch=lambda *_: pytest.fail("it was started"))


def test_the_table_counts_kills_before_a_checkpoint():
    rows = [
        {"job": "train", "killed": ["no run folder yet", "checkpoint of original, step 3"], "difference": None},
        {"job": "train", "killed": ["run folder alone"], "difference": "model.pt is another one"},
    ]
    assert "| train | 2 | 3 | 2 | 1 |" in table(rows) and table(rows).endswith("1 of 2 survived")


def test_a_report_is_compared_without_what_belongs_to_one_run(tmp_path):
    told = []
    for number in range(2):
        run = tmp_path / str(number) / "run"
        run.mkdir(parents=True)
        own = dict.fromkeys(OF_ONE_RUN, number)
        report = {**own, "models": {"original": {"top1": 90.0}}, "cost": {"unlearned": {"seconds": number}}}
        (run / "report.json").write_text(json.dumps(report))
        (run / "metrics.jsonl").write_text(json.dumps({"step": 1, "loss": 0.5, "images_per_second": number}) + "\n")
        told.append(JOBS["train"].outcome(run.parent))
    assert told[0] == told[1]
    assert told[0]["report"]["models"] == {"original": {"top1": 90.0}}
    assert told[0]["figures"] == [{"step": 1, "loss": 0.5}]
