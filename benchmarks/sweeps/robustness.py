"""Is the budget kept whatever the other flags are? Learning rates x batch sizes x solvers x forget sets x seeds.

    python -m benchmarks.sweeps.robustness --output docs/robustness_digits.jsonl
    python -m benchmarks.sweeps.robustness --output docs/robustness_digits.jsonl --summary True

Each cell runs train_constrained_unlearning.py's main and appends one line; finished cells are skipped.
"""

import dataclasses
import itertools
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where this file is run by its path

import train_constrained_unlearning as script
from benchmarks.leaderboard.cells import short
from benchmarks.sweeps.sweep import append_all, command_line, read_rows, results_of, run_all
from helper_functions.code_version import code_words
from helper_functions.config import PositiveFloat, PositiveInt, ScriptParser, run_script
from helper_functions.files import key_of
from helper_functions.run_folder import run_quietly
from optimizer.solver import SOLVERS
from unlearning.arguments import FORGET_EPOCHS

# Of each model, what a row keeps: of forgotten classes, test images of the others are measured.
FIGURES = ("retain_top1", "forget_top1", "test_top1", "test_remaining_top1")


@dataclasses.dataclass
class Args:
    """Flags of benchmarks/sweeps/robustness.py."""

    output: str = "docs/robustness_digits.jsonl"
    """JSON lines, one a cell; finished cells are skipped."""
    config_file_of_runs: str = "configs/quickstart.yaml"
    """Flags of all cells."""
    forget: list[str] = dataclasses.field(default_factory=lambda: ["mislabelled:0.1", "class:3"])
    """Forget sets."""
    learning_rate: list[PositiveFloat] = dataclasses.field(default_factory=lambda: [0.001, 0.003, 0.01, 0.03, 0.1])
    """Learning rates of unlearning."""
    batch_size: list[PositiveInt] = dataclasses.field(default_factory=lambda: [32, 128])
    """Batch sizes of unlearning."""
    seeds: PositiveInt = 5
    """Originals, each with its own splits and weights."""
    log_dir: str = "runs/robustness"
    """Folder of originals and runs."""
    workers: PositiveInt = 2
    """Processes of one thread each; 1 is a single one with all threads."""
    summary: bool = False
    """Only print the table of the cells in --output."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.sweeps.robustness", __doc__)


def main(args: Args) -> dict:
    """Run the missing cells, print the table; returns the cells."""
    rows = read_rows(Path(args.output))
    if not args.summary:
        names = ("forget", "solver", "batch_size", "learning_rate", "seed")
        values = itertools.product(args.forget, SOLVERS, args.batch_size, args.learning_rate, range(args.seeds))
        # The flags that vary are those of forgetting, which target chance leaves to fine-tuning by default.
        passes = {"num_epochs": FORGET_EPOCHS["zero"]}
        cells = (dict(zip(names, each, strict=True)) | passes for each in values)
        missing = [cell for cell in cells if key_of(cell) not in rows]
        # Originals first, so that no two cells train the same one.
        originals = sorted({(cell["forget"], cell["seed"]) for cell in missing})
        asked = [{"forget": forget, "seed": seed, "args": args} for forget, seed in originals]
        list(results_of(run_all(_original, asked, args.workers, "originals")))
        asked = [{"cell": cell, "args": args} for cell in missing]
        append_all(Path(args.output), rows, run_all(_run, asked, args.workers, "cells"))
    print(summary(list(rows.values())))
    return {"cells": list(rows.values())}


def _main(args: Args, name: str, **flags) -> tuple[Path, dict]:
    flags = {"log_dir": args.log_dir, "figures": False, "retrain": False, **flags}
    return run_quietly(script, ["--config_file", args.config_file_of_runs, *command_line(flags)], name)


def _original(asked: dict) -> Path:
    """The folder of a finished original; trained now where there is none."""
    args, forget, seed = asked["args"], asked["forget"], asked["seed"]
    name = f"original-{forget.replace(':', '_')}-{seed}"
    finished = list(Path(args.log_dir).glob(f"{name}-*/report.json"))
    if finished:
        return finished[0].parent
    return _main(args, name, forget=forget, seed=seed, untrain=False, retrain=True)[0]


def _run(asked: dict) -> dict:
    args, cell, key = asked["args"], asked["cell"], key_of(asked["cell"])
    folder = _original({**cell, "args": args})
    weights = {"weight_path": folder / "original.pt", "retrained_weight_path": folder / "retrained.pt"}
    _, report = _main(args, f"cell-{key}", **cell, **weights)
    models = {name: {key: found[key] for key in FIGURES if key in found} for name, found in report["models"].items()}
    figures = {"code": code_words(report["run"]["code"]), "verdict": report["verdict"], "models": models}
    return {"key": key, **cell, **short(figures | {"seconds": report["cost"]["unlearned"]["seconds"]})}


def summary(rows: list[dict]) -> str:
    """Markdown: a line for each forget set and solver, means over all other flags and seeds (worst run)."""
    lines = ["forget | solver | n | kept | forgotten | retain fall | forget, given labels | test change",
             "---|---|---:|---:|---:|---:|---:|---:"]  # fmt: skip

    def place(row: dict) -> tuple:
        return row["forget"], list(SOLVERS).index(row["solver"])

    groups = itertools.groupby(sorted(rows, key=place), place)
    return "\n".join(lines + [_line(list(cells)) for _, cells in groups])


def _line(cells: list[dict]) -> str:
    def test(cell: dict, model: str) -> float:
        figures = cell["models"][model]
        return figures.get("test_remaining_top1", figures["test_top1"])

    counts = [len(cells), *(sum(cell["verdict"][name] for cell in cells) for name in ("feasible", "forgotten"))]
    columns = [
        ([cell["verdict"]["retain_budget"] - cell["verdict"]["slack"] for cell in cells], ".2f", max),
        ([cell["models"]["unlearned"]["forget_top1"] for cell in cells], ".1f", max),
        ([test(cell, "unlearned") - test(cell, "original") for cell in cells], "+.2f", min),
    ]
    words = [cells[0]["forget"], cells[0]["solver"], *map(str, counts)]
    words += [f"{statistics.mean(values):{form}} ({worst(values):{form}})" for values, form, worst in columns]
    return " | ".join(words)


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main, goes_on=True))
