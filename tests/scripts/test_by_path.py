"""Every benchmark, and data.prepare, is started by its path as well as by its name, from any folder."""

import subprocess
import sys

import pytest
from helpers.processes import REPOSITORY, TIMEOUT

SCRIPTS = [path for folder in ("benchmarks", "data") for path in sorted((REPOSITORY / folder).rglob("*.py"))
           if "run_script(" in path.read_text()]  # fmt: skip
PATHS = [str(path.relative_to(REPOSITORY).parent if path.name == "__main__.py" else path.relative_to(REPOSITORY))
         for path in SCRIPTS]  # fmt: skip


def test_there_are_some():
    assert {"benchmarks/leaderboard", "benchmarks/speed/throughput.py", "data/prepare.py"} <= {*PATHS}


@pytest.mark.parametrize("path", PATHS)
def test_a_script_by_its_path(path, tmp_path):
    name = path.removesuffix(".py").replace("/", ".")
    done = subprocess.run(
        [sys.executable, REPOSITORY / path, "--no_such_flag"],
        cwd=tmp_path, capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode == 2, done.stderr
    assert done.stderr == f"{name}: error: --no_such_flag: no such flag; {name} --help lists them\n"
