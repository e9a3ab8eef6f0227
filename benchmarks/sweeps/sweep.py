"""Cells of a sweep, each a run of a script: finished ones are lines of a file, the others run here or on Ray."""

import contextlib
import dataclasses
import fcntl
import functools
import json
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import active_children, get_context, parent_process
from pathlib import Path
from typing import Literal

import torch

from helper_functions.config import ClosedUnitInterval, PositiveInt
from helper_functions.errors import NotFinite, UserError
from helper_functions.progress import progress
from helper_functions.run_folder import CHECKPOINT
from helper_functions.signals import Stopped, listening

# `run_all(work, cells, title=...)` yields `(cell, result, error)` as cells finish, as `run_all` below does.
RunAll = Callable[..., Iterable[tuple]]


@dataclasses.dataclass
class EngineArgs:
    """Where a sweep is run; the results do not depend on it."""

    engine: Literal["local", "ray"] = "local"
    """local is processes of this machine; ray is tasks of one thread each, on this machine or on a Ray cluster."""
    address: str | None = None
    """With --engine ray, the cluster to join: auto or HOST:PORT. Without one, Ray is started on this machine."""
    gpus_per_run: ClosedUnitInterval = 0.0
    """With --engine ray, a run's share of a GPU; with 0, runs are on the CPU."""
    workers: PositiveInt = 2
    """Processes of one thread each; 1 is a single one with all threads. A joined cluster has its own number."""

    def __post_init__(self) -> None:
        if self.engine == "local" and self.address is not None:
            raise UserError(f"--address {self.address}: there is no cluster to join without --engine ray")
        if self.engine == "local" and self.gpus_per_run:
            raise UserError(f"--gpus_per_run {self.gpus_per_run:g}: GPUs are shared out by --engine ray alone")


@contextlib.contextmanager
def engine_of(args: EngineArgs, log_dir: str) -> Iterator[RunAll]:
    """The engine's `run_all`, for as long as the context lasts; several machines share `log_dir`."""
    if args.engine == "local":
        yield functools.partial(run_all, workers=args.workers)
        return
    try:
        from benchmarks.sweeps import engine_ray
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise UserError("--engine ray: Ray is not installed; pip install -r requirements-cluster.txt") from None
    with engine_ray.joined(args.address, args.workers, args.gpus_per_run):
        lock = Path(log_dir).absolute() / "attempts.lock"
        yield functools.partial(engine_ray.run_all, gpus_per_run=args.gpus_per_run, lock=lock)


def command_line(flags: dict) -> list[str]:
    """Flags as on a command line; a list's values follow its name, and None is null."""
    argv = []
    for name, value in flags.items():
        words = map(str, value) if isinstance(value, list | tuple) else ["null" if value is None else str(value)]
        argv += [f"--{name}", *words]
    return argv


def begun_run(log_dir: str, name: str) -> Path | None:
    """The folder of a run of this name that has a checkpoint to go on from; None where there is none."""
    return next((path.parent for path in Path(log_dir).glob(f"{name}-*/{CHECKPOINT}")), None)


def read_rows(path: Path) -> dict[str, dict]:
    """Finished cells by key, from a file of JSON lines; an incomplete last line is dropped, others are a UserError."""
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
    for _, row in results_of(finished):
        rows[row["key"]] = row
        append_row(path, row)


def results_of(finished: Iterable[tuple]) -> Iterator[tuple[dict, object]]:
    """Cells and results out of what `run_all` yields; the first error is raised."""
    for cell, result, error in finished:
        if error is not None:
            raise error
        yield cell, result


def run_all(work: Callable[[dict], dict], cells: Iterable[dict], workers: int, title: str) -> Iterable[tuple]:
    """Run cells, in this process or in several of one thread each; yields `(cell, result, error)` as they finish.

    A cell that fails with a UserError or NotFinite yields the error in place of a result, and the others go on. When
    the caller stops, the processes save what they have done and end.

    Args:
        work: takes a cell; importable by its name, since other processes call it.
        workers: processes; 1 is this one, with all of its threads.
    """
    cells = list(cells)
    if workers == 1 or not cells:
        for cell in progress(cells, title):
            yield cell, *outcome(lambda cell=cell: work(cell))
        return
    children = set(active_children())
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=set_up_worker) as pool:
        try:
            # Ctrl-C stays blocked in the processes that start here: this one ends them.
            before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
            try:
                futures = {pool.submit(stoppable, work, cell): cell for cell in cells}
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, before)
            for future in progress(as_completed(futures), title, len(cells)):
                yield futures[future], *outcome(future.result)
        except BaseException:
            for child in set(active_children()) - children:
                child.terminate()
            pool.shutdown(cancel_futures=True)
            raise


def set_up_worker() -> None:
    """Use one thread, and end with the process that started this one."""

    def end_with_parent() -> None:
        parent_process().join()
        os._exit(1)

    torch.set_num_threads(1)  # so that figures do not depend on the number of workers
    threading.Thread(target=end_with_parent, daemon=True).start()


def stoppable(work: Callable[[dict], dict], cell: dict) -> dict:
    """Run a cell in a worker; SIGTERM ends the process as soon as the cell is saved."""
    with listening():
        try:
            return work(cell)
        except Stopped as stopped:
            os._exit(128 + stopped.number)  # or it would start the next cell


def outcome(result: Callable[[], object]) -> tuple[object, UserError | NotFinite | None]:
    """What a call returns, or the UserError or NotFinite that it raises."""
    try:
        return result(), None
    except (UserError, NotFinite) as error:
        return None, error
