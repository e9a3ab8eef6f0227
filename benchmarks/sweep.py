"""Cells of a sweep: each runs a script's main once and leaves a line; finished ones are not run again."""

import fcntl
import hashlib
import json
import sys
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import torch
from tqdm import tqdm

from helper_functions.errors import UserError


def key_of(cell: dict) -> str:
    """Sixteen hexadecimal digits that change with any value of a cell."""
    return hashlib.sha256(json.dumps(cell, sort_keys=True).encode()).hexdigest()[:16]


def command_line(flags: dict) -> list[str]:
    """Flags as on a command line; a list's values follow its name."""
    argv = []
    for name, value in flags.items():
        argv += [f"--{name}", *(map(str, value) if isinstance(value, list | tuple) else [str(value)])]
    return argv


def read_rows(path: Path) -> dict[str, dict]:
    """Finished cells by key, from a file of JSON lines; a last line that was cut short is dropped.

    Raises:
        UserError: a line that is no finished cell.
    """
    rows = {}
    lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line.decode())
            rows[row["key"]] = row
        except (ValueError, KeyError, TypeError, RecursionError):
            if number == len(lines) and not line.endswith(b"\n"):
                break
            raise UserError(f"{path}: line {number} is no finished cell; name another file") from None
    return rows


def append_row(path: Path, row: dict) -> None:
    """Add a finished cell to the file, which several processes may do; what a killed one had begun is cut off first."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
        file.write((json.dumps(row, allow_nan=False) + "\n").encode())


def run_all(work: Callable[[dict], dict], cells: Iterable[dict], workers: int, title: str) -> Iterable[tuple]:
    """Run cells, in this process or in several of one thread each; yields `(cell, result, error)` as they finish.

    A cell that cannot be run leaves its UserError in place of a result, and the others go on.

    Args:
        work: takes a cell; importable by its name, since other processes call it.
        cells: what it is called with.
        workers: processes; 1 is this one, with all of its threads.
        title: of the progress bar.
    """
    cells = list(cells)
    if workers == 1 or not cells:
        for cell in progress(cells, len(cells), title):
            yield cell, *outcome(lambda cell=cell: work(cell))
        return
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=one_thread) as pool:
        futures = {pool.submit(work, cell): cell for cell in cells}
        for future in progress(as_completed(futures), len(cells), title):
            yield futures[future], *outcome(future.result)


def progress(finished: Iterable, total: int, title: str) -> Iterable:
    """The same with a progress bar, where somebody is watching."""
    return tqdm(finished, total=total, desc=title, disable=not sys.stderr.isatty())


def outcome(result: Callable[[], object]) -> tuple[object, UserError | None]:
    """What a call gives, or the UserError that it raises."""
    try:
        return result(), None
    except UserError as error:
        return None, error


def one_thread() -> None:
    """Have this process compute on one thread, so that its figures are those of any other such process."""
    torch.set_num_threads(1)
