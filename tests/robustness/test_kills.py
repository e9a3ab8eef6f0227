"""A run that is killed between any two writes to the disk goes on to the same bits."""

import itertools
import random
import signal
import sys
from functools import partial
from os import O_APPEND, O_CREAT, O_TRUNC, O_WRONLY, getpid, kill
from pathlib import Path

import pytest
from helpers.processes import SMALL, fork, only
from helpers.run_folders import CONTRASTIVE, UNLEARN, assert_same_weights, figures_of, results_of, weights_of

CHANGES = ("os.rename", "os.remove", "os.mkdir", "os.truncate")
QUICK = (*SMALL, "--figures", "False", "--log_interval", 2, "--judge", "validation")
# Script, flags, and the models whose weights are compared.
JOBS = {
    "constrained": (
        UNLEARN,
        ("--train_num_epochs", 2, "--retrain", "--num_epochs", 3, "--finetune_num_epochs", 1, "--batch_size", 10,
         "--keep_checkpoint"),
        ("original.pt", "retrained.pt", None),
    ),
    "scrub": (UNLEARN, ("--method", "scrub", "--num_epochs", 4, "--rewind", "--train_num_epochs", 1), (None,)),
    "untrain_contrastive": (
        CONTRASTIVE, ("--mode", "untrain_contrastive", "--num_epochs", 2, "--train_num_epochs", 1), (None,),
    ),
}  # fmt: skip
KILLS, SEED = 6, 0


def kill_at_write(number: int, counted: Path | None = None) -> None:
    """Kill this process before its write to the disk of this number; append all numbers to a file, if one is given."""
    numbers = itertools.count(1)
    log = open(counted, "a") if counted else None  # noqa: SIM115  # for the life of the process

    def audit(event: str, arguments: tuple) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & (
            O_WRONLY | O_CREAT | O_TRUNC | O_APPEND
        )  # fmt: skip
        if writes or event in CHANGES:
            found = next(numbers)
            if log is not None:
                log.write(f"{found}\n")
                log.flush()
            if found == number:
                kill(getpid(), signal.SIGKILL)

    sys.addaudithook(audit)


@pytest.mark.parametrize("job", JOBS)
def test_goes_on_to_the_same_bits(job, tmp_path):
    script, own, names = JOBS[job]
    flags = (*QUICK, "--forget", "random:40", *own)
    whole = fork(script, *flags, "--log_dir", tmp_path / "whole", before=partial(kill_at_write, 0, tmp_path / "writes"))
    assert whole.status in (0, 3, 4), whole.err
    total = len((tmp_path / "writes").read_text().splitlines())
    draw, kills = random.Random(SEED), 0
    log_dir, argv = tmp_path / "cut", (*flags, "--log_dir", tmp_path / "cut")
    for _ in range(KILLS):
        done = fork(script, *argv, before=partial(kill_at_write, draw.randint(1, total // 2)))
        kills += done.status == -signal.SIGKILL
        if done.status != -signal.SIGKILL:
            break
        begun = list(log_dir.glob("*/config.yaml"))
        argv = ("--resume", begun[-1].parent) if begun else argv
    if done.status == -signal.SIGKILL:
        done = fork(script, *argv)
    assert done.status == whole.status and done.err == "" and kills
    folder, expected = begun[-1].parent, only(tmp_path / "whole")
    for name in names:
        assert_same_weights(weights_of(folder, name), weights_of(expected, name))
    assert figures_of(folder) == figures_of(expected) and results_of(folder) == results_of(expected)
    assert {path.suffix for path in folder.iterdir()} == {path.suffix for path in expected.iterdir()}
    assert not [path for path in folder.iterdir() if path.name.startswith(".") or path.name == "run.lock"]
