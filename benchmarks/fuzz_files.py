"""Targets of fuzzing that read files of bytes, and JSON."""

import io
import json
import re
import tempfile
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from PIL import Image

import test
from benchmarks.fuzz_cases import Target, mutated, toy
from benchmarks.sweeps.sweep import read_rows
from data.imagefolder import read_image_folder
from data.split_record import Splits
from data.splits import make_splits
from evaluation.verify.verify import verify_run
from helper_functions.code_version import code_version
from helper_functions.files import load_tensors
from helper_functions.record import RunRecord
from models.weights import load_weights


def splits() -> Target:
    """A splits.npz."""
    dataset = toy()
    made = [make_splits(dataset, forget, validation="0.2") for forget in ("random:5", "class:apple", None)]
    seeds = tuple(_written(split.save, "splits.npz") for split in made)
    return Target(lambda path: Splits.load(path, dataset), mutated(seeds), seeds, "splits.npz")


def _tensors() -> tuple[bytes, ...]:
    state = {"conv1.weight": torch.ones(2, 1, 3, 3), "fc.weight": torch.ones(2, 2).t(), "count": torch.tensor(3)}
    contents = (state, {"state_dict": state, "epoch": 3}, {"model": {f"module.{k}": v for k, v in state.items()}})
    new = tuple(_saved(content) for content in contents)
    return (*new, _saved(state, _use_new_zipfile_serialization=False))


def _saved(content: object, **options: bool) -> bytes:
    file = io.BytesIO()
    torch.save(content, file, **options)
    return file.getvalue()


def _written(save: Callable[[Path], None], name: str) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / name)
        return (Path(folder) / name).read_bytes()


def weights() -> Target:
    """A file of weights from anywhere."""
    return Target(load_weights, mutated(_tensors()), _tensors(), "weights.pt")


def safetensors() -> Target:
    """The same in the other format: a header of JSON, and bytes."""
    from safetensors.torch import save

    state = {"conv1.weight": torch.ones(2, 1, 3, 3), "count": torch.tensor(3)}
    seeds = (save(state), save(state, {"format": "pt"}), save({"a": torch.ones(2, dtype=torch.bfloat16)}))
    odd = ("F32", "I64", "BOOL", "F8_E4M3", "[0,0]", "[9999999999]", '"__metadata__"', "null", "-1", "1e9", '{"a":')
    return Target(load_weights, mutated(seeds, odd), seeds, "weights.safetensors")


def tensors() -> Target:
    """A file of the program's own tensors."""
    return Target(lambda path: load_tensors(path, "start anew"), mutated(_tensors()), _tensors(), "tensors.pt")


def checkpoint() -> Target:
    """What --resume goes on from."""
    content = {
        "lengths": {"metrics.jsonl": 10},
        "step": 3,
        "done": {},
        "epoch": 1,
        "state": {"weight": torch.ones(2, 2)},
    }
    seeds = (_saved(content), _saved({**content, "lengths": {}}))
    return Target(lambda path: RunRecord(path.parent).load_checkpoint(), mutated(seeds), seeds, "checkpoint.pt")


def rows() -> Target:
    """The finished cells of a leaderboard."""
    line = json.dumps({"key": "0123", "figures": {"forget_top1": 1.5, "list": [1, None, True]}})
    odd = ("null", "1e999", "NaN", "9" * 5000, "[" * 100_000, '{"key": ', '"\\ud800"', "\ufeff", "\n", '{"key": [1]}')
    seeds = (f"{line}\n{line}\n".encode(), line.encode(), b"")
    return Target(read_rows, mutated(seeds, odd), seeds, "rows.jsonl")


def report() -> Target:
    """The report.json of a run folder, as test.py --verify reads it."""
    schema = json.loads(Path("docs/report.schema.json").read_text())
    seeds = (json.dumps(_instance(schema, schema["$defs"]), indent=1).encode(), b'{"schema_version": 1, "models": {}}')
    version = code_version()
    # matplotlib creates its cache folders at the first import.
    import matplotlib.backends.backend_svg
    import matplotlib.style  # noqa: F401

    def prepare(folder: Path) -> None:
        (folder / "config.yaml").write_text("seed: 0\n")
        for name in ("splits.npz", "report.html"):
            (folder / name).write_bytes(b"")

    def read(path: Path) -> object:
        # Asking git is the program's own affair, and would start a process.
        with mock.patch("evaluation.verify.verify.code_version", lambda: version):
            return verify_run(test.Args(verify=str(path.parent)), test.SCRIPTS)

    odd = (
        "null",
        "1e999",
        "NaN",
        "-0",
        "9" * 5000,
        "[" * 100_000,
        '"\\ud800"',
        "{}",
        "[]",
        '"a": 1,',
        "<script>",
        "true",
    )
    return Target(read, mutated(seeds, odd), seeds, "report.json", prepare)


def _instance(schema: dict, definitions: dict) -> object:
    """The smallest value that a JSON Schema describes."""
    if "$ref" in schema:
        return _instance(definitions[schema["$ref"].rpartition("/")[2]], definitions)
    if "const" in schema or "enum" in schema:
        return schema.get("const", schema.get("enum", [None])[0])
    kind = schema.get("type", "object")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        return {name: _instance(_property(schema, name), definitions) for name in schema.get("required", ())}
    if kind == "array":
        parts = schema.get("prefixItems", [schema.get("items", {})] * max(schema.get("minItems", 1), 1))
        return [_instance(part, definitions) for part in parts]
    if kind == "string":
        texts = ("a", "0" * 64, "0" * 40, "2026-01-01T00:00:00+00:00")
        return next(text for text in texts if re.search(schema.get("pattern", ""), text))
    return {"boolean": True, "null": None}.get(kind, max(schema.get("minimum", 1), 1))


def _property(schema: dict, name: str) -> dict:
    patterns = schema.get("patternProperties", {}).items()
    matching = [part for pattern, part in patterns if re.search(pattern, name)]
    return schema.get("properties", {}).get(name) or matching[0]


def picture() -> Target:
    """A picture in a folder of classes."""
    colours = Image.fromarray(np.arange(108, dtype=np.uint8).reshape(6, 6, 3))
    grey = Image.fromarray(np.full((6, 6), 30_000, np.uint16))
    exif = Image.Exif()
    exif[0x0112] = 6
    seeds = (
        _picture(colours, "PNG"), _picture(colours.convert("P"), "PNG", transparency=0), _picture(grey, "PNG"),
        _picture(colours, "JPEG", exif=exif), _picture(colours.convert("CMYK"), "JPEG", progressive=True),
    )  # fmt: skip

    def prepare(folder: Path) -> None:
        (folder / "photos/b").mkdir(parents=True)
        (folder / "photos/b/x.png").write_bytes(seeds[0])

    def read(path: Path) -> object:
        return read_image_folder(path.parent.parent, 4, False)

    return Target(read, mutated(seeds), seeds, "photos/a/x.png", prepare)


def _picture(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
