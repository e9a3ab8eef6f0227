"""Command line over YAML: typed dataclasses become flags, and a mistake becomes one line."""

import argparse
import dataclasses
import json
import re
import sys
from collections.abc import Callable, Sequence
from typing import Literal, NoReturn, get_args, get_origin

from jsonargparse import ArgumentParser, DefaultHelpFormatter, Namespace, set_parsing_settings
from jsonargparse.typing import ClosedUnitInterval as ClosedUnitInterval  # flags' types for every other module
from jsonargparse.typing import NonNegativeInt as NonNegativeInt
from jsonargparse.typing import OpenUnitInterval as OpenUnitInterval
from jsonargparse.typing import PositiveInt as PositiveInt
from jsonargparse.typing import restricted_number_type

from helper_functions.errors import UserError
from helper_functions.exit_status import run_script as run_script  # the scripts' entry
from helper_functions.files import load_config
from helper_functions.safe_files.plain_yaml import YAML_ERRORS, refuse_aliases
from helper_functions.safe_files.printable import check_flags
from helper_functions.training.compilation import CompileMode
from helper_functions.wording import did_you_mean

set_parsing_settings(docstring_parse_attribute_docstrings=True)

PositiveFloat = restricted_number_type("PositiveReal", float, [(">", 0), ("<", float("inf"))])
FiniteFloat = restricted_number_type("Real", float, [(">", -float("inf")), ("<", float("inf"))])
NonNegativeFloat = restricted_number_type("NonNegativeReal", float, [(">=", 0), ("<", float("inf"))])
Percentage = restricted_number_type("Percentage", float, [(">=", 0), ("<=", 100)])
# The range of NumPy's seeds.
Seed = restricted_number_type("Seed", int, [(">=", 0), ("<", 2**32)])
HalfOpenUnitInterval = restricted_number_type("ShareBelowOne", float, [(">=", 0), ("<", 1)])
OnDevice = Literal["auto", "yes", "no"]
# What a flag of each type takes, for messages.
WORDS = {
    bool: "true or false", str: "text", PositiveInt: "a whole number above 0", NonNegativeInt: "a whole number from 0",
    Seed: "a whole number from 0 to 4294967295", PositiveFloat: "a number above 0", NonNegativeFloat: "a number from 0",
    FiniteFloat: "a finite number", Percentage: "a number from 0 to 100", ClosedUnitInterval: "a number from 0 to 1",
    OpenUnitInterval: "a number above 0 and below 1", HalfOpenUnitInterval: "a number from 0 and below 1",
}  # fmt: skip
# That may stand beside --resume: the run has all others.
BESIDE_RESUME = ("resume", "on_nan", "model", "student_model", "method", "transform", "quiet")
# Shown first by --help, by the scripts that have them.
FIRST_FLAGS = (
    "help", "config_file", "dataset", "data_dir", "forget", "model", "weight_path", "method", "mode", "retain_budget",
    "forget_target", "num_epochs", "learning_rate", "log_dir", "resume", "seed", "device", "quiet",
)  # fmt: skip


@dataclasses.dataclass
class ComputeArgs:
    """Seed, device, precision."""

    seed: Seed = 0
    """Seed of the splits, the initial weights and the order of the images."""
    device: str = "auto"
    """auto takes CUDA, then MPS, then the CPU; or cpu, cuda, cuda:N, mps."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of forward and backward passes; auto is bf16 where the hardware supports it."""
    deterministic: bool = False
    """Give the same bits for the same command on the same machine and versions, or stop at an operation that cannot."""
    data_on_device: OnDevice = "auto"
    """Whether the images are kept on the device; no keeps them in host memory and copies batches through pinned memory;
    auto keeps them on the device where they take at most half of its free memory."""


@dataclasses.dataclass
class RunArgs(ComputeArgs):
    """The run: its folder, and how it trains."""

    log_dir: str = "runs"
    """Folder in which the run makes its own folder."""
    name_prefix: str | None = None
    """Beginning of the run folder's name; script, method and forget set by default."""
    resume: str | None = None
    """Run folder to go on with, with its own configuration; the result is that of a run that was never interrupted."""
    on_nan: Literal["stop", "rewind"] | None = None
    """What to do when a loss, a gradient or a constraint becomes NaN or infinite: stop with exit status 1, or rewind to
    the last good state and go on at half the learning rate, at most five times. The default is rewind for constrained
    unlearning, else stop; with --resume the flag replaces the run's own."""
    compile: bool = False
    """Compile the passes of training and unlearning by torch.compile; evaluation is not compiled."""
    compile_mode: CompileMode = "default"
    """Mode of --compile; reduce-overhead and max-autotune record CUDA graphs on a GPU."""
    sync_bn: bool = False
    """With several ranks of torchrun: batch norm over the whole batch while training, instead of each rank's part."""
    log_interval: PositiveInt = 50
    """Steps between two transfers of the running figures from the device."""
    figures: bool = True
    """Draw the model's graph, the dial and the losses for TensorBoard and the run folder at the end."""


class _HelpFormatter(DefaultHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Keep the line breaks of a script's docstring, which shows its commands, and leave out the types of flags."""

    def _expand_help(self, action: argparse.Action) -> str:
        return re.sub(r"\(type: .*default: ", "(default: ", super()._expand_help(action), flags=re.DOTALL)


class ScriptParser(ArgumentParser):
    """Flags from a dataclass's fields and their docstrings; used by every script.

    `--use_sam` and `--use_sam True` both work, a list takes `--mean .5 .5 .5`, one of numbers `.5,.5,.5` as well, a
    choice any case, `--config_file` is applied before the command line in any position, abbreviations are refused, and
    an error is one line. `--help` groups the flags by the base class that defines them. `presets` gives, from the
    parsed arguments, defaults that replace those of the dataclass, such as a method's own; `extend` gives, from
    --method, the dataclass with the flags of a method that is the user's own. `quiet`: --quiet was given.
    """

    def __init__(
        self, args_class: type, prog: str | None = None, description: str = "",
        presets: Callable[[Namespace], dict[str, object]] = lambda asked: {},
        extend: Callable[[object], type] | None = None,
    ) -> None:  # fmt: skip
        usage = "%(prog)s [--config_file FILE] [--FLAG VALUE ...]"
        super().__init__(prog, usage=usage, description=description, allow_abbrev=False, formatter_class=_HelpFormatter)
        self.args_class, self.presets, self.extend, self.quiet = args_class, presets, extend, False
        self.add_argument("--config_file", type=str, help="YAML file of flags; the command line overrides it.")
        self.add_argument("--quiet", type=bool, default=False, help="Show no progress: no bars, and no rows of epochs.")
        self.add_class_arguments(args_class, None)
        for action in self._actions:
            if getattr(action, "_typehint", None) is bool:
                action.nargs, action.const = "?", True
        self._fields = {field.name: field.type for field in dataclasses.fields(args_class)}
        self._lists = {
            name: get_args(option)[0]
            for name, kind in self._fields.items() for option in _options(kind) if get_origin(option) is list
        }  # fmt: skip
        # Values by flag as they were written, for messages.
        self._given: dict[str, object] = {}
        self._group_flags()

    def _group_flags(self) -> None:
        """Have --help show `FIRST_FLAGS`, then each base class's flags under the first line of its docstring."""
        actions = {action.dest: action for action in self._actions}
        groups = {"main flags": [name for name in FIRST_FLAGS if name in actions]}
        for base in self.args_class.__mro__:
            names = [name for name in vars(base).get("__annotations__", {}) if name in actions]
            groups[(base.__doc__ or "").partition("\n")[0].rstrip(".")] = names
        self._action_groups.clear()
        for title, names in groups.items():
            own = [actions.pop(name) for name in names if name in actions]
            if own:
                self.add_argument_group(title)._group_actions.extend(own)

    def _print_method(self, method: str) -> NoReturn:
        """Print the flags of which a method has its own default, or which are its alone, and end the process."""
        argv, self._given = self._as_parsed([f"--method={method}"])
        asked = self.parse_args(argv)
        method, own = asked.method, self.presets(asked)
        print(f"{self.prog} --method {method}: its own defaults and flags\n")
        for action in self._actions:
            if action.dest in own or re.search(rf"\b{re.escape(method)}\b.*:", str(action.help)):
                text = " ".join(action.help.split())
                value = own.get(action.dest, action.default)
                print(f"  --{action.dest} {'null' if value is None else value}\n      {text}")
        raise SystemExit(0)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Raise UserError in this program's words; `run_script` prints it and exits with status 2."""
        if unknown := re.fullmatch(r"unrecognized arguments: (.*)", message, re.DOTALL):
            raise UserError(f"{unknown[1]}: {self._unknown(unknown[1].split()[0])}") from ex
        named = re.search(r'Parser key "(\w+)"|argument --(\w+)', message)
        if named is None:
            raise UserError(message) from ex
        name = named[1] or named[2]
        kind, given = self._fields.get(name, str), self._given.get(name, "")
        if given == "":
            about = next(each.help for each in self._actions if each.dest == name)
            text = " ".join(about.split()) if str in _options(kind) else f"give {_expected(kind)}"
            raise UserError(f"--{name}: its value is missing; {text}") from ex
        text, choices = str(given), _choices(kind)
        remedy = did_you_mean(text, choices) or f"; give {_expected(kind)}"
        raise UserError(f"--{name} {text}: {'unknown' if choices else 'no valid value'}{remedy}") from ex

    def _unknown(self, word: str) -> str:
        """What is wrong with a word of the command line that is no flag and no value of one."""
        if not word.startswith("-"):
            return "a value without a flag; write --FLAG VALUE"
        name = word.partition("=")[0].lstrip("-").replace("-", "_")
        return "no such flag" + (did_you_mean(name, self._fields, "--") or f"; {self.prog} --help lists them")

    def parse_object(self, values: dict[str, object], *how: object, **further: object) -> Namespace:
        """As jsonargparse's; remembers the values."""
        self._given = values
        return super().parse_object(values, *how, **further)

    def parse(self, argv: Sequence[str] | None = None) -> object:
        """An instance of the dataclass from a command line (the process's own by default); an error is a UserError."""
        words = ["--help" if word == "-h" else word for word in (sys.argv[1:] if argv is None else argv)]
        argv, given = self._as_parsed(words)
        others = [f"--{name}" for name in given if name not in BESIDE_RESUME]
        if given.get("resume") and others and "resume" in self._fields:
            stated = f"--resume {given['resume']} {' '.join(others)}"
            raise UserError(f"{stated}: a run goes on with its own flags; leave out {' and '.join(others)}")
        if self.extend is not None and (extended := self.extend(self._method(given))) is not self.args_class:
            parser = ScriptParser(extended, self.prog, self.description, self.presets)
            parsed, self.quiet = parser.parse(words), parser.quiet
            return parsed
        if "help" in given and "method" in self._fields and (method := given["help"] or given.get("method")):
            self._print_method(method)
        files = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
        files.error = self.error
        files.add_argument("--config_file")
        known, argv = files.parse_known_args(argv)
        path = known.config_file
        values = {} if path is None else self._read(path)
        refuse_aliases([*argv, values])
        try:
            namespace = self._namespace(path, values)
            self._given = given
            parsed = self.parse_args(argv, namespace=namespace)
            if presets := self.presets(parsed):
                # The file's own values have just been checked: an error now is about an earlier run's.
                merged = self._namespace("config.yaml of the earlier run", {**presets, **values})
                parsed = self.parse_args(argv, namespace=merged)
        except UserError:
            raise
        except YAML_ERRORS as error:  # jsonargparse does not expect all that PyYAML raises
            raise UserError(f"{' '.join(argv) or path}: a value that is no valid YAML ({error})") from None
        self.quiet = parsed.quiet
        flags = {name: _builtin(parsed[name]) for name in self._fields}
        check_flags(flags)
        return self.args_class(**flags)

    def _method(self, given: dict[str, object]) -> object:
        """The method that a command line names, that its file names, or that help is asked for; None: none of them."""
        file = given.get("config_file")
        return given.get("help") or given.get("method") or (load_config(file).get("method") if file else None)

    def _read(self, path: str) -> dict[str, object]:
        """The values of a YAML file by known names."""
        values = load_config(path)
        for name, value in values.items():
            if name not in self._fields:
                hint = did_you_mean(name, self._fields) or f"; {self.prog} --help lists the keys"
                raise UserError(f"{path}: unknown key {name!r}{hint}")
            options = _options(self._fields[name])
            # jsonargparse takes null for "not given", whatever the type.
            if value is None and type(None) not in options:
                raise UserError(f"{path}: {name} is null; leave it out to get its default")
            # `validation: 0.1` is a number to YAML, and text on the command line.
            if isinstance(value, int | float) and not isinstance(value, bool) and str in options:
                values[name] = str(value)
            elif isinstance(value, str):
                values[name] = as_spelled(value, _choices(self._fields[name]))
        return values

    def _namespace(self, path: str | None, values: dict[str, object]) -> Namespace | None:
        """Values checked as those of a command line are."""
        try:
            return self.parse_object(values) if values or path is not None else None
        except UserError as error:
            raise UserError(f"{path}: {error}") from None

    def _as_parsed(self, argv: list[str]) -> tuple[list[str], dict[str, object]]:
        """A command line with each list's values as one (`--mean .5 .5` becomes `--mean '[".5", ".5"]'`) and choices in
        their own spelling, and the values by flag as they were written."""
        groups: list[list[str]] = [[]]
        for word in argv:
            if word.startswith("--"):
                groups.append([])
            groups[-1].append(word)
        joined, given = groups[0], {}
        for first, *values in groups[1:]:
            flag, equals, value = first.partition("=")
            name, values = flag.removeprefix("--"), [value] * bool(equals) + values
            given[name] = " ".join(values)
            if name in self._lists and values and (len(values) > 1 or not values[0].startswith("[")):
                of_numbers = issubclass(self._lists[name], int | float)
                values = [json.dumps(",".join(values).split(",") if of_numbers else values)]
            elif values and name in self._fields:
                values[0] = as_spelled(values[0], _choices(self._fields[name]))
            joined += [f"{flag}={values[0]}", *values[1:]] if equals else [flag, *values]
        return joined, given


def _choices(annotation: object) -> tuple[str, ...]:
    """The words that an annotation names."""
    named = (get_args(option) for option in _options(annotation) if get_origin(option) is Literal)
    return tuple(str(word) for words in named for word in words)


def as_spelled(text: str, choices: Sequence[str]) -> str:
    """The choice that a text is but for case, hyphens and underscores, or the text; `NegGrad+` is `neggrad_plus`."""

    def plain(word: str) -> str:
        return re.sub(r"[-_ ]", "", word.lower().replace("+", "plus"))

    return next((choice for choice in choices if plain(choice) == plain(text)), text)


def _expected(annotation: object) -> str:
    """What a flag takes, in words."""
    found = []
    for option in _options(annotation):
        if get_origin(option) is list:
            found.append(f"several, each {_expected(get_args(option)[0])}")
        elif option in WORDS:
            found.append(WORDS[option])
    if choices := _choices(annotation):
        found.insert(0, f"one of {', '.join(choices)}")
    return ", or ".join(found)


def _builtin(value: object) -> object:
    """Turn jsonargparse's restricted numbers into plain ones, which YAML and checkpoints can hold."""
    if isinstance(value, list):
        return [_builtin(item) for item in value]
    plain = next((kind for kind in (bool, int, float) if isinstance(value, kind)), None)
    return value if plain is None else plain(value)


def _options(annotation: object) -> tuple[object, ...]:
    """An annotation, and the types that it is a union of."""
    return annotation, *getattr(annotation, "__args__", ())
