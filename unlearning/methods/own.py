"""A method of the user's own, `FILE.py:METHOD`: its code, and the flags that it brings along."""

import dataclasses
import hashlib
import inspect
import keyword
import re
from pathlib import Path

from helper_functions.config import FiniteFloat
from helper_functions.errors import UserError
from helper_functions.run_folder import as_name
from helper_functions.user_code import called, load_module
from helper_functions.wording import did_you_mean
from unlearning.arguments import MethodArgs
from unlearning.methods.method import Method

# Types of flags, by those of their defaults.
KINDS = {bool: bool, int: int, float: FiniteFloat, str: str}
SHARED = {field.name for field in dataclasses.fields(MethodArgs)}


def is_own(name: object) -> bool:
    """Whether a method is given by its code."""
    return isinstance(name, str) and ":" in name


def file_of(name: str) -> Path:
    """The file of `FILE.py:METHOD`."""
    return Path(name.rpartition(":")[0])


def label_of(name: str) -> str:
    """A method's name in tables, without the folders of its file."""
    return Path(name).name if is_own(name) else name


def stem_of(name: str) -> str:
    """A method's name in names of files and folders."""
    return as_name(label_of(name)) if is_own(name) else name


def check_labels(names: list[str]) -> None:
    """Refuse two methods of one name in tables, whose rows would be one; UserError with the remedy."""
    for name in dict.fromkeys(names):
        other = next(each for each in names if label_of(each) == label_of(name))
        if other != name:
            raise UserError(f"--methods {name}: {other} has the same name in the table; rename one of the files")


def fingerprint(name: str) -> str:
    """A method's name in keys of finished runs; it changes with the file of its code, where it has one."""
    return f"{label_of(name)} {hashlib.sha256(file_of(name).read_bytes()).hexdigest()}" if is_own(name) else name


def load_own(name: str) -> Method:
    """The method called `FILE.py:METHOD`; UserError where there is none."""
    what, (place, _, attribute) = f"--method {name}", name.rpartition(":")
    if not place.endswith(".py"):
        raise UserError(f"{what}: the code of a method is FILE.py:METHOD")
    module = called(what, lambda: load_module(place, "method"))
    found = getattr(module, attribute, None)
    if found is None:
        names = [each for each, value in vars(module).items() if isinstance(value, Method)]
        raise UserError(f"{what}: {place} has no {attribute!r}{did_you_mean(attribute, names)}")
    if not isinstance(found, Method):
        kinds = "published, one_shot or constrained of unlearning.methods.method"
        raise UserError(f"{what}: it is a {type(found).__name__}; give what {kinds} returns (CONTRIBUTING.md)")
    try:
        inspect.signature(found.build).bind(None)
    except TypeError as error:
        function = getattr(found.build, "__name__", "its function")
        raise UserError(f"{what}: {function} takes the MethodContext alone ({error})") from None
    if unknown := sorted(set(found.search) - found.follows):
        raise UserError(f"{what}: it searches {unknown[0]}, which is none of its flags{_meant(unknown[0], found)}")
    return found


def _meant(flag: str, method: Method) -> str:
    return did_you_mean(flag, sorted(method.follows))


def own_flags(values: dict[str, object]) -> dict[str, object]:
    """Those of a method's defaults that are flags of its own."""
    return {flag: value for flag, value in values.items() if flag not in SHARED}


def with_flags(base: type, name: str, flags: dict[str, object]) -> type:
    """A dataclass of arguments with a method's own flags, by their defaults; UserError for one that there cannot be."""
    taken = {"help", "config_file", *(field.name for field in dataclasses.fields(base))}
    for flag, value in flags.items():
        if flag in taken or keyword.iskeyword(flag) or not re.fullmatch("[a-z][a-z0-9_]*", flag):
            raise UserError(f"--method {name}: its flag {flag!r} cannot have this name; choose another one")
        if type(value) not in KINDS:
            raise UserError(f"--method {name}: the default of {flag} is {value!r}; give a number, a text or a bool")
    fields = [(flag, KINDS[type(value)], dataclasses.field(default=value)) for flag, value in flags.items()]
    said = "".join(f"\n    {flag}: {label_of(name)}: its own." for flag in flags)
    about = {"__doc__": f"Flags of {label_of(name)}.\n\nArgs:{said}"}
    return dataclasses.make_dataclass(base.__name__, fields, bases=(base,), namespace=about) if flags else base
