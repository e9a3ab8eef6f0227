"""CONTRIBUTING.md followed to the letter, in a copy of the repository."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.processes import REPOSITORY

PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text()
COPIED = ("benchmarks", "contrastive_discrimination", "data", "docs", "evaluation", "helper_functions", "models",
          "optimizer", "tests", "unlearning")  # fmt: skip
MOST_LINES = 40


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE, re.M | re.S)


def new_files() -> dict[str, str]:
    """The page's new files by the names that stand before them."""
    names = re.findall(r"`([\w/]+\.py)`:\n\n```python", PAGE)
    return dict(zip(names, blocks("python"), strict=True))


@pytest.fixture(scope="module")
def copy(tmp_path_factory) -> Path:
    """A copy of the repository with everything that the page says done to it."""
    folder = tmp_path_factory.mktemp("copy")
    skipped = shutil.ignore_patterns("__pycache__", "cifar100")
    for name in COPIED:
        shutil.copytree(REPOSITORY / name, folder / name, ignore=skipped)
    for path in [*REPOSITORY.glob("*.py"), REPOSITORY / "pyproject.toml"]:
        shutil.copy(path, folder)
    for name, text in new_files().items():
        assert not (folder / name).exists()
        (folder / name).write_text(text)
    change = "".join(blocks("diff"))
    subprocess.run(["git", "apply", "-"], cwd=folder, input=change, text=True, check=True)
    return folder


def run(copy: Path, *command: object) -> str:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, *map(str, command)], cwd=copy, env=environment, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_method_takes_no_more_lines_than_promised():
    (method,) = (text for name, text in new_files().items() if name.startswith("unlearning"))
    changes = [diff.splitlines() for diff in blocks("diff") if "+++ b/tests" not in diff]
    added = [line[1:] for lines in changes for line in lines if re.match(r"\+(?!\+\+)", line)]
    assert len([line for line in [*method.splitlines(), *added] if line.strip()]) <= MOST_LINES


def test_it_touches_five_files():
    changed = [line for diff in blocks("diff") for line in re.findall(r"^\+\+\+ b/(.*)$", diff, re.M)]
    assert len({*new_files(), *changed}) == 5


def test_the_script_knows_it_and_its_flag(copy, tmp_path):
    said = run(
        copy, "train_constrained_unlearning.py", "--dataset", "digits", "--model", "resnet8", "--width", 4,
        "--train_num_epochs", 4, "--forget", "random:40", "--retain_budget", 100, "--method", "npo", "--num_epochs", 2,
        "--npo_beta", 0.3, "--figures", False, "--log_dir", tmp_path,
    )  # fmt: skip
    assert "npo epoch" in said and "budget kept: retain" in said


def test_its_own_test_and_the_tests_of_all_methods(copy):
    run(
        copy, "-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/unit/unlearning/test_npo.py",
        "tests/training/test_methods.py", "tests/unit/unlearning/test_methods_flags.py",
        "tests/scripts/test_docs.py", "-k", "npo",
    )  # fmt: skip


def test_it_is_as_clean_as_the_rest(copy):
    run(copy, "-m", "ruff", "check", *(copy / name for name in new_files()))
