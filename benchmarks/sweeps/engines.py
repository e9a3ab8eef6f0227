"""Where a sweep's cells are run: in processes of this machine, or as tasks of a Ray cluster."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Literal

from benchmarks.sweeps import sweep
from helper_functions.config import ClosedUnitInterval, PositiveInt
from helper_functions.errors import UserError

# `run_all(work, cells, title=...)` yields `(cell, result, error)` as cells finish, as `sweep.run_all` does.
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
    """The engine's `run_all`, for as long as the context lasts.

    Args:
        args: the flags.
        log_dir: of the sweep; on several machines in a file system that they share.

    Raises:
        UserError: Ray is not installed, or there is no such cluster.
    """
    if args.engine == "local":
        yield functools.partial(sweep.run_all, workers=args.workers)
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
