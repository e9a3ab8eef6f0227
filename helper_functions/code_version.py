"""The version of the code that is running."""

import os
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent


def code_version(root: Path = ROOT) -> dict[str, str | bool | None]:
    """`version` of pyproject.toml; where the code is a git checkout, its `commit`, and whether a file has `changed`.

    Both are None without a checkout or without git. Untracked files, docs/, which holds the records of benchmarks, and
    configs/, whose flags are in every record, do not count as changes.
    """
    try:
        version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    except (OSError, KeyError, ValueError):
        version = None
    top = git(root, "rev-parse", "--show-toplevel")
    # The checkout may be of a project around this one.
    if top is None or Path(top).resolve() != root.resolve():
        return {"version": version, "commit": None, "changed": None}
    changes = git(root, "status", "--porcelain", "--untracked-files=no", "--", ".", ":(exclude)docs",
                  ":(exclude)configs")  # fmt: skip
    commit = git(root, "rev-parse", "--verify", "--quiet", "HEAD")
    return {"version": version, "commit": commit, "changed": None if changes is None else bool(changes)}


def code_words(version: dict[str, str | bool | None]) -> str:
    """A `code_version` as text: the version, the first digits of the commit, and whether files have changed."""
    words = version["version"] or "unknown"
    if version["commit"] is not None:
        state = {True: ", changed", False: "", None: ", changed or not"}[version["changed"]]
        words += f" at {version['commit'][:10]}{state}"
    return words


def git(root: Path, *command: str) -> str | None:
    """The output of git, None where git is missing or fails."""
    # Inside a git hook these variables name another repository.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        done = subprocess.run(
            ["git", "--no-optional-locks", "-C", str(root), *command],
            env=environment, capture_output=True, text=True, timeout=10, check=True,
        )  # fmt: skip
    except (OSError, ValueError, subprocess.SubprocessError):
        return None
    return done.stdout.strip()
