"""Command line over YAML: typed dataclasses become flags, and a mistake becomes one line."""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Literal, NoReturn, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings
from jsonargparse.typing import ClosedUnitInterval as ClosedUnitInterval  # flags' types for every other module
from jsonargparse.typing import NonNegativeInt as NonNegativeInt
from jsonargparse.typing import OpenUnitInterval as OpenUnitInterval
from jsonargparse.typing import PositiveInt as PositiveInt
from jsonargparse.typing import restricted_number_type

from helper_functions.errors import UserError
from helper_functions.exit_status import status_of
from helper_functions.files import load_config
from helper_functions.safe_files.plain_yaml import BUILDING, refuse_aliases
from helper_functions.safe_files.printable import check_flags, escape_unknown
from helper_functions.training.compilation import CompileMode
from helper_functions.training.distribution import process_group

set_parsing_settings(docstring_parse_attribute_docstrings=True)

_INFINITY = float("inf")
PositiveFloat = restricted_number_type("PositiveReal", float, [(">", 0), ("<", _INFINITY)])
NonNegativeFloat = restricted_number_type("NonNegativeReal", float, [(">=", 0), ("<", _INFINITY)])
Percentage = restricted_number_type("Percentage", float, [(">=", 0), ("<=", 100)])
# NumPy's seeds end there.
Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])
HalfOpenUnitInterval = restricted_number_type("ShareBelowOne", float, [(">=", 0), ("<", 1)])


OnDevice = Literal["auto", "yes", "no"]


@dataclasses.dataclass
class RunArgs:
    """Where a run writes, and on what it computes."""

    log_dir: str = "runs"
    """Folder in which the run makes its own folder."""
    name_prefix: str | None = None
    """Beginning of the run folder's name; the script's name by default."""
    resume: str | None = None
    """A run folder to go on with: its configuration is used again, and it ends as if it had never stopped."""
    on_nan: Literal["stop", "rewind"] | None = None
    """When a loss, a gradient or a constraint is no number: stop with exit status 1, or rewind to the last good state
    and go on with half the learning rate, five times at most. Constrained unlearning rewinds by default, all else
    stops; beside --resume it takes the place of the run's own."""
    seed: Seed = 0
    """Seed of the splits, the initial weights and the order of the images."""
    device: str = "auto"
    """auto takes CUDA, then MPS, then the CPU; or cpu, cuda, cuda:N, mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Of forward and backward passes; auto is bf16 where the hardware has it."""
    compile: bool = False
    """Send forward and backward passes of training and unlearning through torch.compile; evaluation goes without."""
    compile_mode: CompileMode = "default"
    """Of --compile: default, or reduce-overhead or max-autotune, which record CUDA graphs on a GPU."""
    deterministic: bool = False
    """The same bits again from the same command on the same machine and versions; an operation that cannot, ends it."""
    sync_bn: bool = False
    """With several ranks of torchrun: batch norm by the whole batch while training, in place of each rank's part."""
    data_on_device: OnDevice = "auto"
    """Whether the images stay on the device; no leaves them in host memory, from where batches follow through pinned
    memory; auto keeps them where they take at most half of what is free."""
    log_interval: PositiveInt = 50
    """Steps between two transfers of the running figures from the device."""
    figures: bool = True
    """Draw the model's graph and pictures for TensorBoard and the run folder at the end; sweeps do without."""


class _HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of a script's docstring, which shows its commands."""


class ScriptParser(ArgumentParser):
    """Flags from a dataclass's fields and their docstrings; used by every script alike.

    `--use_sam` and `--use_sam True` both work, a list takes `--mean .5 .5 .5`, `--config_file` is applied before the
    command line wherever it stands, abbreviations are refused, and an error is one line.

    Args:
        args_class: the dataclass.
        prog: name in messages.
        description: of `--help`.
        presets: from what was asked for, values of flags that take the place of the defaults that `--help` shows, where
            neither the file nor the command line gives one.
    """

    def __init__(
        self,
        args_class: type,
        prog: str | None = None,
        description: str = "",
        presets: Callable[[Namespace], dict[str, object]] = lambda asked: {},
    ) -> None:
        super().__init__(prog=prog, description=description, allow_abbrev=False, formatter_class=_HelpFormatter)
        self.args_class, self.presets = args_class, presets
        self.add_argument("--config_file", type=str, help="YAML file of flags; the command line overrides it.")
        self.add_class_arguments(args_class, None, help="flags, also the keys of --config_file")
        for action in self._actions:
            if getattr(action, "_typehint", None) is bool:
                action.nargs, action.const = "?", True
        self._fields = {field.name: field.type for field in dataclasses.fields(args_class)}
        self._lists = {f"--{name}" for name, annotation in self._fields.items() if _is_list(annotation)}

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise UserError; `run_script` prints it and exits with status 2."""
        raise UserError(re.sub(r'Parser key "(\w+)"', r"--\1", message)) from ex

    def parse(self, argv: Sequence[str] | None = None) -> object:
        """An instance of the dataclass from a command line (the process's own by default).

        Raises:
            UserError: a flag or key that does not exist, or a value that it cannot have.
        """
        argv = self._join_lists(list(sys.argv[1:] if argv is None else argv))
        path = self._take_config_file(argv)
        values = {} if path is None else self._read(path)
        refuse_aliases([*argv, values])
        try:
            parsed = self.parse_args(argv, namespace=self._namespace(path, values))
            if presets := self.presets(parsed):
                # The file's own values have just been checked: what is wrong now came with an earlier run.
                merged = self._namespace("config.yaml of the earlier run", {**presets, **values})
                parsed = self.parse_args(argv, namespace=merged)
        except UserError:
            raise
        except BUILDING as error:  # jsonargparse does not expect all that PyYAML raises
            raise UserError(f"{' '.join(argv) or path}: a value that is no valid YAML ({error})") from None
        check_flags(flags := {name: _builtin(parsed[name]) for name in self._fields})
        return self.args_class(**flags)

    def _read(self, path: str) -> dict[str, object]:
        """The values of a YAML file by known names."""
        values = load_config(path)
        for name, value in values.items():
            if name not in self._fields:
                raise UserError(f"{path}: unknown key {name!r}; {self.prog} --help lists the keys")
            options = (self._fields[name], *getattr(self._fields[name], "__args__", ()))
            # jsonargparse takes null for "not given", whatever the type.
            if value is None and type(None) not in options:
                raise UserError(f"{path}: {name} is null; leave it out to get its default")
            # `validation: 0.1` is a number to YAML, and text on the command line.
            if isinstance(value, int | float) and not isinstance(value, bool) and str in options:
                values[name] = str(value)
        return values

    def _namespace(self, path: str | None, values: dict[str, object]) -> Namespace | None:
        """Values checked as those of a command line are."""
        try:
            return self.parse_object(values) if values or path is not None else None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

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


def run_script(
    get_parser: Callable[[], ScriptParser], main: Callable[[object], dict], *, goes_on: bool = False
) -> int:
    """Parse the command line, run `main`, and give the exit status.

    0 is done, 1 a failure while running (figures that are no numbers; of one among several ranks, another that no
    longer answers), 2 a request that cannot be carried out, 3 a result outside the stated budget (`main`'s dict says
    `{"verdict": {"feasible": False}}`) or a report that does not hold (`{"holds": False}`), 130 and 143 an interruption
    by SIGINT and SIGTERM, 141 a reader of the output who left. Of 1, 2, 130 and 143 one line says why.

    Args:
        goes_on: that the same command goes on where it was.
    """
    parser = get_parser()
    escape_unknown(sys.stdout)
    with process_group():
        return status_of(parser.prog, lambda: main(parser.parse()), parser.args_class, goes_on)
