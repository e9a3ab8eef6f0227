"""What is fuzzed: every function that reads bytes or words from outside, by name.

A new one is a function that gives a `Target`, and its line in `TARGETS`.
"""

import functools
from collections.abc import Callable

import test
import train
import train_constrained_unlearning
import train_contrastive
from benchmarks import fuzz_files, fuzz_words
from benchmarks.fuzz_cases import Target

SCRIPTS = {
    "train.py": train, "train_constrained_unlearning.py": train_constrained_unlearning,
    "train_contrastive.py": train_contrastive, "test.py": test,
}  # fmt: skip
TARGETS: dict[str, Callable[[], Target]] = {
    **{
        f"configuration of {name}": functools.partial(fuzz_words.configuration, script)
        for name, script in SCRIPTS.items()
    },
    **{
        f"command line of {name}": functools.partial(fuzz_words.command_line, script)
        for name, script in SCRIPTS.items()
    },
    "forget request": fuzz_words.forget_request,
    "forget list": fuzz_words.forget_list,
    "splits": fuzz_files.splits,
    "weights": fuzz_files.weights,
    "safetensors": fuzz_files.safetensors,
    "tensors": fuzz_files.tensors,
    "checkpoint": fuzz_files.checkpoint,
    "rows of a leaderboard": fuzz_files.rows,
    "report": fuzz_files.report,
    "picture": fuzz_files.picture,
}
