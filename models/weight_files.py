"""Weight files of any origin: reading them, recording their form, and writing other weights in the same form.

A torch file (`torch.save`, the zip archive or the legacy format) holds a state_dict, or a checkpoint with one under one
of `CHECKPOINT_KEYS`; a safetensors file holds names and tensors alone. The prefixes that DistributedDataParallel and
torch.compile put before the names are removed, and restored.
"""

import dataclasses
import re
from collections import OrderedDict
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from helper_functions.errors import UserError
from helper_functions.files import check_file, read_tensors, save_tensors, whole_file
from helper_functions.safe_files.regular_files import open_bytes
from helper_functions.training.distribution import on_main

CHECKPOINT_KEYS = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
SAVE = "save model.state_dict() with torch.save or safetensors"
WRAPPER_PREFIXES = re.compile(r"\A(module\.|_orig_mod\.)+")  # DistributedDataParallel's and torch.compile's
# Other dtypes (quantised, complex, float8) have no unique conversion to trainable weights.
DTYPES = (
    torch.float16, torch.bfloat16, torch.float32, torch.float64,
    torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64,
)  # fmt: skip


@dataclasses.dataclass(frozen=True)
class WeightFile:
    """The form of a weight file.

    suffix: of its name. key: of the weights in a checkpoint, None for a bare state_dict. names: the file's name of each
    tensor by the model's own, in the file's order. dtypes: likewise. versions: torch's class versions of the modules
    where the file has them. metadata: of safetensors. left_out: other entries of the checkpoint. matched: how names of
    the file became the model's, empty where they are the same but for known prefixes.
    """

    format: Literal["torch", "legacy torch", "safetensors"]
    suffix: str
    key: str | None
    names: dict[str, str]
    dtypes: dict[str, torch.dtype]
    versions: dict[str, dict[str, int]] | None = None
    metadata: dict[str, str] | None = None
    left_out: tuple[str, ...] = ()
    matched: str = ""

    def is_plain(self, model: nn.Module) -> bool:
        """Whether `torch.save` of the model's own state_dict gives this form."""
        own = {name: value.dtype for name, value in model.state_dict().items()}
        bare = all(name == given for name, given in self.names.items())
        return self.format == "torch" and self.key is None and bare and self.dtypes == own


def check_weight_file(path: str | Path) -> None:
    """Refuse a --weight_path whose first bytes are those of another kind of file, by a UserError."""
    check_file("weight_path", path)
    with open_bytes(path) as file:
        known = file.read(4).startswith((b"PK\x03\x04", b"\x80"))
    if not (known or _is_safetensors(Path(path))):
        raise UserError(f"--weight_path {path}: no readable checkpoint, but another kind of file; {SAVE}")


def read_weight_file(path: str | Path) -> tuple[dict[str, Tensor], WeightFile]:
    """Weights by the model's own names, on the CPU, and the file's form; nothing in the file is executed.

    Raises UserError, which names the path, where the file is missing, unreadable, truncated or no checkpoint, or holds
    anything but dense tensors of numbers.
    """
    path = Path(path)
    content, format_, metadata = _read(path)
    key, entries = None, content
    if isinstance(content, dict):
        # Methods of the type: a file can replace the attributes of an OrderedDict.
        inner = ((name, dict.get(content, name)) for name in CHECKPOINT_KEYS)
        key, entries = next(((name, value) for name, value in inner if isinstance(value, dict)), (None, content))
    if not isinstance(entries, dict):
        raise UserError(f"{path} holds a {type(entries).__name__}, not a state_dict: save model.state_dict()")
    weights, names = {}, {}
    for name, value in dict.items(entries):
        own = WRAPPER_PREFIXES.sub("", name) if isinstance(name, str) else None
        if own in names:
            raise UserError(f"{path} holds {shown(own)} twice, with and without a wrapper's prefix: save one model")
        weights[own], names[own] = _dense(name, value, path), name
    if not weights:
        raise UserError(f"{path} holds an empty state_dict: save model.state_dict()")
    form = WeightFile(
        format_, _suffix(path, format_), key, names, {name: value.dtype for name, value in weights.items()},
        _versions(entries), metadata,
        tuple(str(name) for name in dict.keys(content) if isinstance(name, str) and name != key) if key else (),
    )  # fmt: skip
    return weights, form


@on_main
def write_weight_file(model: nn.Module, form: WeightFile, path: Path) -> None:
    """Write a model's weights in the form of a file: format, container, names, order and dtypes.

    The other entries of a checkpoint are left out: an optimizer's momentum and averaged weights still depend on the
    forgotten images, and an epoch or a score belongs to another model. Half precision rounds the weights; a tensor that
    would overflow stays in single precision. Raises OSError where it cannot be written.
    """
    own, cast = model.state_dict(), {}
    for name, dtype in form.dtypes.items():
        value = own[name]
        # Shared memory is converted once, so that it stays shared.
        place = (value.data_ptr(), value.shape, value.stride(), dtype)
        cast.setdefault(place, _as_dtype(value, dtype))
        own[name] = cast[place]
    tensors = {given: own[name] for name, given in form.names.items()}
    if form.format == "safetensors":
        from safetensors.torch import save

        # safetensors refuses shared memory.
        with whole_file(path) as temporary:
            temporary.write_bytes(save({name: value.clone() for name, value in tensors.items()}, form.metadata))
        return
    if form.versions is not None:
        tensors = OrderedDict(tensors)
        tensors._metadata = form.versions
    content = tensors if form.key is None else {form.key: tensors}
    save_tensors(content, path, legacy=form.format == "legacy torch")


def shown(name: object) -> str:
    """A name from a file, shortened and printable."""
    if not isinstance(name, str):
        return f"a {type(name).__name__}"
    return name if name.isprintable() and len(name) <= 100 else repr(name[:100])


def _read(path: Path) -> tuple[object, str, dict[str, str] | None]:
    """Content, format and metadata of a file; every failure is a UserError of one line."""
    if not path.is_file():
        what = "is not a file" if path.exists() else "does not exist"
        raise UserError(f"{path} {what}: name a file written by torch.save(model.state_dict(), path)")
    try:
        if _is_safetensors(path):
            content, metadata = _read_safetensors(path)
            return content, "safetensors", metadata
        return *read_tensors(path), None
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}): name a file that can") from error
    except MemoryError as error:
        raise UserError(f"{path} does not fit into memory: use a machine with more") from error
    except ValueError as error:
        raise UserError(
            f"{path} is no readable checkpoint ({error}): truncated, of another format, or pickled objects instead of "
            f"tensors; {SAVE}"
        ) from error


def _is_safetensors(path: Path) -> bool:
    """Whether a file begins with eight bytes of a length and a brace of JSON, as no torch file does."""
    with open_bytes(path) as file:
        head = file.read(9)
    return head.endswith(b"{") and len(head) == 9 and not head.startswith(b"PK")


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str] | None]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.offset_keys()}, file.metadata()
    except SafetensorError as error:
        raise ValueError(f"safetensors: {shown(str(error))}") from error


def _dense(name: object, value: object, path: Path) -> Tensor:
    """The tensor without attributes that a file can give it."""
    remedy = f"save model.state_dict(), alone or under one of the keys {', '.join(CHECKPOINT_KEYS)}"
    if not isinstance(name, str):
        raise UserError(f"{path} is not a state_dict: a name in it is of type {type(name).__name__}: {remedy}")
    if not isinstance(value, Tensor):
        kind = type(value).__name__
        raise UserError(f"{path} is not a state_dict: its entry {name[:100]!r} is a {kind}, not a tensor: {remedy}")
    value = Tensor.detach(value)
    if value.layout is not torch.strided or value.is_meta or value.dtype not in DTYPES:
        kind = f"{value.layout}, {value.dtype}, on {value.device}".replace("torch.", "")
        raise UserError(f"{path}: {shown(name)} is no dense tensor of real numbers ({kind}); save it as float32")
    if value.numel() * value.element_size() > value.untyped_storage().nbytes():
        raise UserError(f"{path}: {shown(name)} claims {value.numel():,} numbers and holds fewer; save its .clone()")
    return value


def _suffix(path: Path, format_: str) -> str:
    """`.safetensors`, `.pth`, `.pth.tar` and so on; the format's own where the name has no usable suffix."""
    found = re.search(r"(\.[A-Za-z0-9_]{1,20})?\.[A-Za-z0-9_]{1,20}\Z", path.name)
    if found is None:
        return ".safetensors" if format_ == "safetensors" else ".pt"
    return found[0] if found[0].endswith(".tar") else path.suffix


def _versions(entries: dict) -> dict[str, dict[str, int]] | None:
    """A state_dict's `_metadata`, where it has the form that torch writes."""
    versions = vars(entries).get("_metadata") if isinstance(entries, OrderedDict) else None
    if not isinstance(versions, dict):
        return None
    for name, value in dict.items(versions):
        if not isinstance(name, str) or not isinstance(value, dict):
            return None
        if any(key != "version" or type(number) is not int for key, number in dict.items(value)):
            return None
    return {name: dict(dict.items(value)) for name, value in dict.items(versions)}


def _as_dtype(value: Tensor, dtype: torch.dtype) -> Tensor:
    converted = value.detach().to("cpu", dtype).contiguous()
    if dtype.is_floating_point and not converted.isfinite().all():
        return value.detach().cpu().contiguous()
    return converted
