"""Scripts as processes: a fresh interpreter, as users start one, or a quick fork of one that has its imports behind it.

A fresh interpreter spends seconds on imports. `fork` asks a server, which has imported what the scripts import and
has done nothing else, for a child: a process all the same, with an exit status, streams and limits of its own.
"""

import dataclasses
import functools
import gc
import itertools
import multiprocessing
import os
import resource
import runpy
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

REPOSITORY = Path(__file__).parents[2]
TIMEOUT = 300
IMPORTED = (
    "helpers.processes", "train", "train_constrained_unlearning", "train_contrastive", "test", "torchvision",
    "matplotlib.pyplot", "PIL.Image", "sklearn.datasets", "sklearn.linear_model", "sklearn.model_selection",
    "torch.utils.tensorboard", "benchmarks.leaderboard.tune",
)  # fmt: skip
NOBODY = 65534
# The smallest classifier of the scripts.
SMALL = ("--model", "resnet8", "--width", 4)


@dataclasses.dataclass(frozen=True)
class Done:
    """What a process left behind: exit status (minus the signal that ended it), standard output, standard error."""

    status: int
    out: str
    err: str


@dataclasses.dataclass(frozen=True)
class Ran:
    """A script's process, and the run folder that it left."""

    done: Done
    folder: Path


def run(script: str, *flags: object, before: Callable[[], object] | None = None) -> Done:
    """Run a script in a fresh interpreter, from the repository's root, on one thread, `before` called in the child."""
    done = subprocess.run(
        [sys.executable, script, *map(str, flags)],
        cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, preexec_fn=before,
        capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr)


def fork(script: str | Path, *flags: object, before: Callable[[], object] | None = None) -> Done:
    """Run a script, or a module by its name, in a child of the server; `before`, pickled, is called in it first."""
    with tempfile.TemporaryDirectory() as folder:
        files = (f"{folder}/out", f"{folder}/err")
        child = _server().Process(target=_become, args=(str(script), [str(flag) for flag in flags], files, before))
        child.start()
        child.join(TIMEOUT)
        if child.exitcode is None:
            child.kill()
            child.join()
        out, err = (Path(file).read_text() for file in files)
    return Done(child.exitcode, out, err)


def fork_ranks(script: str, *flags: object, ranks: int = 2, before: Callable[[], object] | None = None) -> list[Done]:
    """Run a script in as many children at once, each of which is one rank; what each left behind, by its number."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with ThreadPoolExecutor(ranks) as pool:
        children = [
            pool.submit(fork, script, *flags, before=functools.partial(become_rank, rank, ranks, port, before))
            for rank in range(ranks)
        ]
        return [child.result() for child in children]


def become_rank(rank: int, ranks: int, port: int, before: Callable[[], object] | None = None) -> None:
    """Give this process the environment that torchrun would."""
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in names.items()})
    if before is not None:
        before()


@functools.cache
def _server() -> multiprocessing.context.BaseContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    return context


def _become(script: str, flags: list[str], files: tuple[str, str], before: Callable[[], object] | None) -> None:
    """The child: as `python script flags` with its output in two files."""
    import torch

    gc.freeze()
    judge_briefly()
    for stream, file in zip((1, 2), files, strict=True):
        os.dup2(os.open(file, os.O_WRONLY | os.O_CREAT), stream)
    os.chdir(REPOSITORY)
    # As in a terminal: what runs in the background of a shell ignores it, and so would this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    torch.set_num_threads(1)
    sys.argv = [script, *flags]
    if before is not None:
        before()
    start = runpy.run_path if os.path.exists(script) else runpy.run_module
    start(script, run_name="__main__")


def judge_briefly(patch: Callable = setattr) -> None:
    """Discriminators that judge learn in a few steps: in the scripts' runs, most of the time goes into them."""
    from contrastive_discrimination import held_out

    patch(held_out, "FEWEST_STEPS", 2)
    patch(held_out, "PASSES", 1)


def signal_at(number: int, name: str = "SIGKILL", patch: Callable = setattr) -> None:
    """Send this process a signal before its gradient step of this number."""
    at_step(number, functools.partial(signal.raise_signal, signal.Signals[name]), patch)


def at_step(number: int, action: Callable[[], object], patch: Callable = setattr) -> None:
    """Call a function before this process's gradient step of this number; `patch` as in `around_steps`."""
    from helpers.steps import around_steps

    numbers = itertools.count(1)

    def counted(trainer: object, step: Callable[[dict], dict], batch: dict) -> dict:
        if next(numbers) == number:
            action()
        return step(batch)

    around_steps(counted, patch)


class Holder:
    """Another process, which holds the lock of a folder until `end`, or until it is killed."""

    def __init__(self, folder: Path) -> None:
        self.pipe, its_own = multiprocessing.Pipe()
        self.process = _server().Process(target=_hold, args=(folder, its_own))
        self.process.start()
        its_own.close()
        self.pipe.recv()  # EOFError where it could not take the lock

    def end(self) -> None:
        """Have it end as a script does."""
        self.pipe.send(None)
        self.process.join(TIMEOUT)

    def __enter__(self) -> "Holder":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.join()


def _hold(folder: Path, pipe) -> None:
    from helper_functions.run_lock import RunLock

    with RunLock(folder, "test"):
        pipe.send(None)
        pipe.recv()


def limit_file_size(size: int) -> None:
    """No file of this process grows beyond so many bytes."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def print_into(path: str | None) -> None:
    """Standard output goes to a file, or, for None, to a reader who has left."""
    reader, writer = os.pipe()
    os.close(reader)
    os.dup2(writer if path is None else os.open(path, os.O_WRONLY), 1)


def onto_terminal(path: str) -> None:
    """Standard error goes to the terminal of this name."""
    os.dup2(os.open(path, os.O_WRONLY | os.O_NOCTTY), 2)


def become_nobody() -> None:
    """Give up the rights of root, where this is root."""
    if os.geteuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Every file and folder beneath a folder, by its path relative to it; None for folders."""
    found = sorted(folder.rglob("*"))
    return {str(path.relative_to(folder)): None if path.is_dir() else path.read_bytes() for path in found}


def assert_refused(done: Done, script: str, *parts: object) -> None:
    """Exit status 2 and one line on standard error, with the script's name and every part; nothing else was said."""
    assert done.status == 2, done
    assert done.err.startswith(f"{script}: error: ") and done.err.endswith("\n") and done.err.count("\n") == 1, done.err
    assert "Traceback" not in done.out
    for part in parts:
        assert str(part) in done.err


def only(folder: Path) -> Path:
    """The one folder in a folder."""
    (found,) = (path for path in folder.iterdir() if path.is_dir())
    return found
