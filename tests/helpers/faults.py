"""Runs that a signal ends in the middle of a pass."""

import itertools
import signal

from helpers.steps import around_steps

SHORT = {
    "num_epochs": 2, "momentum": 0.9, "schedule": "cosine", "finetune_num_epochs": 1, "bn": "train",
    "learning_rate": 0.01, "noise_steps": 2,
}  # fmt: skip


def interrupt(monkeypatch, at: int, number: int = signal.SIGTERM) -> None:
    """Have this process get a signal while it takes its step of this number."""
    numbers = itertools.count(1)

    def interrupted(trainer, step, batch):
        if next(numbers) == at:
            signal.raise_signal(number)
        return step(batch)

    around_steps(interrupted, monkeypatch)
