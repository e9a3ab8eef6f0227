"""What is fuzzed: every function that reads bytes or words from outside, by name, with cases that come close to good.

A new one is a function that gives a `Target`, and its line in `TARGETS`.
"""

import dataclasses
import functools
import io
import json
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import torch
from hypothesis import strategies as st
from PIL import Image

import test
import train
import train_constrained_unlearning
import train_contrastive
from benchmarks.fuzz_cases import ODD, TEXTS, Cases, encoded, mutated
from benchmarks.sweep import read_rows
from data.datasets import Dataset
from data.forget import parse_forget, select_forget
from data.image_list import read_image_list
from data.imagefolder import read_image_folder
from data.partition import Partition
from data.split_record import Splits
from data.splits import make_splits
from helper_functions.files import load_tensors
from helper_functions.record import RunRecord
from models.weights import load_weights


@dataclasses.dataclass(frozen=True)
class Target:
    """A parser and what it is given.

    Args:
        read: parses the file that holds a case.
        cases: hypothesis's way to make them.
        seeds: well-formed ones, from which atheris starts.
        file: where the case lies in its folder.
        prepare: puts there what else is needed.
    """

    read: Callable[[Path], object]
    cases: Cases
    seeds: tuple[bytes, ...]
    file: str = "case"
    prepare: Callable[[Path], None] = lambda folder: None


def _flags(script: ModuleType) -> st.SearchStrategy[tuple[str, str]]:
    """A name and a value: a flag with what it is by default, or anything."""
    values = {name: value for name, value in dataclasses.asdict(script.Args()).items() if value}
    defaults = {name: value if isinstance(value, str) else json.dumps(value) for name, value in values.items()}
    names = st.sampled_from([field.name for field in dataclasses.fields(script.Args)]) | st.sampled_from(ODD)
    return st.sampled_from(sorted(defaults.items())) | st.tuples(names, TEXTS)


def configuration(script: ModuleType) -> Target:
    """A YAML file for a script's parser, most of whose lines look like flags."""
    parser = script.get_parser()
    signs = st.just(": ") | st.sampled_from((":", " ", ":\n  ", ": &a ", ": ["))
    line = st.tuples(_flags(script), signs).map(lambda case: case[1].join(case[0]))
    own = (path.read_bytes() for path in sorted(Path("configs").glob("c*/*.yaml")))
    seeds = (b"seed: 3\ndataset: digits\nmean: [0.5]\ncompile: true\n", *own)
    text = st.lists(line | TEXTS, max_size=5).map("\n".join).map(encoded)
    cases = text | mutated(seeds, ODD)
    return Target(lambda path: parser.parse(["--config_file", str(path)]), cases, seeds, "config.yaml")


def command_line(script: ModuleType) -> Target:
    """Words for a script's parser; in a case, a NUL parts them, which no word can hold."""
    parser = script.get_parser()
    flag = _flags(script).map(lambda case: [f"--{case[0]}", case[1]])
    cases = st.lists(flag | flag.map("=".join).map(lambda word: [word]) | TEXTS.map(lambda word: [word]), max_size=4)

    def encode(words: list[list[str]]) -> bytes:
        return b"\0".join(encoded(word.replace("\0", "")) for group in words for word in group)

    def read(path: Path) -> object:
        return parser.parse([os.fsdecode(word) for word in path.read_bytes().split(b"\0")])

    seeds = (b"--seed\x003\0--use_sam", b"--mean\x000.5\x000.5\0--forget\0class:1,2", b"--name_prefix=x\0--help")
    return Target(read, cases.map(encode), seeds)


def _toy() -> Dataset:
    labels = torch.arange(60) % 4
    images = torch.arange(240).to(torch.uint8).reshape(60, 1, 2, 2)
    return Dataset(
        "toy", images, labels, ("apple", "pear", "0", "cat, sleeping"), 50, (0.5,), (0.5,),
        {"fruit": ("apple", "pear")}, tuple(f"c{i % 4}/{i}.png" for i in range(60)),
    )  # fmt: skip


def forget_request() -> Target:
    """A text in the grammar of --forget, and the images that it names."""
    dataset, nothing = _toy(), np.empty(0, dtype=np.int64)
    partition = Partition(np.arange(40), np.arange(40, 50), np.arange(50, 60), "official test", nothing)

    def read(path: Path) -> object:
        request = parse_forget(os.fsdecode(path.read_bytes()))
        return select_forget(request, dataset, partition, 0)

    kinds = st.sampled_from(("random:", "class:", "superclass:", "mislabelled:", "file:", "class:apple,", ""))
    cases = st.tuples(kinds, st.lists(TEXTS, max_size=3).map(",".join)).map("".join).map(encoded)
    seeds = (b"random:0.1", b"random:3", b"class:apple,2", b"superclass:fruit", b"mislabelled:.2", b"file:x")
    return Target(read, cases | mutated(seeds), seeds)


def forget_list() -> Target:
    """A file that lists images."""
    dataset = _toy()
    entry = TEXTS | st.integers(-5, 70).map(str) | st.sampled_from(dataset.file_names)
    ends = st.sampled_from(("\n", "\r\n", "\r", "\n\n", "\0", "\u2028"))
    cases = st.lists(st.tuples(entry, ends).map("".join), max_size=8).map("".join).map(encoded)
    seeds = (b"1\n2\n# three\n\n3\n", b"c1/1.png\r\n./c2/2.png\r\n", "\ufeff7\n".encode())
    return Target(lambda path: read_image_list(path, dataset), cases | mutated(seeds), seeds, "list.txt")


def splits() -> Target:
    """A splits.npz."""
    dataset = _toy()
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


def tensors() -> Target:
    """A file of the program's own tensors."""
    return Target(lambda path: load_tensors(path, "start anew"), mutated(_tensors()), _tensors(), "tensors.pt")


def checkpoint() -> Target:
    """What --resume goes on from."""
    content = {"lengths": {"metrics.jsonl": 10}, "done": {}, "epoch": 1, "state": {"weight": torch.ones(2, 2)}}
    seeds = (_saved(content), _saved({**content, "lengths": {}}))
    return Target(lambda path: RunRecord(path.parent).load_checkpoint(), mutated(seeds), seeds, "checkpoint.pt")


def rows() -> Target:
    """The finished cells of a leaderboard."""
    line = json.dumps({"key": "0123", "figures": {"forget_top1": 1.5, "list": [1, None, True]}})
    odd = ("null", "1e999", "NaN", "9" * 5000, "[" * 100_000, '{"key": ', '"\\ud800"', "\ufeff", "\n", '{"key": [1]}')
    seeds = (f"{line}\n{line}\n".encode(), line.encode(), b"")
    return Target(read_rows, mutated(seeds, odd), seeds, "rows.jsonl")


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


SCRIPTS = {
    "train.py": train, "train_constrained_unlearning.py": train_constrained_unlearning,
    "train_contrastive.py": train_contrastive, "test.py": test,
}  # fmt: skip
TARGETS: dict[str, Callable[[], Target]] = {
    **{f"configuration of {name}": functools.partial(configuration, script) for name, script in SCRIPTS.items()},
    **{f"command line of {name}": functools.partial(command_line, script) for name, script in SCRIPTS.items()},
    "forget request": forget_request,
    "forget list": forget_list,
    "splits": splits,
    "weights": weights,
    "tensors": tensors,
    "checkpoint": checkpoint,
    "rows of a leaderboard": rows,
    "picture": picture,
}
