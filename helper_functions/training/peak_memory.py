"""Memory at its peak: allocated on the device with CUDA, resident in this process elsewhere."""

import contextlib
import ctypes
import gc
import re
import resource
import sys
from pathlib import Path

import torch

# Written to this file, it makes Linux forget the highest resident set so far, which stands in the other one.
CLEAR_REFS, FORGET_PEAK = Path("/proc/self/clear_refs"), "5"
STATUS = Path("/proc/self/status")


def release_memory() -> None:
    """Give back what earlier work has left behind, so that it is not counted as the next one's."""
    gc.collect()
    # glibc keeps freed memory; other libraries have no such function.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def reset_peak_memory(device: torch.device) -> None:
    """Forget the peak so far, where the system can: on CUDA, and for the resident set on Linux."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        with contextlib.suppress(OSError):
            CLEAR_REFS.write_text(FORGET_PEAK)


def peak_memory(device: torch.device) -> int:
    """Bytes at the peak since `reset_peak_memory`; where the system could not forget, of the process's whole life."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    with contextlib.suppress(OSError):
        # Not getrusage's, which keeps what the process that started this one had needed.
        if found := re.search(r"^VmHWM:\s*(\d+) kB$", STATUS.read_text(), re.MULTILINE):
            return int(found[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def memory_kind(device: torch.device) -> str:
    """What `peak_memory` counts."""
    return "allocated on the device" if device.type == "cuda" else "resident set of the process, workers apart"
