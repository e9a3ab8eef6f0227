"""Command line over YAML: typed dataclasses become flags, and a mistake becomes one line."""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import Literal, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, set_parsing_settings
from jsonargparse.typing import NonNegativeInt as NonNegativeInt  # flags' types for every other module
from jsonargparse.typing import OpenUnitInterval as OpenUnitInterval
from jsonargparse.typing import PositiveInt as PositiveInt
from jsonargparse.typing import restricted_number_type

from helper_functions.errors import UserError
from helper_functions.files import load_config

set_parsing_settings(docstring_parse_attribute_docstrings=True)

_INFINITY = float("inf")
PositiveFloat = restricted_number_type("PositiveReal", float, [(">", 0), ("<", _INFINITY)])
NonNegativeFloat = restricted_number_type("NonNegativeReal", float, [(">=", 0), ("<", _INFINITY)])
Percentage = restricted_number_type("Percentage", float, [(">=", 0), ("<=", 100)])
HalfOpenUnitInterval = restricted_number_type("ShareBelowOne", float, [(">=", 0), ("<", 1)])


@dataclasses.dataclass
class RunArgs:
    """Where a run writes, and on what it computes."""

    log_dir: str = "runs"
    """Folder in which the run makes its own folder."""
    name_prefix: str | None = None
    """Beginning of the run folder's name; the script's name by default."""
    resume: str | None = None
    """A run folder to go on with: its configuration is used again, and it ends as if it had never stopped."""
    seed: NonNegativeInt = 0
    """Seed of the splits, the initial weights and the order of the images."""
    device: str = "auto"
    """auto takes CUDA, then MPS, then the CPU; or cpu, cuda, cuda:N, mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of forward and backward passes; auto is bf16 where the hardware has it."""
    log_interval: PositiveInt = 50
    """Steps between two transfers of the running figures from the device."""
    figures: bool = True
    """Draw the model's graph and pictures for TensorBoard and the run folder at the end; sweeps do without."""


class _HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of a script's docstring, which shows its commands."""


class ScriptParser(ArgumentParser):
    """Flags from a dataclass's fields and their docstrings; used by every script alike.

    `--use_sam` and `--use_sam True` both work, a list takes `--mean .5 .5 .5`, `--config_file` is applied before the
    command line wherever it stands, abbreviations are refused, and an error is one line and exit status 2.
    """

    def __init__(self, args_class: type, prog: str, description: str = "") -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, formatter_class=_HelpFormatter)
        self.args_class = args_class
        self.add_argument("--config_file", type=str, help="YAML file of flags; the command line overrides it.")
        self.add_class_arguments(args_class, None, help="flags, also the keys of --config_file")
        for action in self._actions:
            if getattr(action, "_typehint", None) is bool:
                action.nargs, action.const = "?", True
        self._lists = {
            f"--{field.name}" for field in dataclasses.fields(args_class) if _is_list(field.type)
        }

    def error(self, message: str, ex: Exception | None = None) -> None:
        """Print one line and exit with status 2."""
        sys.exit(_complain(self.prog, message))

    def parse(self, argv: Sequence[str] | None = None) -> object:
        """An instance of the dataclass from a command line (the process's own by default)."""
        argv = self._join_lists(list(sys.argv[1:] if argv is None else argv))
        path = self._take_config_file(argv)
        base = None
        if path is not None:
            try:
                base = self._checked(load_config(path), path)
            except UserError as error:
                self.error(str(error))
        parsed = self.parse_args(argv, namespace=base)
        fields = dataclasses.fields(self.args_class)
        return self.args_class(**{field.name: _builtin(parsed[field.name]) for field in fields})

    def _checked(self, values: dict, path: str):
        known = {field.name for field in dataclasses.fields(self.args_class)}
        for key in values:
            if key not in known:
                raise UserError(f"{path}: unknown key {key!r}; {self.prog} --help lists the keys")
        return self.parse_object(values)

    def _take_config_file(self, argv: list[str]) -> str | None:
        path = None
        for i in reversed(range(len(argv))):
            if argv[i] == "--config_file" and i + 1 < len(argv):
                path, argv[i : i + 2] = path or argv[i + 1], []
            elif argv[i].startswith("--config_file="):
                path, argv[i : i + 1] = path or argv[i].partition("=")[2], []
        return path

    def _join_lists(self, argv: list[str]) -> list[str]:
        joined, i = [], 0
        while i < len(argv):
            joined.append(argv[i])
            if argv[i] in self._lists:
                end = i + 1
                while end < len(argv) and not argv[end].startswith("--"):
                    end += 1
                values = argv[i + 1 : end]
                if values and not (len(values) == 1 and values[0].startswith("[")):
                    joined.append(json.dumps(values))
                    i = end - 1
            i += 1
        return joined


def _builtin(value: object) -> object:
    """Turn jsonargparse's restricted numbers into plain ones, which YAML and checkpoints can hold."""
    if isinstance(value, list):
        return [_builtin(item) for item in value]
    if isinstance(value, bool) or not isinstance(value, int | float):
        return value
    return int(value) if isinstance(value, int) else float(value)


def _is_list(annotation: object) -> bool:
    options = getattr(annotation, "__args__", ()) if get_origin(annotation) is not list else (annotation,)
    return any(get_origin(option) is list for option in options)


def _complain(prog: str, message: object) -> int:
    print(f"{prog}: error: {' '.join(str(message).split())}", file=sys.stderr)
    return 2


def run_script(get_parser: Callable[[], ScriptParser], main: Callable[[object], dict]) -> int:
    """Parse the command line, run `main`, and give the exit status.

    0 is done, 2 a request that cannot be carried out (one line says why), 3 a result outside the stated budget
    (`main`'s dict says `{"verdict": {"feasible": False}}`), 130 an interruption.
    """
    parser = get_parser()
    args = parser.parse()
    try:
        result = main(args)
    except UserError as error:
        return _complain(parser.prog, error)
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(parser.prog, f"{where}{error.strerror or error}; nothing that stood there before has changed")
    except KeyboardInterrupt:
        print(f"\n{parser.prog}: interrupted; --resume goes on from the last epoch", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read our output has gone; Python would complain once more while it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    feasible = (result.get("verdict") or {}).get("feasible", True)
    return 0 if feasible else 3
