"""The processor time of a process and of its children, from Linux's /proc."""

import contextlib
import os
from pathlib import Path

TICK = 1 / os.sysconf("SC_CLK_TCK")


def processor_time(process: int) -> float:
    """Seconds that a process, its children, and theirs have had; those that have ended count once they are reaped."""
    total = 0.0
    # A process may end at any moment.
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        total += sum(map(int, fields[11:15])) * TICK
        for thread in os.listdir(f"/proc/{process}/task"):
            children = Path(f"/proc/{process}/task/{thread}/children").read_text().split()
            total += sum(processor_time(int(child)) for child in children)
    return total
