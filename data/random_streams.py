"""Random numbers that are the same on every platform and independent between purposes."""

import hashlib

import numpy as np


def random_state(seed: int, *purpose: object) -> np.random.RandomState:
    """A generator for one purpose, such as `random_state(seed, 'held-out')`.

    Seed and purpose are hashed together, so that another draw for one purpose never shifts those for another.
    `RandomState` and not `Generator`, because NumPy has frozen its stream (NEP 19).
    """
    return np.random.RandomState(np.frombuffer(_digest(seed, purpose), dtype="<u4").astype(np.uint32))


def torch_seed(seed: int, *purpose: object) -> int:
    """A non-negative 63-bit seed for a `torch.Generator`, derived as in `random_state`."""
    return int.from_bytes(_digest(seed, purpose)[:8], "little") >> 1


def _digest(seed: int, purpose: tuple[object, ...]) -> bytes:
    return hashlib.sha256(repr((int(seed), *map(str, purpose))).encode()).digest()
