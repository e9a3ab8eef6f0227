"""Peak memory: allocated on the device with CUDA, the resident set of the process elsewhere."""

import contextlib
import ctypes
import gc
import re
import resource
import sys
from pathlib import Path

import torch

# Linux resets the peak of the resident set when 5 is written to it.
CLEAR_REFS = Path("/proc/self/clear_refs")


def release_memory() -> None:
    """Free memory that earlier work has left behind."""
    gc.collect()
    # glibc keeps freed memory; other libraries have no such function.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak_memory(device: torch.device) -> None:
    """Reset the peak, where the system can: on CUDA, and for the resident set on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            CLEAR_REFS.write_text("5")


def peak_memory(device: torch.device) -> int:
    """Bytes at the peak since `reset_peak_memory`; where that has no effect, since the start of the process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        # getrusage includes the peak of the parent process at the fork.
        if found := re.search(r"^VmHWM:\s*(\d+) kB$", Path("/proc/self/status").read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
