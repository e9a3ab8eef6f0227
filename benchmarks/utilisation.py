"""How far a device is used: operations of a piece of work, those of a matrix product, memory at its peak."""

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from helper_functions.devices import Precision
from helper_functions.loop import Cost

# Rows of the square matrices: large enough for the highest rate, small enough for a fraction of a second.
MATRIX = {"cuda": 8192, "mps": 4096, "cpu": 1536}
PRODUCTS = 4
# Written to this file, it makes Linux forget the highest resident set so far.
CLEAR_REFS, FORGET_PEAK = Path("/proc/self/clear_refs"), "5"


def clock(device: torch.device) -> float:
    """Seconds, read when the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def flops_of(work: Callable[[], int]) -> tuple[int, int]:
    """What the work returns, and its floating-point operations: two for a multiplication and its addition.

    Matrix products and convolutions count, forward and backward; what is element by element does not.
    """
    with FlopCounterMode(display=False) as counter:
        result = work()
    return result, counter.get_total_flops()


def matrix_product(precision: Precision) -> float:
    """Operations a second of square matrix products in this dtype on this device."""
    device, size = precision.device, MATRIX[precision.device.type]
    matrix = torch.ones(size, size, device=device, dtype=precision.dtype)
    with _as_convolutions(device):
        matrix @ matrix
        began = clock(device)
        for _ in range(PRODUCTS):
            matrix @ matrix
        return PRODUCTS * 2 * size**3 / (clock(device) - began)


@contextlib.contextmanager
def _as_convolutions(device: torch.device) -> Iterator[None]:
    """On CUDA, products in float32 as cuDNN has its convolutions by default: in TF32."""
    before = torch.get_float32_matmul_precision()
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


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
    """Bytes at the peak since `reset_peak_memory`."""
    cost = Cost()
    cost.measure_memory(device)
    return cost.peak_memory_bytes


def memory_kind(device: torch.device) -> str:
    """What `peak_memory` counts."""
    return "allocated on the device" if device.type == "cuda" else "resident set of the process, workers apart"
