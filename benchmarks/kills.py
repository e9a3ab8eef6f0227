"""Kill the scripts at random moments, let them go on, and compare with runs that nobody killed, bit for bit.

    python -m benchmarks.kills --times 50
    nice -n 19 python -m benchmarks.kills --times 50

A moment is drawn uniformly from the processor time that the uninterrupted run takes, imports included, so that it does
not depend on what else the machine does. Every third run is killed a second time. Needs Linux's /proc.
"""

import dataclasses
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.kill_jobs import JOBS, Job, original_of
from benchmarks.speed.processor_time import processor_time
from benchmarks.sweeps.sweep import append_row, read_rows
from data.random_streams import random_state
from helper_functions.config import PositiveInt, ScriptParser, Seed, run_script
from helper_functions.errors import UserError
from helper_functions.keys import key_of

# Seconds between two looks at a process's clock.
INTERVAL = 0.005
# A run that has not come to its end after so many starts never will.
MOST_STARTS = 6


@dataclasses.dataclass
class Args:
    """Flags of benchmarks/kills.py."""

    times: PositiveInt = 50
    """Runs that are killed, dealt out to the jobs in turn."""
    jobs: list[str] = dataclasses.field(default_factory=lambda: list(JOBS))
    """What is run: training, the methods, the contrastive modes, a leaderboard."""
    seed: Seed = 0
    """Of the moments."""
    output: str = "docs/kills.jsonl"
    """JSON lines, one a run; those that stand there are not run again."""
    log_dir: str = "runs/kills"
    """Where the runs are made."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.kills", __doc__)


def launch(argv: list[str], log: Path) -> subprocess.Popen:
    """A fresh interpreter that runs a script, what it says in a file."""
    with open(log, "ab") as file:
        return subprocess.Popen([sys.executable, *argv], stdout=file, stderr=file)


Launch = Callable[[list[str], Path], subprocess.Popen]


def main(args: Args, launch: Launch = launch) -> dict:
    """Run what is missing, print the table; returns the rows.

    Raises:
        UserError: an unknown job, or a run that did not survive.
    """
    if unknown := [name for name in args.jobs if name not in JOBS]:
        raise UserError(f"--jobs {unknown[0]}: one of {', '.join(JOBS)}")
    output, names = Path(args.output), [args.jobs[number % len(args.jobs)] for number in range(args.times)]
    trials = [{"job": name, "number": number, "seed": args.seed} for number, name in enumerate(names)]
    known, weights, whole = read_rows(output), None, {}
    for trial in trials:
        if (key := key_of(trial)) not in known:
            job = JOBS[trial["job"]]
            weights = weights or original_of(args.log_dir, launch)
            if trial["job"] not in whole:
                whole[trial["job"]] = _uninterrupted(job, Path(args.log_dir) / "whole" / trial["job"], weights, launch)
            known[key] = {"key": key, **trial, **_killed(job, trial, args.log_dir, weights, whole, launch)}
            append_row(output, known[key])
            print(json.dumps(known[key]), flush=True)
    rows = [known[key_of(trial)] for trial in trials]
    print(table(rows))
    if lost := [row for row in rows if row["difference"]]:
        first = f"{lost[0]['job']}: {lost[0]['difference']}"
        raise UserError(f"{len(lost)} of {len(rows)} did not survive, the first of them {first}")
    return {"rows": rows}


def _uninterrupted(job: Job, folder: Path, weights: Path, launch: Launch) -> dict:
    """What a job gives when nobody kills it, and the processor time that it takes."""
    folder.mkdir(parents=True, exist_ok=True)
    process = launch(job.command(folder, weights), folder / "said.txt")
    seconds, status = _watch(process)
    if status not in (0, 3):
        raise UserError(f"{folder}/said.txt: the uninterrupted run ended with status {status}")
    return {"seconds": seconds, "status": status, "outcome": job.outcome(folder)}


def _killed(job: Job, trial: dict, log_dir: str, weights: Path, whole: dict, launch: Launch) -> dict:
    """A run that is killed, once or twice, and goes on to its end: where it was then, and what is different."""
    expected, folder = whole[trial["job"]], Path(log_dir) / f"{trial['seed']}-{trial['number']}-{trial['job']}"
    draw = random_state(trial["seed"], "kill", trial["number"])
    moments = [round(float(share), 4) for share in draw.uniform(size=2 if trial["number"] % 3 == 2 else 1)]
    places, status, pending = [], None, list(moments)
    shutil.rmtree(folder, ignore_errors=True)
    for _ in range(MOST_STARTS):
        folder.mkdir(parents=True, exist_ok=True)
        process = launch(job.again(folder, weights), folder / "said.txt")
        _, status = _watch(process, pending[0] * expected["seconds"] if pending else None)
        if status == -signal.SIGKILL:
            places.append(job.place(folder))
            pending.pop(0)
        elif status not in (0, 3) or places:
            break
        else:  # it was quicker than the uninterrupted run
            shutil.rmtree(folder)
            pending[0] *= 0.9
    difference = _difference(expected, status, job, folder)
    return {"moments": moments, "seconds": round(expected["seconds"], 2), "killed": places, "difference": difference}


def _difference(expected: dict, status: int, job: Job, folder: Path) -> str | None:
    """What tells a run from the one that nobody killed, in words; None where nothing does."""
    if status != expected["status"]:
        return f"it ended with status {status}; {folder}/said.txt has what it said"
    found = job.outcome(folder)
    for name, value in expected["outcome"].items():
        other = found.get(name)
        same = torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
        if not same:
            return f"{name} is another one in {folder}"
    return job.left_over(folder)


def _watch(process: subprocess.Popen, limit: float | None = None) -> tuple[float, int]:
    """Wait for a process, or kill it when it has had its share of processor time; its last reading and its status."""
    seconds = 0.0
    while process.poll() is None:
        seconds = max(seconds, processor_time(process.pid))
        if limit is not None and seconds >= limit:
            process.kill()
            break
        time.sleep(INTERVAL)
    return seconds, process.wait()


def table(rows: list[dict]) -> str:
    """Markdown: for each job, how many runs were killed and where, and how many survived."""
    lines = ["| job | runs | kills | before a checkpoint | survived |", "|---|---:|---:|---:|---:|"]
    for name in dict.fromkeys(row["job"] for row in rows):
        own = [row for row in rows if row["job"] == name]
        places = [place for row in own for place in row["killed"]]
        early = sum("checkpoint" not in place for place in places)
        survived = sum(row["difference"] is None for row in own)
        lines.append(f"| {name} | {len(own)} | {len(places)} | {early} | {survived} |")
    survived = sum(row["difference"] is None for row in rows)
    return "\n".join([*lines, "", f"{survived} of {len(rows)} survived"])


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main, goes_on=True))
