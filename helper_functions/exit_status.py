"""The exit status of a script, and the one line that says why."""

import contextlib
import io
import os
import shlex
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch.distributed as dist
from torch.distributed.distributed_c10d import _get_default_store

from helper_functions.errors import NotFinite, UserError
from helper_functions.progress import shown
from helper_functions.safe_files.printable import one_line
from helper_functions.signals import Stopped, listening, run_under_way
from helper_functions.training.devices import lacks_determinism
from helper_functions.training.distribution import is_main, process_group, rank, wait_for_main, world_size

if TYPE_CHECKING:
    from helper_functions.config import ScriptParser

# Seconds in which rank 0 reports an error that all ranks have, and in which torchrun detects the rank that died first.
PATIENCE = 3.0
# Keys in the store that all ranks share: rank 0's error, and how many ranks have read it.
ERROR, READERS = "error of rank 0", "ranks that have read it"


def run_script(get_parser: Callable[[], "ScriptParser"], main: Callable[..., dict], *, goes_on: bool = False) -> int:
    """Parse the command line, run `main`, and give the exit status.

    0: done. 1: a failure while running, such as NaN, or a rank that lost another. 2: a request that cannot be carried
    out. 3: a result outside the stated budget (`main` gives `{"verdict": {"feasible": False}}`), or a report that does
    not hold (`{"holds": False}`). 4: within the budget, but not forgotten (`{"verdict": {"forgotten": False}}`). 130
    and 143: stopped by SIGINT or SIGTERM. 141: the reader of the output has closed it. One line says why for 1, 2, 130
    and 143. `goes_on`: the same command continues an interrupted run.
    """
    parser = get_parser()
    threading.excepthook = _leave_os_errors_to_main
    if isinstance(sys.stdout, io.TextIOWrapper):
        with contextlib.suppress(OSError):  # the file beneath was exchanged for a pipe
            # A terminal may have ASCII alone.
            sys.stdout.reconfigure(errors="backslashreplace")
    with process_group():
        return _status(parser, main, goes_on)


def _status(parser: "ScriptParser", main: Callable[..., dict], goes_on: bool) -> int:
    try:
        with listening():
            args = parser.parse()
            shown.quiet = parser.quiet
            result = main(args)
            sys.stdout.flush()
            wait_for_main()
    except UserError as error:
        return complain(parser.prog, error)
    except BrokenPipeError:
        _drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        _drop_output()
        where = f"{error.filename}: " if error.filename else ""
        line = f"{where}{error.strerror or error}; existing files have not changed"
        if run_under_way.step is not None and (command := _resume_command(parser)):
            line += f"; once this is fixed, go on from step {run_under_way.step} with: {command}"
        return complain(parser.prog, line)
    except KeyboardInterrupt as error:
        stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        _drop_output()
        if is_main():
            print(f"{parser.prog}: {_where(parser, stopped.step, goes_on)}", file=sys.stderr)
        return 128 + stopped.number
    except NotFinite as error:
        command = _resume_command(parser) if error.may_rewind and run_under_way.step is not None else None
        retry = f", or go on from there at half of it: {command} --on_nan rewind" if command else ""
        return complain(parser.prog, f"{error}{retry}", status=1)
    except RuntimeError as error:
        if refusal := lacks_determinism(error):
            return complain(parser.prog, refusal)
        if (reason := _lost_rank(error)) is None:
            raise
        line = f"rank {rank()} lost another rank ({reason}); --resume goes on from the last checkpoint"
        print(f"{parser.prog}: error: {line}", file=sys.stderr)
        # torchrun reports the rank that ended first as the cause.
        time.sleep(PATIENCE)
        return 1
    verdict = result.get("verdict") or {}
    # Rank 0 alone: torchrun kills the other ranks as soon as one exits with another status than 0.
    if not is_main():
        return 0
    if not (verdict.get("feasible", True) and result.get("holds", True)):
        return 3
    return 0 if verdict.get("forgotten", True) else 4


def complain(script: str, message: object, status: int = 2) -> int:
    """Print one line to standard error, on rank 0; on another rank, if rank 0 reports nothing within `PATIENCE`."""
    line = one_line(f"{script}: error: {message}")
    if is_main():
        print(line, file=sys.stderr, flush=True)
    if world_size() == 1:
        return status
    store = _get_default_store()
    if is_main():
        store.set(ERROR, line)
        # The store may close with this process.
        _wait(lambda: store.add(READERS, 0) == world_size() - 1)
    elif _wait(lambda: store.check([ERROR])):
        store.add(READERS, 1)
    else:
        print(f"rank {rank()}: {line}", file=sys.stderr, flush=True)
    return status


def _wait(condition: Callable[[], bool]) -> bool:
    """Whether a condition came true within `PATIENCE`."""
    until = time.monotonic() + PATIENCE
    with contextlib.suppress(dist.DistError):  # the store is closed
        while time.monotonic() < until:
            if condition():
                return True
            time.sleep(0.05)
    return False


def _lost_rank(error: RuntimeError) -> str | None:
    """The reason in an error about a lost rank, None for any other error."""
    message = str(error)
    # Gloo has no exception class, but its messages begin with the name of a source file.
    if not (isinstance(error, dist.DistError) or "/gloo/" in message):
        return None
    reason = message.partition("] ")[2] if "/gloo/" in message else message
    return reason.splitlines()[0].partition(". ")[0]


def _where(parser: "ScriptParser", step: int | None, goes_on: bool) -> str:
    """Where the run was stopped, and how to resume it."""
    if goes_on:
        return "stopped; the same command goes on where it was"
    if (command := _resume_command(parser)) is None:
        return "stopped; there is nothing to go on with, start it again"
    if step is not None:
        where = f"stopped at step {step}"
    elif run_under_way.step is not None:
        where = f"stopped; the last checkpoint is of step {run_under_way.step}"
    else:
        where = "stopped before its first checkpoint"
    return f"{where}; go on with: {command}"


def _resume_command(parser: "ScriptParser") -> str | None:
    """The command that resumes the current run, None where that is not the script's own."""
    if not isinstance(run_under_way.args, parser.args_class):
        return None
    given = {name: getattr(run_under_way.args, name, None) for name in ("model", "transform", "method")}
    # Code is run only where the user names it.
    named = "".join(f" --{name} {shlex.quote(value)}" for name, value in given.items() if ":" in (value or ""))
    return f"python {parser.prog} --resume {shlex.quote(str(run_under_way.folder))}{named}"


def _drop_output() -> None:
    """Discard buffered output that cannot be written, about which Python would print an error at exit."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _leave_os_errors_to_main(hook: threading.ExceptHookArgs) -> None:
    """TensorBoard's thread passes a failed write on to the next caller, so its own traceback is redundant."""
    if not issubclass(hook.exc_type, OSError):
        threading.__excepthook__(hook)
