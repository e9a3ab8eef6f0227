"""Learning-rate schedules as pure functions of the step, so that a resumed run needs the step count and no more."""

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler

from helper_functions.errors import UserError


def _progress(step: int, warmup: int, total: int) -> float:
    """Fraction of the steps after the warm-up that lie behind, in [0, 1]."""
    return min(1.0, (step - warmup) / (total - warmup))


def cosine(step: int, warmup: int, total: int) -> float:
    """Half a cosine from 1 to 0 (Loshchilov and Hutter 2017, equation 5)."""
    return (1 + math.cos(math.pi * _progress(step, warmup, total))) / 2


def linear(step: int, warmup: int, total: int) -> float:
    """A straight line from 1 to 0."""
    return 1 - _progress(step, warmup, total)


def constant(step: int, warmup: int, total: int) -> float:
    """1 throughout."""
    return 1.0


def multistep(step: int, warmup: int, total: int) -> float:
    """A tenth after half of the steps, a hundredth after three quarters."""
    return 0.1 ** sum(step >= round(milestone * total) for milestone in (0.5, 0.75))


def one_cycle(step: int, warmup: int, total: int) -> float:
    """Up from 1/25 over the first 30 %, down to 1/250,000, both along cosines (Smith and Topin 2018; torch's form)."""
    start, end = 1 / 25, 1 / 250_000
    last = total - warmup - 1
    peak = 0.3 * (last + 1) - 1
    step = min(step - warmup, last)
    if step <= peak:
        return _between(start, 1.0, step / peak if peak > 0 else 1.0)
    # A cycle of a single step has no way down.
    return _between(1.0, end, (step - max(peak, 0.0)) / (last - max(peak, 0.0)) if last > 0 else 0.0)


# The rate after so many steps, as a share of the highest, from steps of warm-up and in all, these included.
SCHEDULES: dict[str, Callable[[int, int, int], float]] = {
    "cosine": cosine,
    "one_cycle": one_cycle,
    "multistep": multistep,
    "constant": constant,
    "linear": linear,
}


def get_schedule(
    name: str, optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, tenths: Sequence[int] = ()
) -> LRScheduler:
    """Schedule the learning rates of `optimizer`, to be stepped after each of its `total_steps` steps.

    The optimizer's learning rate is the highest that is reached. The first `warmup_steps` climb on a straight line to
    where the schedule starts, which takes the rest. After each of the steps `tenths` the rate is a tenth of what it
    would be. Raises UserError for a warm-up that leaves nothing of them.
    """
    if not 0 <= warmup_steps < total_steps:
        raise UserError(f"warmup_steps is {warmup_steps}: pass at least 0 and fewer than the {total_steps} steps")
    shape = SCHEDULES[name]

    def factor(step: int) -> float:
        if step < warmup_steps:
            return shape(warmup_steps, warmup_steps, total_steps) * (step + 1) / (warmup_steps + 1)
        return shape(step, warmup_steps, total_steps) * 0.1 ** sum(step >= each for each in tenths)

    return LambdaLR(optimizer, factor)


def rescale_schedule(schedule: LRScheduler, factor: float) -> None:
    """Multiply the learning rates of a schedule, now and to its end."""
    schedule.base_lrs = [rate * factor for rate in schedule.base_lrs]
    for group in schedule.optimizer.param_groups:
        group["lr"] *= factor


def _between(start: float, end: float, fraction: float) -> float:
    """Half a cosine from `start` to `end`."""
    return end + (start - end) / 2 * (1 + math.cos(math.pi * fraction))
