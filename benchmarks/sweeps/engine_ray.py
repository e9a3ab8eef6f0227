"""Cells of a sweep as Ray tasks; a cell whose worker or machine is lost starts again on another one.

All machines of a cluster see this repository, and the folders that cells name, at the same paths of one shared file
system. Results are sent to the caller, which writes each once. A new attempt continues from what the lost one saved.
"""

import contextlib
import fcntl
import importlib
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

# Read when Ray is imported: no usage statistics, and tasks run at normal priority as local processes do.
os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}

import ray
import torch
from ray import ObjectRef, exceptions
from ray.remote_function import RemoteFunction

from benchmarks.sweeps.sweep import outcome
from helper_functions.errors import UserError
from helper_functions.files import key_of
from helper_functions.progress import progress

ATTEMPTS = 5  # at a cell that kills every process that runs it
QUIET = {"log_to_driver": False, "logging_level": "error"}  # what a run prints is dropped, as in local processes


@contextlib.contextmanager
def joined(address: str | None, workers: int, gpus_per_run: float) -> Iterator[None]:
    """Join a Ray cluster, or start one of so many workers on this machine that ends with the context.

    Raises UserError where there is no such cluster, or no machine of it has that share of a GPU.
    """
    handler = signal.getsignal(signal.SIGTERM)
    if address is None:
        ray.init("local", num_cpus=workers, include_dashboard=False, **QUIET)
    else:
        _join(address)
    try:
        signal.signal(signal.SIGTERM, handler)  # Ray replaces it
        if gpus_per_run > max(node["Resources"].get("GPU", 0) for node in ray.nodes() if node["Alive"]):
            raise UserError(f"--gpus_per_run {gpus_per_run:g}: no machine of the cluster has a GPU; leave it out")
        yield
    finally:
        ray.shutdown()


def _join(address: str) -> None:
    host, _, port = address.rpartition(":")
    if address != "auto" and not (host and port.isdecimal()):
        raise UserError(f"--address {address}: auto, or HOST:PORT as ray start --head prints it")
    try:
        if address != "auto":
            # Ray itself retries for minutes.
            socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
        ray.init(address, **QUIET)
    except (exceptions.AuthenticationError, ConnectionError, OSError, OverflowError, RuntimeError, ValueError) as error:
        remedy = "ray start --head starts a cluster, and RAY_AUTH_MODE has to be the same here as there"
        raise UserError(f"--address {address}: {_first_sentence(error)}; {remedy}") from None


def _first_sentence(error: Exception) -> str:
    return " ".join(str(error).split()).partition(". ")[0]


def run_all(
    work: Callable[[dict], dict], cells: Iterable[dict], title: str, gpus_per_run: float, lock: Path
) -> Iterable[tuple]:
    """As `sweep.run_all`, by tasks of one thread each; a cell whose every worker is lost yields a UserError.

    Args:
        cells: in types that JSON has.
        gpus_per_run: share of a GPU that each one gets; with 0 it sees none.
        lock: file in which each cell has a byte that its attempts lock. A machine that the cluster has given up may
            still be at work on a cell; the next attempt waits for its end.
    """
    cells = list(cells)
    attempt = _task(work, gpus_per_run, lock)
    pending = {attempt.remote(cell): cell for cell in cells}
    for reference in progress(_as_finished(list(pending)), title, len(cells)):
        cell = pending.pop(reference)
        try:
            yield cell, *ray.get(reference)
        except (exceptions.NodeDiedError, exceptions.OutOfMemoryError, exceptions.WorkerCrashedError) as error:
            lost = f"{ATTEMPTS} workers were lost with it, one after the other ({_first_sentence(error)})"
            yield cell, None, UserError(lost)
        except exceptions.RayTaskError as error:
            raise error.cause from error


def _as_finished(pending: list[ObjectRef]) -> Iterator[ObjectRef]:
    while pending:
        finished, pending = ray.wait(pending)
        yield from finished


def _task(work: Callable[[dict], dict], gpus: float, lock: Path) -> RemoteFunction:
    here, path, name = os.getcwd(), list(sys.path), work.__qualname__
    module = sys.modules[work.__module__]
    module = module.__spec__.name if work.__module__ == "__main__" else module.__name__

    # A nested function is sent by value: a worker cannot import our modules before these lines.
    @ray.remote(num_cpus=1, num_gpus=gpus, max_retries=ATTEMPTS - 1, retry_exceptions=[exceptions.RaySystemError])
    def attempt(cell: dict) -> tuple:
        os.chdir(here)
        sys.path[:] = dict.fromkeys([*path, *sys.path])
        if not gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ""  # not every version of Ray does it
        own = importlib.import_module("benchmarks.sweeps.engine_ray")
        return own._attempt(getattr(importlib.import_module(module), name), cell, lock)

    return attempt


def _attempt(work: Callable[[dict], dict], cell: dict, lock: Path) -> tuple[object, UserError | None]:
    torch.set_num_threads(1)
    with _alone(cell, lock):
        return outcome(lambda: work(cell))


@contextlib.contextmanager
def _alone(cell: dict, lock: Path) -> Iterator[None]:
    """Wait until no other process on any machine runs this cell; the end of a process releases its lock."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    with open(lock, "ab") as file:
        fcntl.lockf(file, fcntl.LOCK_EX, 1, int(key_of(cell), 16) >> 2)  # the byte's place; until the file is closed
        yield
