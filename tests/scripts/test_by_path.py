"""Every benchmark, and data.prepare, is started by its path as well as by its name, from any folder."""

import os
import sys
from functools import partial
from pathlib import Path

import pytest
from helpers.processes import REPOSITORY, assert_refused, fork

SCRIPTS = [path for folder in ("benchmarks", "data") for path in sorted((REPOSITORY / folder).rglob("*.py"))
           if "run_script(" in path.read_text()]  # fmt: skip
PATHS = [str(path.relative_to(REPOSITORY).parent if path.name == "__main__.py" else path.relative_to(REPOSITORY))
         for path in SCRIPTS]  # fmt: skip


def test_there_are_some():
    assert {"benchmarks/leaderboard", "benchmarks/speed/throughput.py", "data/prepare.py"} <= {*PATHS}


def go_elsewhere(folder: Path) -> None:
    """Work in a folder from which this project is not found, with none of it imported."""
    os.chdir(folder)
    sys.path[:] = [path for path in sys.path if path not in ("", ".", str(REPOSITORY), str(REPOSITORY / "tests"))]
    for name, module in [*sys.modules.items()]:
        file = getattr(module, "__file__", None) or ""
        if file.startswith(f"{REPOSITORY}/") and "site-packages" not in file:
            del sys.modules[name]


@pytest.mark.parametrize("path", PATHS)
def test_a_script_by_its_path(path, tmp_path):
    name = path.removesuffix(".py").replace("/", ".")
    done = fork(REPOSITORY / path, "--no_such_flag", before=partial(go_elsewhere, tmp_path))
    assert_refused(done, name, f"--no_such_flag: no such flag; {name} --help lists them")
