"""Random numbers that are the same on every platform and independent between purposes."""

import hashlib

import numpy as np


def random_state(seed: int, *purpose: object) -> np.random.RandomState:
    """A generator for one purpose, such as `random_state(seed, 'held-out')`.

    The seed and the purpose are hashed together, so that a draw more for one purpose never shifts another.
    `RandomState` and not `Generator`: NumPy has frozen its stream (NEP 19).
    """
    digest = hashlib.sha256(repr((int(seed), *map(str, purpose))).encode()).digest()
    return np.random.RandomState(np.frombuffer(digest, dtype="<u4").astype(np.uint32))


def torch_seed(seed: int, *purpose: object) -> int:
    """A non-negative 63-bit seed for a `torch.Generator`, derived as in `random_state`."""
    digest = hashlib.sha256(repr((int(seed), *map(str, purpose))).encode()).digest()
    return int.from_bytes(digest[:8], "little") >> 1
