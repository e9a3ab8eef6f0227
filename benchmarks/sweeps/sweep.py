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
    """Finished cells by key, from a file of JSON lines; an incomplete last line is dropped.

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
    """Append a finished cell to the file, under a lock; an incomplete last line of a killed process is cut off."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "ab+") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # until it is closed
        file.seek(0)
        content = file.read()
        file.truncate(content.rfind(b"\n") + 1)
        file.write((json.dumps(row, allow_nan=False) + "\n").encode())


def append_all(path: Path, rows: dict[str, dict], finished: Iterable[tuple]) -> None:
    """Append what `run_all` yields to the file and to `rows`; the first error is raised."""
    for _, row, error in finished:
        if error is not None:
            raise error
        rows[row["key"]] = row
        append_row(path, row)


def run_all(work: Callable[[dict], dict], cells: Iterable[dict], workers: int, title: str) -> Iterable[tuple]:
    """Run cells, in this process or in several of one thread each; yields `(cell, result, error)` as they finish.

    A cell that fails with a UserError or NotFinite yields the error in place of a result, and the others go on. When
    the caller stops, the processes save what they have done and end.

    Args:
        work: takes a cell; importable by its name, since other processes call it.
        cells: its arguments.
        workers: processes; 1 is this one, with all of its threads.
        title: of the progress bar.
    """
    cells = list(cells)
    if workers == 1 or not cells:
        for cell in progress(cells, len(cells), title):
            yield cell, *outcome(lambda cell=cell: work(cell))
        return
    before = set(active_children())
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=set_up_worker) as pool:
        try:
            with _without_interrupts():
                futures = {pool.submit(stoppable, work, cell): cell for cell in cells}
            for future in progress(as_completed(futures), len(cells), title):
                yield futures[future], *outcome(future.result)
        except BaseException:
            for child in set(active_children()) - before:
                child.terminate()
            pool.shutdown(cancel_futures=True)
            raise


@contextlib.contextmanager
def _without_interrupts() -> Iterator[None]:
    """Block Ctrl-C inside, and in processes that start there for good: this process ends them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def set_up_worker() -> None:
    """Use one thread, and end with the process that started this one."""

    def end_with_parent() -> None:
        parent_process().join()
        os._exit(1)

    one_thread()
    threading.Thread(target=end_with_parent, daemon=True).start()


def stoppable(work: Callable[[dict], dict], cell: dict) -> dict:
    """Run a cell in a worker; SIGTERM ends the process as soon as the cell is saved."""
    with listening():
        try:
            return work(cell)
        except Stopped as stopped:
            os._exit(128 + stopped.number)  # or it would start the next cell


def progress(finished: Iterable, total: int, title: str) -> Iterable:
    """The same with a progress bar on a terminal."""
    return tqdm(finished, total=total, desc=title, disable=not sys.stderr.isatty())


def outcome(result: Callable[[], object]) -> tuple[object, UserError | NotFinite | None]:
    """What a call returns, or the UserError or NotFinite that it raises."""
    try:
        return result(), None
    except (UserError, NotFinite) as error:
        return None, error


def one_thread() -> None:
    """Compute on one thread, so that figures do not depend on the number of workers."""
    torch.set_num_threads(1)
