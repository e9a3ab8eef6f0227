"""Fuzz every parser of what comes from outside: no traceback, no hang, nothing written.

    python -m benchmarks.fuzz --cases 100000 --seed 0
    python -m benchmarks.fuzz --target "forget list" --replay runs/fuzz/failure-0123456789ab

A case ends in a value or in a UserError, in time, without a file written, a process started or a connection made;
anything else is a failure, and its input is kept. hypothesis makes cases that look like the real thing; atheris, where
it is installed, goes by the branches that they take.
"""

import dataclasses
import importlib.util
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Literal

from helper_functions.config import PositiveInt, ScriptParser, Seed, run_script
from helper_functions.errors import UserError

ENGINES = ("hypothesis", "atheris")
COLUMNS = ("cases", "accepted", "refused", "failed", "slowest")


@dataclasses.dataclass
class Args:
    """How much is fuzzed, and what."""

    cases: PositiveInt = 100_000
    """Cases in all; each target and engine has an equal share."""
    seed: Seed = 0
    """Of both engines."""
    engine: Literal["both", *ENGINES] = "both"
    """both is hypothesis alone where atheris is not installed."""
    target: list[str] = dataclasses.field(default_factory=list)
    """Which parsers, by the names in the table; all by default."""
    log_dir: str = "runs/fuzz"
    """Folder for the inputs of failures."""
    replay: str | None = None
    """A file that failed, to be read again by the one --target; its traceback is shown."""


def get_parser() -> ScriptParser:
    """The command line of this benchmark."""
    return ScriptParser(Args, "benchmarks.fuzz", __doc__)


def main(args: Args) -> dict:
    """Fuzz, and print a Markdown table; gives each row's tally by target and engine."""
    from benchmarks.fuzz_targets import TARGETS

    for name in args.target:
        if name not in TARGETS:
            raise UserError(f"--target {name}: one of {', '.join(TARGETS)}")
    if args.replay is not None:
        return _replay(args, TARGETS)
    names, engines = args.target or list(TARGETS), _engines(args.engine)
    share = -(-args.cases // (len(names) * len(engines)))
    print(f"| target | engine | {' | '.join(COLUMNS)} |\n|---|---|{'---:|' * len(COLUMNS)}", flush=True)
    tallies = {}
    for name in names:
        for engine in engines:
            tallies[name, engine] = tally = _fuzz(engine, name, share, args)
            print(_row(name, engine, tally), flush=True)
    failures = [(name, line) for (name, _), tally in tallies.items() for line in tally["failures"]]
    totals = {key: sum(tally[key] for tally in tallies.values()) for key in COLUMNS[:-1]}
    print(_row("**all**", "", {**totals, "slowest": max(tally["slowest"] for tally in tallies.values())}))
    for name, line in failures:
        print(f"\n{name}: {line}")
    return {"tallies": tallies, "verdict": {"feasible": not failures}}


def _engines(asked: str) -> tuple[str, ...]:
    there = importlib.util.find_spec("atheris") is not None
    if asked == "atheris" and not there:
        raise UserError("--engine atheris: it is not installed; pip install -r requirements-dev.txt")
    return ENGINES[: 1 + there] if asked == "both" else (asked,)


def _fuzz(engine: str, name: str, cases: int, args: Args) -> dict:
    """The tally of one target by one engine, in a process of its own, since a case may end it."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["-m", "benchmarks.fuzz_engines", engine, name, str(cases), str(args.seed), folder]
        done = subprocess.run([sys.executable, *words], capture_output=True, text=True, errors="replace")
        found = sorted(Path(folder).glob("failure-*"))
        tally = _read(Path(folder) / "tally.json")
        if tally["cases"] < cases:
            # The case that was being read, beside what libFuzzer kept.
            tally["failed"] += 1
            tally["failures"].append(f"the process ended with status {done.returncode}: {done.stderr[-2000:]}")
            found += [path for path in Path(folder).rglob("*") if path.is_file() and "corpus" not in path.parts]
        for path in dict.fromkeys(found):
            Path(args.log_dir).mkdir(parents=True, exist_ok=True)
            shutil.copy(path, Path(args.log_dir) / path.name)
    return tally


def _read(path: Path) -> dict:
    empty = {**dict.fromkeys(COLUMNS, 0), "failures": []}
    return json.loads(path.read_text()) if path.exists() else empty


def _row(name: str, engine: str, tally: dict) -> str:
    counts = " | ".join(f"{tally[key]:,}" for key in COLUMNS[:-1])
    return f"| {name} | {engine} | {counts} | {tally['slowest'] * 1000:.0f} ms |"


def _replay(args: Args, targets: dict) -> dict:
    if len(args.target) != 1:
        raise UserError("--replay: name the one --target that the file is for")
    target = targets[args.target[0]]()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / target.file
        path.parent.mkdir(parents=True, exist_ok=True)
        target.prepare(Path(folder))
        shutil.copy(args.replay, path)
        print(target.read(path))
    return {}


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
