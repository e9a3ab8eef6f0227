"""Code of the user's own, which is executed, so that nobody but the user may name it; libraries that may be absent."""

import importlib
import importlib.util
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from helper_functions.errors import UserError
from helper_functions.wording import did_you_mean


def refuse_unnamed(flag: str, name: str, asked: str | None, source: str) -> None:
    """Refuse to run code that an earlier run names and the user does not, since its folder may be a stranger's.

    Args:
        flag: the flag that names code, without hyphens.
        name: its value in the earlier run.
        asked: its value as the user gave it.
        source: the flag that names the run, for the error.
    """
    if name != asked:
        raise UserError(f"{source}: the {flag} of that run is code, {name}; if you trust it, add --{flag} {name}")


def load_module(place: str, flag: str) -> ModuleType:
    """The module of a file or of a dotted name, imported once; its neighbours can be imported from it."""
    if not place.endswith(".py"):
        _look_in(os.getcwd())
        return importlib.import_module(place)
    path = Path(place).resolve()
    if not path.is_file():
        raise UserError(f"--{flag} {place}: there is no such file")
    name = f"code of {path}"
    if name not in sys.modules:
        _look_in(str(path.parent))
        spec = importlib.util.spec_from_file_location(name, path)
        sys.modules[name] = importlib.util.module_from_spec(spec)
        try:
            spec.loader.exec_module(sys.modules[name])
        except BaseException:
            del sys.modules[name]
            raise
    return sys.modules[name]


def load_named(spec: str, flag: str) -> object:
    """What `FILE.py:NAME` or `package.module:NAME` names; UserError where it is not there."""
    place, _, name = spec.rpartition(":")
    module = load_module(place, flag)
    if not hasattr(module, name):
        raise UserError(f"--{flag} {spec}: {place} has no {name!r}{did_you_mean(name, vars(module))}")
    return getattr(module, name)


def library(name: str) -> ModuleType:
    """timm or transformers, without its messages and progress bars; UserError where it is not installed."""
    try:
        found = importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is not installed ({error}): pip install -r requirements-models.txt") from None
    if name == "transformers":
        found.utils.logging.set_verbosity_error()
        found.utils.logging.disable_progress_bar()
    return found


def _look_in(folder: str) -> None:
    # Last, so that no file in it stands for one of ours or of a library.
    if folder not in sys.path:
        sys.path.append(folder)


def called(what: str, make: Callable[[], object]) -> object:
    """What `make` gives; an exception of somebody else's code becomes a UserError that says where it was raised."""
    try:
        return make()
    except UserError:
        raise
    except Exception as error:
        where = traceback.extract_tb(error.__traceback__)[-1]
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise UserError(f"{what}: {reason} ({Path(where.filename).name}, line {where.lineno})") from error
