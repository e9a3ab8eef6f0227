"""The exit status of a script, and the one line that says why."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable

from helper_functions.errors import NotFinite, UserError
from helper_functions.signals import Stopped, listening, run_under_way
from helper_functions.training.devices import lacks_determinism
from helper_functions.training.distribution import PATIENCE, complain, is_main, lost_rank, rank, wait_for_main


def status_of(script: str, work: Callable[[], dict], args_class: type, goes_on: bool) -> int:
    """The exit status of a script's work, as `run_script` defines it.

    Args:
        script: its name.
        work: returns the script's report.
        args_class: of its arguments; tells whether the current run is the script's own.
        goes_on: whether the same command continues an interrupted run.
    """
    threading.excepthook = _leave_os_errors_to_main
    try:
        with listening():
            result = work()
            sys.stdout.flush()
            wait_for_main()
    except UserError as error:
        return _complain(script, error)
    except BrokenPipeError:
        _drop_output()
        return 128 + signal.SIGPIPE
    except OSError as error:
        _drop_output()
        where = f"{error.filename}: " if error.filename else ""
        line = f"{where}{error.strerror or error}; existing files have not changed"
        if command := _resume_command(script, args_class):
            line += f"; once this is fixed, go on from step {run_under_way.step} with: {command}"
        return _complain(script, line)
    except KeyboardInterrupt as error:
        stopped = error if isinstance(error, Stopped) else Stopped(signal.SIGINT)
        _drop_output()
        if is_main():
            print(f"{script}: {_where(script, stopped, args_class, goes_on)}", file=sys.stderr)
        return 128 + stopped.number
    except NotFinite as error:
        command = _resume_command(script, args_class) if error.may_rewind else None
        retry = f", or go on from there at half of it: {command} --on_nan rewind" if command else ""
        complain(f"{script}: error: {error}{retry}")
        return 1
    except RuntimeError as error:
        if refusal := lacks_determinism(error):
            return _complain(script, refusal)
        reason = lost_rank(error)
        if reason is None:
            raise
        line = f"rank {rank()} lost another rank ({reason}); --resume goes on from the last checkpoint"
        print(f"{script}: error: {line}", file=sys.stderr)
        # torchrun reports the rank that ended first as the cause.
        time.sleep(PATIENCE)
        return 1
    good = (result.get("verdict") or {}).get("feasible", True) and result.get("holds", True)
    # Rank 0 alone: torchrun kills the other ranks as soon as one exits with another status than 0.
    return 0 if good or not is_main() else 3


def _complain(script: str, message: object) -> int:
    complain(f"{script}: error: {message}")
    return 2


def _where(script: str, stopped: Stopped, args_class: type, goes_on: bool) -> str:
    """Where the run was stopped, and how to resume it."""
    run = run_under_way
    if goes_on:
        return "stopped; the same command goes on where it was"
    if run.args_class is not args_class:
        return "stopped; there is nothing to go on with, start it again"
    if stopped.step is not None:
        where = f"stopped at step {stopped.step}"
    elif run.step is not None:
        where = f"stopped; the last checkpoint is of step {run.step}"
    else:
        where = "stopped before its first checkpoint"
    return f"{where}; go on with: {run.resume_command(script)}"


def _resume_command(script: str, args_class: type) -> str | None:
    """The command that resumes the script's run from its last checkpoint, None where there is none."""
    run = run_under_way
    return run.resume_command(script) if run.args_class is args_class and run.step is not None else None


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
