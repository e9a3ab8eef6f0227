"""Is the budget kept whatever the other flags are? Learning rates x batch sizes x solvers x forget sets x seeds.

    python -m benchmarks.sweeps.robustness --output docs/robustness_digits.jsonl
    python -m benchmarks.sweeps.robustness --output docs/robustness_digits.jsonl --summary True

Each cell runs train_constrained_unlearning.py's main and appends one line; a stopped sweep goes on where it was.
"""

import dataclasses
import itertools
import sys
from pathlib import Path

import train_constrained_unlearning as script
from benchmarks.leaderboard.cells import short
from benchmarks.sweeps.sweep import append_row, command_line, read_rows, run_all
from helper_functions.config import PositiveFloat, PositiveInt, ScriptParser, run_script
from helper_functions.files import key_of
from helper_functions.run_folder import run_quietly
from optimizer.solver import SOLVERS


@dataclasses.dataclass
class Args:
    """Flags of benchmarks/sweeps/robustness.py."""

    output: str = "docs/robustness_digits.jsonl"
    """JSON lines, one a cell; cells that stand there are not run again."""
    config_file_of_runs: str = "configs/quickstart.yaml"
    """Flags that all cells share."""
    forget: list[str] = dataclasses.field(default_factory=lambda: ["mislabelled:0.1", "class:3"])
    """Forget sets."""
    learning_rate: list[PositiveFloat] = dataclasses.field(default_factory=lambda: [0.001, 0.003, 0.01, 0.03, 0.1])
    """Learning rates of unlearning."""
    batch_size: list[PositiveInt] = dataclasses.field(default_factory=lambda: [32, 128])
    """Batch sizes of unlearning."""
    seeds: PositiveInt = 5
    """Originals, with splits and weights of their own."""
    log_dir: str = "runs/robustness"
    """Where originals and runs are kept."""
    workers: PositiveInt = 2
    """Processes of one thread each; 1 is a single one with all threads."""
    summary: bool = False
    """Only print the table of what stands in --output."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.sweeps.robustness", __doc__)


def main(args: Args) -> dict:
    """Run the missing cells, print the table; returns the cells."""
    output = Path(args.output)
    finished = read_rows(output)
    if not args.summary:
        missing = [cell for cell in _cells(args) if key_of(cell) not in finished]
        # Originals first, each once, so that no two cells train the same one.
        originals = sorted({(cell["forget"], cell["seed"]) for cell in missing})
        asked = [{"forget": forget, "seed": seed, "args": args} for forget, seed in originals]
        for _, _, error in run_all(_original, asked, args.workers, "originals"):
            if error is not None:
                raise error
        for _, row, error in run_all(_run, [{"cell": cell, "args": args} for cell in missing], args.workers, "cells"):
            if error is not None:
                raise error
            finished[row["key"]] = row
            append_row(output, row)
    print(summary(list(finished.values())))
    return {"cells": list(finished.values())}


def _cells(args: Args) -> list[dict]:
    names = ("forget", "solver", "batch_size", "learning_rate", "seed")
    values = (args.forget, list(SOLVERS), args.batch_size, args.learning_rate, range(args.seeds))
    return [dict(zip(names, combination, strict=True)) for combination in itertools.product(*values)]


def _main(args: Args, name: str, **flags) -> tuple[Path, dict]:
    flags = {"log_dir": args.log_dir, "figures": False, "retrain": False, **flags}
    return run_quietly(script, ["--config_file", args.config_file_of_runs, *command_line(flags)], name)


def _folder(args: Args, forget: str, seed: int) -> Path | None:
    name = f"original-{forget.replace(':', '_')}-{seed}"
    return next((path.parent for path in Path(args.log_dir).glob(f"{name}-*/report.json")), None)


def _original(asked: dict) -> None:
    args, forget, seed = asked["args"], asked["forget"], asked["seed"]
    if _folder(args, forget, seed) is None:
        name = f"original-{forget.replace(':', '_')}-{seed}"
        _main(args, name, forget=forget, seed=seed, untrain=False, retrain=True)


def _run(asked: dict) -> dict:
    args, cell = asked["args"], asked["cell"]
    folder, key = _folder(args, cell["forget"], cell["seed"]), key_of(cell)
    weights = {"weight_path": folder / "original.pt", "retrained_weight_path": folder / "retrained.pt"}
    _, report = _main(args, f"cell-{key}", **cell, **weights)
    figures = {"verdict": report["verdict"], "models": report["models"]}
    figures |= {"safeguard": len(report["forget"]["safeguard"]), "seconds": report["cost"]["unlearned"]["seconds"]}
    return {"key": key, **cell, **short(figures)}


def summary(rows: list[dict]) -> str:
    """Markdown: a line for each forget set, solver, batch size and learning rate, means over seeds (worst seed)."""
    lines = [
        "| forget | solver | batch | lr | n | in budget | retain fall | forget, given | forget, true "
        "| test, kept classes | its change | gap to retrained | went back |",
        "|---|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    groups: dict[tuple, list[dict]] = {}
    for row in rows:
        place = (row["forget"], list(SOLVERS).index(row["solver"]), row["batch_size"], row["learning_rate"])
        groups.setdefault(place, []).append(row)
    lines += [_line(*place, cells) for place, cells in sorted(groups.items())]
    return "\n".join(lines)


def _line(forget: str, solver: int, batch_size: int, rate: float, cells: list[dict]) -> str:
    def test(cell: dict, model: str) -> float:
        figures = cell["models"][model]
        return figures.get("test_remaining_top1", figures["test_top1"])

    falls = [cell["verdict"]["retain_budget"] - cell["verdict"]["slack"] for cell in cells]
    given = [cell["models"]["unlearned"]["forget_top1"] for cell in cells]
    true = [cell["models"]["unlearned"]["forget_true_top1"] for cell in cells]
    tests = [test(cell, "unlearned") for cell in cells]
    changes = [test(cell, "unlearned") - test(cell, "original") for cell in cells]
    gaps = [test(cell, "unlearned") - test(cell, "retrained") for cell in cells]
    kept = sum(cell["verdict"]["feasible"] for cell in cells)
    values = [
        f"{_mean(falls):.2f} ({max(falls):.2f})",
        f"{_mean(given):.1f} ({max(given):.1f})",
        f"{_mean(true):.1f} ({min(true):.1f})",
        f"{_mean(tests):.1f} ({min(tests):.1f})",
        f"{_mean(changes):+.2f} ({min(changes):+.2f})",
        f"{_mean(gaps):+.2f} ({min(gaps):+.2f})",
        f"{sum(cell['safeguard'] for cell in cells)}",
    ]
    name = list(SOLVERS)[solver]
    head = f"| {forget} | {name} | {batch_size} | {rate:g} | {len(cells)} | {kept}/{len(cells)} | "
    return head + " | ".join(values) + " |"


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main, goes_on=True))
