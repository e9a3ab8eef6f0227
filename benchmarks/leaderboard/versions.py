"""Rows of a record that are older than the code that made them.

That code is what decides the steps of a row's method: every definition in `PACKAGES` that the method reaches by name,
at the row's commit and in the working tree. They are compared as syntax trees without docstrings, comments,
annotations, messages of errors and ranges of a search.
"""

import ast
import re
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from helper_functions.code_version import ROOT, git
from unlearning.methods import METHODS

PACKAGES = ("unlearning", "optimizer", "contrastive_discrimination")
# What every method is handed, and whose figures steer a constrained one.
CONTEXT = [("unlearning.context", "MethodContext"), ("optimizer.optimizers", "OptimizerArgs")]
EVALUATOR = [("unlearning.evaluator", "Evaluator")]
SHOWN = 6  # files in a line
# `Method` names both trainers; a row uses one of them.
TRAINERS = {False: "BaselineTrainer", True: "ConstrainedTrainer"}


class Bare(ast.NodeTransformer):
    """Removes what changes no step from a syntax tree."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        return None if isinstance(node.value, ast.Constant) else self.generic_visit(node)

    def visit_Raise(self, node: ast.Raise) -> ast.AST:
        return ast.Raise()

    def visit_keyword(self, node: ast.keyword) -> ast.AST | None:
        return None if node.arg == "search" else self.generic_visit(node)

    def visit_arg(self, node: ast.arg) -> ast.AST:
        return ast.arg(node.arg)

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        node.returns = None
        return self.generic_visit(node)

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        node.annotation = ast.Constant(None)
        return self.generic_visit(node)


class Module:
    """Top-level definitions of a file by name, and where its imported names come from.

    `NAME[key]` is a value of a dict, `Class.field` a field with its default.
    """

    def __init__(self, path: str, source: str) -> None:
        self.path, self.definitions, self.imports = path, {}, {}
        tree = ast.parse(source)
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                self.imports |= {alias.asname or alias.name: (node.module, alias.name) for alias in node.names}
        for node in Bare().visit(tree).body:
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                self.definitions[node.name] = node
            elif isinstance(node, ast.Assign | ast.AnnAssign):
                targets = node.targets if isinstance(node, ast.Assign) else [node.target]
                names = [each.id for target in targets for each in ast.walk(target) if isinstance(each, ast.Name)]
                self.definitions |= dict.fromkeys(names, node)
                if isinstance(node.value, ast.Dict):
                    items = zip(node.value.keys, node.value.values, strict=True)
                    keys = {f"{names[0]}[{key.value}]": value for key, value in items if isinstance(key, ast.Constant)}
                    self.definitions |= keys
            if isinstance(node, ast.ClassDef):
                fields = [each for each in node.body if isinstance(each, ast.AnnAssign) and each.value]
                node.body = [each for each in node.body if each not in fields]
                self.definitions |= {f"{node.name}.{field.target.id}": field for field in fields}

    def used_by(self, name: str) -> Iterable[tuple[str | None, str]]:
        """Names that a definition mentions: of this file (None), or of the module that it imports by name."""
        yield from ((None, each) for each in self.definitions if each.startswith(f"{name}."))
        for node in ast.walk(self.definitions[name]):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                yield None, node.id
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in self.imports:
                yield ".".join(self.imports[node.value.id]), node.attr


class Code:
    """The code of a commit, or of the working tree."""

    def __init__(self, root: Path, commit: str | None = None) -> None:
        self.root, self.commit, self.modules = root, commit, {}

    def module(self, name: str) -> Module | None:
        """A module of `PACKAGES` by its dotted name; None if there is none."""
        if name not in self.modules and name.partition(".")[0] in PACKAGES:
            paths = (f"{name.replace('.', '/')}{end}" for end in (".py", "/__init__.py"))
            found = ((path, self._source(path)) for path in paths)
            self.modules[name] = next((Module(path, source) for path, source in found if source is not None), None)
        return self.modules.get(name)

    def _source(self, path: str) -> str | None:
        if self.commit is not None:
            return git(self.root, "show", f"{self.commit}:{path}")
        return (self.root / path).read_text() if (self.root / path).is_file() else None

    def reached(self, starts: Iterable[tuple[str, str]], but: str | None) -> dict[tuple[str, str], str]:
        """Syntax trees of all definitions that are reached from `starts`, by file and name, without the name `but`."""
        found, todo, seen = {}, list(starts), set()
        while todo:
            place = name_of_module, name = todo.pop()
            module = self.module(name_of_module)
            if module is None or place in seen or name == but:
                continue
            seen.add(place)
            if name in module.definitions:
                found[module.path, name] = ast.dump(module.definitions[name])
                todo += [(other or name_of_module, used) for other, used in module.used_by(name)]
            elif name in module.imports:
                todo.append(module.imports[name])
        return found


def changed_files(method: str, old: Code, new: Code) -> list[str]:
    """Files in which a definition that the method reaches is another one; a new field of a class is no change."""
    constrained = method in METHODS and METHODS[method].constrained
    # A method of the user's own may use either trainer, and is itself in no commit.
    own = ("unlearning.methods", f"METHODS[{method}]") if method in METHODS else ("unlearning.methods.method", "Method")
    starts = [own, *CONTEXT, *(EVALUATOR if constrained else [])]
    but = TRAINERS[not constrained] if method in METHODS else None
    before, now = (code.reached(starts, but) for code in (old, new))
    changed = {place for place, tree in before.items() if now.get(place) != tree}
    changed |= {(path, name) for path, name in now.keys() - before.keys() if "." not in name}
    return sorted({path for path, _ in changed})


def older_rows(rows: Iterable[dict], root: Path = ROOT) -> list[str]:
    """A line for each method and version of rows that today's code in `root` might not give again."""
    versions = Counter((row["method"], row["config"]["method"], *_version(row)) for row in rows)
    codes, lines = {"": Code(root)}, []
    for (name, method, commit, changes), count in sorted(versions.items()):
        if not commit:
            said = "without a recorded version"
        elif changes:
            said = f"of {commit} with changes that are in no commit"
        elif git(root, "cat-file", "-e", f"{commit}^{{commit}}") is None:
            said = f"of {commit}, which git does not know"
        else:
            files = changed_files(method, codes.setdefault(commit, Code(root, commit)), codes[""])
            more = f" and {len(files) - SHOWN} more" if len(files) > SHOWN else ""
            said = files and f"of {commit}; changed since: {', '.join(files[:SHOWN])}{more}"
        if said:
            lines.append(f"{name}: {count} row{'s' * (count > 1)} {said}")
    return lines


def _version(row: dict) -> tuple[str, str]:
    """Commit of a row, and what `code_words` says of changes to it; empty where there is none."""
    words = str((row.get("environment") or {}).get("code"))
    found = re.search(r" at ([0-9a-f]+)(, changed.*)?$", words)
    return (found[1], found[2] or "") if found else ("", "")
