"""Rows that are older than their code, on small repositories: what is a change of a method, and what is none."""

import subprocess
from pathlib import Path

import pytest

from benchmarks.leaderboard import board
from benchmarks.leaderboard.cells import append_cell
from benchmarks.leaderboard.versions import older_rows
from helper_functions.code_version import code_version, code_words
from helper_functions.config import run_script

FILES = {
    "pyproject.toml": '[project]\nversion = "0.1"\n',
    "unlearning/methods/__init__.py": (
        "from unlearning.methods import scrub, finetune\nfrom unlearning.methods.method import constrained\n"
        "METHODS: dict[str, object] = {\n"
        "    'constrained': constrained(), 'scrub': scrub.METHOD, 'finetune': finetune.METHOD\n}\n"
    ),
    "unlearning/methods/method.py": (
        "from unlearning.constrained.trainer import ConstrainedTrainer\n"
        "def constrained():\n    return Method()\n\n"
        "def published(rate, search=()):\n    return Method(rate, 1)\n\n"
        "class Method:\n    rate: float = 0.1\n\n    def trainer(self):\n"
        "        return ConstrainedTrainer if self.rate else BaselineTrainer\n"
    ),
    "unlearning/methods/scrub.py": (
        "from unlearning.methods.method import published\nfrom optimizer import steps\n\nTEMPERATURE = 4.0\n\n"
        "def divergence(x: float) -> float:\n    \"\"\"Nats.\"\"\"\n    return steps.halved(x) * TEMPERATURE\n\n"
        "METHOD = published(divergence, search=(1, 2))\n"
    ),
    "unlearning/methods/finetune.py": "from unlearning.methods.method import published\nMETHOD = published(0.1)\n",
    "unlearning/constrained/trainer.py": "class ConstrainedTrainer:\n    \"\"\"Ours.\"\"\"\n\n    passes = 3\n",
    "optimizer/steps.py": "def halved(x):\n    if x < 0:\n        raise ValueError('negative')\n    return x / 2\n",
}  # fmt: skip
SCRUB, STEPS, TRAINER = "unlearning/methods/scrub.py", "optimizer/steps.py", "unlearning/constrained/trainer.py"


@pytest.fixture
def root(tmp_path) -> Path:
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "first")):
        git(tmp_path, *command)
    return tmp_path


def git(root: Path, *command: str) -> None:
    subprocess.run(("git", "-C", root, "-c", "user.name=n", "-c", "user.email=e@example.org", *command), check=True)


def edit(root: Path, name: str, old: str, new: str) -> None:
    text = (root / name).read_text()
    assert old in text
    (root / name).write_text(text.replace(old, new))


def rows(root: Path, *methods: str) -> list[dict]:
    code = code_words(code_version(root))
    return [{"method": name, "config": {"method": name}, "environment": {"code": code}} for name in methods]


@pytest.mark.parametrize(
    "name, old, new",
    [
        (SCRUB, "Nats.", "Natural units."),
        (SCRUB, "x: float) -> float:", "x):  # a divergence"),
        (SCRUB, "search=(1, 2)", "search=(1, 3)"),
        (SCRUB, "METHOD = ", "def unused():\n    return 1\n\nMETHOD = "),
        (STEPS, "'negative'", "'below zero'"),
        (TRAINER, "passes = 3", "passes = 4"),
        ("unlearning/methods/finetune.py", "0.1", "0.2"),
        ("unlearning/methods/method.py", "rate: float = 0.1", "rate: float = 0.1\n    momentum: float = 0.9"),
        ("pyproject.toml", "0.1", "0.2"),
    ],
    ids=["docstring", "annotation and comment", "search", "unused", "message", "other trainer", "other method",
         "new field", "other file"],
)  # fmt: skip
def test_what_changes_no_step_of_the_method_is_no_change(name, old, new, root):
    made = rows(root, "scrub")
    edit(root, name, old, new)
    assert older_rows(made, root) == []


@pytest.mark.parametrize(
    "name, old, new",
    [
        (SCRUB, "4.0", "3.0"),
        (STEPS, "x / 2", "x / 3"),
        (STEPS, "x < 0", "x < 1"),
        ("unlearning/methods/method.py", "rate: float = 0.1", "rate: float = 0.2"),
    ],
    ids=["constant", "of another package", "when it is refused", "a field's default"],
)
def test_a_change_of_what_the_method_reaches_is_named(name, old, new, root):
    made = rows(root, "scrub", "scrub")
    edit(root, name, old, new)
    commit = made[0]["environment"]["code"].split()[-1]
    assert older_rows(made, root) == [f"scrub: 2 rows of {commit}; changed since: {name}"]
    git(root, "commit", "-qam", "second")
    assert older_rows([*made, *rows(root, "scrub")], root) == [f"scrub: 2 rows of {commit}; changed since: {name}"]


def test_a_constrained_method_has_the_code_of_its_trainer(root):
    made = rows(root, "constrained", "finetune")
    edit(root, TRAINER, "passes = 3", "passes = 4")
    (line,) = older_rows(made, root)
    assert line.startswith("constrained: 1 row of ") and line.endswith(f"changed since: {TRAINER}")


def test_a_moved_file_is_a_change(root):
    made = rows(root, "scrub")
    git(root, "mv", STEPS, "optimizer/halves.py")
    edit(root, SCRUB, "from optimizer import steps", "from optimizer import halves as steps")
    (line,) = older_rows(made, root)
    assert line.endswith("changed since: optimizer/halves.py, optimizer/steps.py")


def test_rows_without_a_commit_that_can_be_read_are_listed(root):
    (made,) = rows(root, "scrub")
    words = made["environment"]["code"]
    versions = [{"code": "0.1 at 0123456789"}, {"code": f"{words}, changed"}, {"code": "0.1"}, None]
    found = older_rows([{**made, "environment": version} for version in versions], root)
    assert sorted(found) == sorted([
        "scrub: 1 row of 0123456789, which git does not know",
        f"scrub: 1 row of {words.split()[-1]} with changes that are in no commit",
        "scrub: 2 rows without a recorded version",
    ])  # fmt: skip


def test_check_says_which_rows_are_older_by_the_exit_status_too(tmp_path, monkeypatch, capsys):
    def check() -> tuple[int, str]:
        monkeypatch.setattr("sys.argv", ["board.py", "--check", "--output", str(tmp_path)])
        return run_script(board.get_parser, board.main), "".join(capsys.readouterr())

    status, said = check()
    assert status == 2 and said.count("\n") == 1 and str(tmp_path) in said
    row = {"key": "0", "method": "scrub", "forget": "class:3", "seed": 0, "config": {"method": "scrub"}}
    row |= {"original": {}, "retrained": []}
    append_cell(tmp_path / "results.jsonl", row)
    assert check() == (3, f"{tmp_path}: scrub: 1 row without a recorded version\n")
    # A later row for the same place replaces it.
    monkeypatch.setattr(board, "older_rows", lambda rows: [row["key"] for row in rows if row["key"] == "0"])
    append_cell(tmp_path / "results.jsonl", {**row, "key": "1"})
    assert check() == (0, "no row of 1 is older than its code\n")
