"""Files that are written whole or not at all: JSON, YAML, tensors."""

import contextlib
import errno
import hashlib
import json
import os
import re
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch
import yaml

from helper_functions.errors import UserError
from helper_functions.safe_files.archives import TorchFormat, check_torch_file
from helper_functions.safe_files.plain_yaml import load_plain
from helper_functions.safe_files.regular_files import open_bytes, open_text
from helper_functions.training.distribution import on_main

LARGEST_CONFIG = 100_000
# `.NAME.` and the suffix of mkstemp.
UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}")


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside `path` that takes its place when the block ends well, and is removed when it does not."""
    path, temporary = Path(path), None
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        yield temporary
        with open(temporary, "rb+") as file:
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        temporary.replace(path)
    except OSError as error:
        error.filename = str(path)  # not the temporary one
        raise
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


def key_of(configuration: dict) -> str:
    """Sixteen hexadecimal digits that change with any value: a key for what was made with a configuration."""
    return hashlib.sha256(json.dumps(configuration, sort_keys=True).encode()).hexdigest()[:16]


def check_folder_of(flag: str, path: str | None) -> None:
    """Refuse a file whose folder does not exist by a UserError that names the flag."""
    if path is not None and not Path(path).parent.is_dir():
        raise UserError(f"--{flag} {path}: there is no such folder; make it first")


def make_folder(flag: str, path: str | Path) -> Path:
    """Make a folder, and those above it, where they are absent; a UserError names the flag where that fails."""
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--{flag} {path}: no folder can be made there ({error.strerror})") from None
    return Path(path)


def check_file(flag: str, path: str | Path) -> None:
    """Raise UserError where the path that a flag names is no file."""
    if not Path(path).is_file():
        true = "it is a folder; name a file in it" if Path(path).is_dir() else "there is no such file"
        raise UserError(f"--{flag} {path}: {true}")


def check_folder(flag: str, path: str | Path, remedy: str = "") -> None:
    """Raise UserError where the path that a flag names is no folder."""
    if not Path(path).is_dir():
        true = "it is a file, not a folder" if Path(path).exists() else "there is no such folder"
        raise UserError(f"--{flag} {path}: {true}{remedy}")


def check_new_file(flag: str, path: str | None) -> None:
    """Refuse a file that exists, or whose folder does not, by a UserError that names the flag."""
    if path is not None and Path(path).exists():
        raise UserError(f"--{flag} {path}: it exists and is not overwritten; name a new file")
    check_folder_of(flag, path)


def remove_unfinished(folder: Path) -> None:
    """Remove what `whole_file` leaves when its process is killed; the caller holds the folder's lock."""
    for path in Path(folder).glob(".*"):
        if UNFINISHED.fullmatch(path.name) and path.is_file():
            path.unlink()


@on_main
def write_bytes(path: Path, content: bytes) -> None:
    """Write a file whole or not at all."""
    with whole_file(path) as temporary:
        temporary.write_bytes(content)


def write_json(path: Path, content: object) -> None:
    """Write JSON, indented; NaN and infinity are refused, since JSON has no such numbers."""
    write_bytes(path, f"{json.dumps(content, indent=2, allow_nan=False)}\n".encode())


def save_config(config: dict, path: Path) -> None:
    """Write a flat configuration as YAML."""
    write_bytes(path, yaml.safe_dump(config, sort_keys=False).encode())


def load_config(path: Path) -> dict:
    """Read a YAML configuration: a mapping of names to plain values; anything else is a UserError."""
    try:
        with open_text(path) as file:
            text = file.read(LARGEST_CONFIG + 1)
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or "not a text file"
        raise UserError(f"{path}: the configuration cannot be read ({reason})") from None
    if len(text) > LARGEST_CONFIG:
        raise UserError(f"{path}: longer than {LARGEST_CONFIG} characters; name a configuration, which is short")
    try:
        content = load_plain(text)
    except ValueError as error:
        raise UserError(f"{path}: no valid YAML: {error}") from None
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise UserError(f"{path}: a configuration is a mapping of names to values, one `name: value` a line")
    return content


@on_main
def save_tensors(content: object, path: Path, *, legacy: bool = False) -> None:
    """Write tensors, plain values, and lists and dicts of them, for `load_tensors`; `legacy`: as torch before 1.6."""
    with whole_file(path) as temporary:
        try:
            torch.save(content, temporary, _use_new_zipfile_serialization=not legacy)
        except RuntimeError:  # torch gives no reason for a failed write
            raise OSError(errno.EIO, "cannot be written; is the disk full, or a limit on file sizes reached?") from None


def load_tensors(path: Path, remedy: str) -> dict:
    """Read what `save_tensors` wrote, on the CPU; anything else is a UserError, and is not executed."""
    try:
        content, _ = read_tensors(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror or error}); {remedy}") from None
    except (ValueError, MemoryError):  # a damaged file may claim more than fits into memory
        raise UserError(f"{path}: truncated, or no file of tensors that this program wrote; {remedy}") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds {type(content).__name__}, not the expected fields; {remedy}")
    return content


def read_tensors(path: Path) -> tuple[object, TorchFormat]:
    """The content of a torch file by torch.load on the CPU with `weights_only=True`, and its format.

    Raises:
        OSError: it cannot be opened, or is no regular file.
        MemoryError: it does not fit.
        ValueError: it is truncated, holds anything but tensors and plain values, or unpacks to far more than its size.
    """
    with open_bytes(path) as file, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about odd pickle protocols
        written = check_torch_file(file)
        try:
            return torch.load(file, map_location="cpu", weights_only=True), written
        except MemoryError:
            raise
        except Exception as error:  # a damaged file can fail in any of the unpickler's ways
            refused = re.search(r"GLOBAL (\S+)", str(error))
            raise ValueError(f"it names {refused[1]!r}" if refused else type(error).__name__) from error
