"""Runs from Python: a script called without output, and a run's figures as arrays."""

import contextlib
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from helper_functions.errors import UserError
from helper_functions.signals import run_under_way

# The weights that a run ends with: the result, those that break the budget, those that keep it but have not forgotten.
RESULT, INFEASIBLE, NOT_FORGOTTEN = RESULTS = ("model.pt", "infeasible.pt", "not_forgotten.pt")
# What a run that has forgotten removes, since it holds the forget set's influence. The checkpoint goes last: up to then
# --resume finishes the run.
TRACES = ORIGINAL, REWOUND, CHECKPOINT = ("original.pt", "rewound.pt", "checkpoint.pt")
# A copy of the file of the user's own method.
CODE = "method.py"
# Characters of a run folder's name that come from a method, or from a forget set.
LONGEST_PART = 32


def as_name(text: str) -> str:
    """A text as part of a file's or a folder's name: everything but letters, digits, `_`, `.`, `+` and `-` is `_`."""
    return re.sub(r"[^\w.+-]+", "_", text, flags=re.ASCII).strip("._-") or "_"


def run_name(*parts: str) -> str:
    """The beginning of a run folder's name: script, method and forget set, or what there is of them."""
    return "-".join(as_name(part)[:LONGEST_PART] for part in parts if part)


def run_quietly(script: ModuleType, flags: Sequence[object], name: str) -> tuple[Path, dict]:
    """Call a script's `main` with flags as on its command line, and `name` as --name_prefix; discard its output.

    Returns the run folder, that of `--resume`, which stands alone, or the one that it made, and the report.
    """
    argv = [*map(str, flags)]
    args = script.get_parser().parse(argv if "--resume" in argv else [*argv, "--name_prefix", name])
    with contextlib.redirect_stdout(io.StringIO()):
        report = script.main(args)
    return run_under_way.folder, report


def result_weights(folder: str | Path) -> Path:
    """The weights that a finished run ended with, whatever its verdict; `model.pt` where there are none."""
    paths = [Path(folder) / name for name in RESULTS]
    return next((path for path in paths if path.is_file()), paths[0])


def read_scalars(folder: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A run's figures by name: steps int64 `[n]` and values float64 `[n]`, as `metrics.jsonl` has them."""
    path, rows, found = Path(folder) / "metrics.jsonl", {}, {}
    if not path.is_file():
        raise UserError(f"{folder}: no metrics.jsonl is there; name a run folder")
    for line in map(json.loads, path.read_text().splitlines()):
        for name in line.keys() - {"step"}:
            rows.setdefault(name, []).append((line["step"], line[name]))
    for name, points in rows.items():
        steps, values = zip(*points, strict=True)
        found[name] = np.array(steps, np.int64), np.array(values, np.float64)
    return found
