"""A reduced form of benchmarks.fuzz, through the same code; and that it sees what it is there for."""

import importlib.util
import os
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import strategies as st

from benchmarks import fuzz, fuzz_guard
from benchmarks.fuzz_cases import Target
from benchmarks.fuzz_engines import by_hypothesis
from benchmarks.fuzz_guard import Guard, Tally
from benchmarks.fuzz_targets import TARGETS
from helper_functions.errors import UserError

CASES = {"configuration": 60, "command line": 60, "picture": 80}  # of slower ones


def fuzzed(target: Target, folder: Path, cases: int) -> Tally:
    guard = Guard(target, folder, die=False)
    by_hypothesis(guard, cases, seed=0)
    return guard.tally


@pytest.mark.parametrize("name", TARGETS)
def test_every_case_is_read_or_refused(name, tmp_path):
    cases = CASES.get(name.partition(" of ")[0], 300)
    tally = fuzzed(TARGETS[name](), tmp_path, cases)
    assert not tally.failures
    assert tally.cases == tally.accepted + tally.refused >= cases
    assert tally.accepted and tally.refused  # neither nonsense alone, nor nothing wrong


@pytest.mark.parametrize("name", TARGETS)
def test_seeds_are_well_formed(name, tmp_path):
    """From a seed that is refused, atheris would not get far; a configuration may be another script's."""
    target = TARGETS[name]()
    guard = Guard(target, tmp_path, die=False)
    for seed in target.seeds:
        guard(seed)
    assert guard.tally.accepted >= (1 if "configuration" in name else len(target.seeds) - 1) and not guard.tally.failed


def wait(path: Path) -> None:
    time.sleep(60)


def compute(path: Path) -> None:
    while True:
        pass


def hide(path: Path) -> None:
    """As a parser that takes every error for a damaged file."""
    try:
        os.mkdir(path.with_name("made"))
    except Exception:
        raise UserError("damaged") from None


BAD: dict[str, Callable[[Path], object]] = {
    "KeyError": lambda path: {}["x"],
    "RecursionError": lambda path: bad_recursion(path),
    "TooLong in wait": wait,
    "TooLong in compute": compute,
    "Forbidden in mkdir": lambda path: path.with_name("made").mkdir(),
    "Forbidden in hide": hide,
    "Forbidden in open": lambda path: path.write_bytes(b"overwritten"),
    "Forbidden in open_to_append": lambda path: open_to_append(path),
    "Forbidden in system": lambda path: system(path),
    "Forbidden in connect": lambda path: connect(path),
    "SystemExit": lambda path: exit(3),
    "a refusal that is no printable line": lambda path: refuse_silently(path),
}


def bad_recursion(path: Path) -> None:
    bad_recursion(path)


def open_to_append(path: Path) -> None:
    os.close(os.open(path, os.O_WRONLY | os.O_APPEND))


def system(path: Path) -> None:
    os.system(f"touch {path.with_name('made')}")


def connect(path: Path) -> None:
    socket.socket().connect(("127.0.0.1", 9))


def refuse_silently(path: Path) -> None:
    raise UserError("")


@pytest.mark.parametrize("kind", BAD)
def test_what_a_parser_must_not_do_is_seen(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(fuzz_guard, "SECONDS", 0.2)
    monkeypatch.setattr(fuzz_guard, "PATIENCE", 0.2)
    guard = Guard(Target(BAD[kind], st.just(b"x"), (b"x",)), tmp_path, die=False)
    for data in (b"longer", b"x"):
        guard(data)
    assert guard.tally.failed == 2 and [where for where in guard.tally.failures if where.startswith(kind)]
    assert [data for _, data in guard.tally.failures.values()] == [b"x"]
    assert [path.name for path in tmp_path.iterdir()] == ["case"] and (tmp_path / "case").read_bytes() == b"x"


def test_good_values_and_refusals_are_counted(tmp_path):
    def read(path: Path) -> None:
        if path.read_bytes() == b"bad":
            raise UserError("a line")

    guard = Guard(Target(read, st.just(b""), ()), tmp_path, die=False)
    for data in (b"good", b"bad", b"good"):
        guard(data)
    tally = guard.tally
    assert (tally.cases, tally.accepted, tally.refused, tally.failed) == (3, 2, 1, 0)


@pytest.mark.parametrize("engine", fuzz.ENGINES)
def test_as_a_process(engine, tmp_path, capsys):
    if importlib.util.find_spec(engine) is None:
        pytest.skip(f"{engine} is not installed")
    argv = ["--cases", "200", "--engine", engine, "--target", "forget list", "--log_dir", str(tmp_path / "fuzz")]
    result = fuzz.main(fuzz.get_parser().parse(argv))
    tally = result["tallies"]["forget list", engine]
    assert tally["cases"] >= 200 and tally["accepted"] + tally["refused"] == tally["cases"]
    assert result["verdict"]["feasible"] and f"| forget list | {engine} | {tally['cases']}" in capsys.readouterr().out
    assert not (tmp_path / "fuzz").exists()


def test_a_target_that_does_not_exist():
    with pytest.raises(UserError, match="forget list"):
        fuzz.main(fuzz.get_parser().parse(["--target", "nonsense"]))
