"""Runs from Python: a script called without output, and a run's scalars as arrays."""

import contextlib
import io
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

import numpy as np

from helper_functions.errors import UserError
from helper_functions.signals import run_under_way

# The weights that a run ends with, where they keep the budget and where they do not.
RESULT, INFEASIBLE = "model.pt", "infeasible.pt"


def run_quietly(script: ModuleType, flags: Sequence[object], name: str) -> tuple[Path, dict]:
    """Call a script's `main` with flags as on its command line, and `name` as --name_prefix; discard its output.

    Returns the run folder, that of `--resume` or the one that it made, and the report.
    """
    args = script.get_parser().parse([*map(str, flags), "--name_prefix", name])
    with contextlib.redirect_stdout(io.StringIO()):
        report = script.main(args)
    return run_under_way.folder, report


def result_weights(folder: str | Path) -> Path:
    """The weights that a finished run ended with, whether they keep the budget or not."""
    infeasible = Path(folder) / INFEASIBLE
    return infeasible if infeasible.is_file() else Path(folder) / RESULT


def read_scalars(folder: str | Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """A run's TensorBoard scalars by name: steps int64 `[n]` and values float64 `[n]`, in the order of the steps."""
    from tensorboard.backend.event_processing.event_accumulator import SCALARS, EventAccumulator

    if not list(Path(folder).glob("events.out.tfevents.*")):
        raise UserError(f"{folder}: no TensorBoard events are there; name a run folder")
    # The default is a sample of 10,000 of each name.
    events = EventAccumulator(str(folder), size_guidance={SCALARS: 0}).Reload()
    found = {}
    for name in events.Tags()["scalars"]:
        rows = sorted(events.Scalars(name), key=lambda event: event.step)
        found[name] = np.array([row.step for row in rows], np.int64), np.array([row.value for row in rows], np.float64)
    return found
