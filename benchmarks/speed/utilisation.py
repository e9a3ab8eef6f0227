"""How far a device is used: operations of a piece of work, and those of a matrix product."""

import contextlib
import time
from collections.abc import Callable, Iterator

import torch
from torch.utils.flop_counter import FlopCounterMode

from helper_functions.training.devices import Precision

# Rows of the square matrices: large enough for the highest rate, small enough for a fraction of a second.
MATRIX = {"cuda": 8192, "mps": 4096, "cpu": 1536}
PRODUCTS = 4


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
