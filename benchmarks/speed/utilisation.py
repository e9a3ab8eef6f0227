"""How fast a piece of work is, and what share of the device it uses."""

import time
from collections.abc import Callable

import torch
from torch.utils.flop_counter import FlopCounterMode

from helper_functions.training.devices import Precision

# Rows of the square matrices: large enough for the highest rate, small enough for a fraction of a second.
MATRIX = {"cuda": 8192, "mps": 4096, "cpu": 1536}


def clock(device: torch.device) -> float:
    """Seconds, read when the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


def rate_of(run: Callable[[int], int], amount: int, device: torch.device, warm_up: int = 1) -> float:
    """What `run(amount)` counts, such as images, a second; `run(warm_up)` before it is not timed."""
    run(warm_up)
    began = clock(device)
    count = run(amount)
    return count / (clock(device) - began)


def flops_of(work: Callable[[], int]) -> tuple[int, int]:
    """What the work returns, and its floating-point operations: two for a multiplication and its addition.

    Matrix products and convolutions count, forward and backward; element-wise operations do not.
    """
    with FlopCounterMode(display=False) as counter:
        result = work()
    return result, counter.get_total_flops()


def matrix_product(precision: Precision) -> float:
    """Operations a second of square matrix products in this dtype on this device."""
    device, size, before = precision.device, MATRIX[precision.device.type], torch.get_float32_matmul_precision()
    matrix = torch.ones(size, size, device=device, dtype=precision.dtype)

    def multiply(times: int) -> int:
        for _ in range(times):
            matrix @ matrix
        return times * 2 * size**3

    try:
        if device.type == "cuda":  # in TF32, as cuDNN computes convolutions of float32 by default
            torch.set_float32_matmul_precision("high")
        return rate_of(multiply, 4, device)
    finally:
        torch.set_float32_matmul_precision(before)
