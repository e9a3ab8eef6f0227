"""Cells of a sweep: each runs a script's main once and leaves a line; finished ones are not run again."""

import contextlib
import fcntl
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path

import torch
from tqdm import tqdm

from helper_functions.errors import NotFinite, UserError
from helper_functions.signals import Stopped, listening


def command_line(flags: dict) -> list[str]:
    """Flags as on a command line; a list's values follow its name, and None is null."""
    argv = []
    for name, value in flags.items():
        words = map(str, value) if isinstance(value, list | tuple) else ["null" if value is None else str(value)]
        argv += [f"--{name}", *words]
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

    A cell that cannot be run leaves its error in place of a result, and the others go on. When the caller stops, so do
    the processes, and what they have done of their cells is kept.

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
    before = set(active_children())
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=serve) as pool:
        try:
            with _without_interrupts():
                futures = {pool.submit(stoppable, work, cell): cell for cell in cells}
            for future in progress(as_completed(futures), len(cells), title):
                yield futures[future], *outcome(future.result)
        except BaseException:  # whoever asked for them will ask no more
            for child in set(active_children()) - before:
                child.terminate()
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Inside, a Ctrl-C has to wait, and for processes that begin there, for ever: the one that began them ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def serve() -> None:
    """Be a process of a sweep: of one thread, and not to outlive the process that started it."""
    one_thread()
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent_process().join()
    os._exit(1)


def stoppable(work: Callable[[dict], dict], cell: dict) -> dict:
    """Run a cell in a process of a sweep; SIGTERM ends the process as soon as everything of the cell is saved."""
    with listening():
        try:
            return work(cell)
        except Stopped as stopped:
            os._exit(128 + stopped.number)  # a further cell may be waiting


def progress(finished: Iterable, total: int, title: str) -> Iterable:
    """The same with a progress bar, where somebody is watching."""
    return tqdm(finished, total=total, desc=title, disable=not sys.stderr.isatty())


def outcome(result: Callable[[], object]) -> tuple[object, UserError | NotFinite | None]:
    """What a call gives, or the error that it raises where that is about this cell alone."""
    try:
        return result(), None
    except (UserError, NotFinite) as error:
        return None, error


def one_thread() -> None:
    """Have this process compute on one thread, so that its figures are those of any other such process."""
    torch.set_num_threads(1)
