"""docs/flags.md from the code: every flag of every script, with its default and what it says in --help.

python tests/helpers/flags_page.py    # writes it anew
"""

import ast
import dataclasses
import inspect
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "flags.md"
sys.path.insert(0, str(ROOT))

import test as test_script  # noqa: E402
import train  # noqa: E402
import train_constrained_unlearning as unlearning  # noqa: E402
import train_contrastive as contrastive  # noqa: E402
from benchmarks.leaderboard import board as leaderboard  # noqa: E402
from benchmarks.leaderboard import tune  # noqa: E402
from benchmarks.speed import growth, throughput  # noqa: E402
from benchmarks.sweeps import deletion, robustness, sequential  # noqa: E402
from benchmarks.theory import theory_figure  # noqa: E402
from data import prepare  # noqa: E402
from data.arguments import DataArgs  # noqa: E402
from evaluation.report.arguments import ReportArgs  # noqa: E402
from helper_functions.config import RunArgs  # noqa: E402
from models.arguments import ModelArgs  # noqa: E402
from unlearning.arguments import PublishedArgs, UnlearnArgs  # noqa: E402
from unlearning.setup import OriginalArgs  # noqa: E402

SCRIPTS = {
    "train.py": train,
    "train_constrained_unlearning.py": unlearning,
    "train_contrastive.py": contrastive,
    "test.py": test_script,
    "python -m data.prepare": prepare,
    "python -m benchmarks.leaderboard": leaderboard,
    "python -m benchmarks.leaderboard.tune": tune,
    "python -m benchmarks.sweeps.robustness": robustness,
    "python -m benchmarks.sweeps.sequential": sequential,
    "python -m benchmarks.sweeps.deletion": deletion,
    "python -m benchmarks.speed.throughput": throughput,
    "python -m benchmarks.speed.growth": growth,
    "python -m benchmarks.theory.theory_figure": theory_figure,
}
SHARED = {
    "Of train.py, train_constrained_unlearning.py, train_contrastive.py and test.py": (RunArgs, DataArgs, ModelArgs),
    "Of both unlearning scripts": (UnlearnArgs, OriginalArgs, ReportArgs),
    "Of single published methods, in train_constrained_unlearning.py": (PublishedArgs,),
}
HEAD = """# Flags

Every flag is also a key of a YAML file given by `--config_file`; the command line wins. `--help` says the same.
A method has values of its own for some of them: [methods.md](methods.md). This page is written by
`python tests/helpers/flags_page.py`.
"""


def page() -> str:
    """The whole page."""
    shared = {field.name for classes in SHARED.values() for cls in classes for field in dataclasses.fields(cls)}
    parts = [HEAD]
    for title, classes in SHARED.items():
        fields = {field.name: field for cls in classes for field in dataclasses.fields(cls)}
        texts = {name: text for cls in classes for name, text in _texts(cls).items()}
        parts.append(_section(title, fields.values(), texts))
    for title, script in SCRIPTS.items():
        inherits = issubclass(script.Args, RunArgs)
        fields = [field for field in dataclasses.fields(script.Args) if not (inherits and field.name in shared)]
        # train.py has flags of its own by names that unlearning has, too.
        if title == "train.py":
            common = {field.name for cls in SHARED[next(iter(SHARED))] for field in dataclasses.fields(cls)}
            fields = [field for field in dataclasses.fields(script.Args) if field.name not in common]
        parts.append(_section(f"`{title}`", fields, _texts(script.Args)))
    return "\n".join(parts)


def _section(title: str, fields, texts: dict[str, str]) -> str:
    lines = [f"## {title}\n", "| flag | default | |", "|---|---|---|"]
    lines += [f"| `--{field.name}` | {_default(field)} | {texts[field.name]} |" for field in fields]
    return "\n".join(lines) + "\n"


def _default(field: dataclasses.Field) -> str:
    value = field.default if field.default is not dataclasses.MISSING else field.default_factory()
    if isinstance(value, list):
        return " ".join(map(str, value)) or "–"
    return "–" if value in (None, "") else str(value)


def _texts(cls: type) -> dict[str, str]:
    """The docstring beneath each field, of base classes, too."""
    texts = {}
    for base in reversed([base for base in cls.__mro__ if dataclasses.is_dataclass(base)]):
        body = ast.parse(inspect.getsource(base)).body[0].body
        for field, text in zip(body, body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                texts[field.target.id] = " ".join(text.value.value.split()).replace("|", "/")
    return texts


if __name__ == "__main__":
    PAGE.write_text(page())
