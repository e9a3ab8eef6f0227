"""Every parser of input from outside, fed with damaged files: a value or one printable line, and no side effect."""

import dataclasses
import io
import json
import os
import socket
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision.transforms.v2  # noqa: F401  # makes a folder of torch's where it is imported first
from helpers import guard
from helpers.guard import Forbidden, TooLong, watched
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from torch import nn

import test
import train
import train_constrained_unlearning
import train_contrastive
from benchmarks.sweeps.sweep import read_rows
from data.datasets import Dataset
from data.exclusion import read_hashes
from data.forget import parse_forget, select_forget
from data.image_list import read_image_list
from data.partition import Partition
from data.pictures.reading import read_image_folder
from data.preprocessing import Preprocessing
from data.split_record import Splits
from data.splits import make_splits
from evaluation.verify import verify
from helper_functions.errors import UserError
from helper_functions.files import load_tensors
from helper_functions.record import CHECKPOINT_FORMAT, RunRecord
from helper_functions.safe_files.printable import one_line, printable
from models.weight_files import read_weight_file
from models.weights import load_state

# What is odd in YAML, in numbers, in paths, in JSON, or on a terminal.
ODD = (
    "", " ", "~", "null", "yes", "true", "0", "-1", "010", "0x10", "1:30", "1_000", "1e3", "1e999", ".inf", ".nan",
    "nan", "NaN", "9" * 400, "9" * 5000, "0x" + "f" * 5000, "١", "½", "2026-99-99", "!!timestamp x", '!!int ""',
    "!!binary aGk=", "!!python/name:os.system", "!!python/object/apply:os.mkdir [x]", "&a [*a]", "*a", "<<", "[", "}",
    "[" * 10_000, "{a: {b: 1}}", "[.5, .5]", "[null]", "- 1", "? a", "a: b", "'", '"', '"\\ud800"', '"\\U99999999"',
    "\0", "\x1b[2J", "\u202e", "\n", "\r", "\t", "\ufeff", "\udcff", "\u2028", "../..", "/etc/passwd", "/dev/stdin",
    "%s", "{0}", "<script>", "file:", "class:", "class:0", "random:0.1", "random:1e-3", "superclass:fish",
    "mislabelled:.5", "auto", "cuda:99", "resnet8", "#", ",", "-", "--", "%YAML 9.9", "---", '{"key": [1]}', "F32",
    "[0,0]", "[9999999999]", '"__metadata__"',
)  # fmt: skip
TEXTS = st.sampled_from(ODD) | st.text(max_size=12) | st.floats().map(str) | st.integers().map(str)
SCRIPTS = {
    "train.py": train, "train_constrained_unlearning.py": train_constrained_unlearning,
    "train_contrastive.py": train_contrastive, "test.py": test,
}  # fmt: skip
PARSERS = {name: script.get_parser() for name, script in SCRIPTS.items()}
LABELS = torch.arange(60) % 4
DATASET = Dataset(
    "toy", torch.arange(240).to(torch.uint8).reshape(60, 1, 2, 2), LABELS, ("apple", "pear", "0", "cat, sleeping"),
    50, (0.5,), (0.5,), {"fruit": ("apple", "pear")}, tuple(f"c{i % 4}/{i}.png" for i in range(60)),
)  # fmt: skip
PARTITION = Partition(
    np.arange(40), np.arange(40, 50), np.arange(50, 60), "official test", np.empty(0, dtype=np.int64)
)  # fmt: skip


def encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def mutated(*seeds: bytes) -> st.SearchStrategy[bytes]:
    """Valid bytes with a few places overwritten, inserted or cut out, or with the end cut off."""
    piece = st.binary(max_size=8) | st.sampled_from(ODD).map(encoded)
    edits = st.lists(st.tuples(st.floats(0, 1), st.sampled_from(("over", "in", "out", "end")), piece), max_size=4)

    def apply(case: tuple[bytes, list]) -> bytes:
        data, changes = case
        for place, kind, new in changes:
            start = round(place * len(data))
            end = len(data) if kind == "end" else start + (0 if kind == "in" else max(len(new), 1))
            data = data[:start] + (new if kind in ("over", "in") else b"") + data[end:]
        return data

    return st.tuples(st.sampled_from(seeds), edits).map(apply)


def written(write: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def torch_files(*contents: object) -> st.SearchStrategy[bytes]:
    formats = [(content, new) for content in contents for new in (True, False)]
    return mutated(*(
        written(lambda file, c=content, n=new: torch.save(c, file, _use_new_zipfile_serialization=n))
        for content, new in formats
    ))  # fmt: skip


def flags(script: str) -> st.SearchStrategy[tuple[str, str]]:
    """A name and a value: a flag with its default, or anything."""
    args = SCRIPTS[script].Args
    defaults = {name: value for name, value in dataclasses.asdict(args()).items() if value}
    texts = [(name, value if isinstance(value, str) else json.dumps(value)) for name, value in sorted(defaults.items())]
    names = st.sampled_from([field.name for field in dataclasses.fields(args)]) | st.sampled_from(ODD)
    return st.sampled_from(texts) | st.tuples(names, TEXTS)


def configurations(script: str) -> st.SearchStrategy[bytes]:
    """Lines that look like flags, or a valid file with a few places changed."""
    sign = st.just(": ") | st.sampled_from((":", " ", ":\n  ", ": &a ", ": ["))
    line = st.tuples(flags(script), sign).map(lambda case: case[1].join(case[0]))
    text = st.lists(line | TEXTS, max_size=5).map("\n".join).map(encoded)
    return text | mutated(b"seed: 3\ndataset: digits\nmean: [0.5]\ncompile: true\n")


def command_lines(script: str) -> st.SearchStrategy[bytes]:
    """Words, parted by NUL, which no word can hold."""
    flag = flags(script).map(lambda case: [f"--{case[0]}", case[1]])
    words = st.lists(flag | flag.map(lambda pair: ["=".join(pair)]) | TEXTS.map(lambda word: [word]), max_size=4)
    return words.map(lambda groups: b"\0".join(encoded(word.replace("\0", "")) for group in groups for word in group))


def read_words(path: Path, script: str) -> object:
    return PARSERS[script].parse([os.fsdecode(word) for word in path.read_bytes().split(b"\0")])


def read_request(path: Path) -> object:
    return select_forget(parse_forget(os.fsdecode(path.read_bytes())), DATASET, PARTITION, 0)


def read_report(path: Path) -> object:
    return verify.verify_run(test.Args(verify=str(path.parent)), test.SCRIPTS)


def read_weights(path: Path) -> None:
    """Into a model, whose weights stay finite."""
    model = nn.BatchNorm1d(3)
    load_state(model, read_weight_file(path)[0], path)
    assert all(value.isfinite().all() for value in model.state_dict().values())


SMALLEST = Preprocessing(4).resolved()
NORM = {f"module.{name}": value for name, value in nn.BatchNorm1d(3).state_dict().items()}
STATE = {"conv1.weight": torch.ones(2, 1, 3, 3), "fc.weight": torch.ones(2, 2).t(), "count": torch.tensor(3)}
STEP = {
    "format": CHECKPOINT_FORMAT, "lengths": {"metrics.jsonl": 10}, "step": 3, "epoch": 1,
    "state": {"weight": torch.ones(2, 2)},
}  # fmt: skip
ROW = json.dumps({"key": "0123", "figures": {"forget_top1": 1.5, "list": [1, None, True]}}).encode()
REPORT = json.dumps({"schema_version": 1, "models": {"original": {"retain_top1": 90.5}}, "files": []}).encode()
PICTURE = Image.fromarray(np.arange(108, dtype=np.uint8).reshape(6, 6, 3))
PICTURES = [
    written(lambda file, p=picture, k=kind: p.save(file, k))
    for picture, kind in ((PICTURE, "PNG"), (PICTURE.convert("P"), "PNG"), (PICTURE.convert("CMYK"), "JPEG"))
]
REQUESTS = st.tuples(
    st.sampled_from(("random:", "class:", "superclass:", "mislabelled:", "file:", "class:apple,", "")),
    st.lists(TEXTS, max_size=3).map(",".join),
).map("".join).map(encoded)
ENTRIES = TEXTS | st.integers(-5, 70).map(str) | st.sampled_from(DATASET.file_names)
LISTS = st.lists(st.tuples(ENTRIES, st.sampled_from(("\n", "\r\n", "\r", "\0", "\u2028"))).map("".join), max_size=8)
# By name: the file's place, what reads it, damaged files, and a valid one.
TARGETS: dict[str, tuple[str, Callable[[Path], object], st.SearchStrategy[bytes], int]] = {
    **{
        f"configuration of {name}": (
            "config.yaml", lambda path, p=parser: p.parse(["--config_file", str(path)]), configurations(name), 40,
        )
        for name, parser in PARSERS.items()
    },
    **{
        f"command line of {name}": ("words", lambda path, n=name: read_words(path, n), command_lines(name), 40)
        for name in PARSERS
    },
    "forget request": ("request", read_request, REQUESTS | mutated(b"random:0.1", b"class:apple,2", b"file:x"), 200),
    "forget list": (
        "list.txt", lambda path: read_image_list(path, DATASET),
        LISTS.map("".join).map(encoded) | mutated(b"1\n2\n# three\n\n3\n", b"c1/1.png\r\n./c2/2.png\r\n"), 200,
    ),
    "hashes": ("h.sha256", lambda path: read_hashes(path, 99), mutated(b"# of\n" + 2 * (b"0a" * 32 + b"\n")), 100),
    "weights": ("w.pt", read_weights, torch_files(NORM, {"state_dict": NORM, "epoch": (1, [2.5])}), 200),
    "safetensors": ("w.safetensors", read_weights, mutated(save(NORM), save(NORM, {"format": "pt"})), 200),
    "tensors": ("tensors.pt", lambda path: load_tensors(path, "start anew"), torch_files(STATE), 200),
    "checkpoint": ("checkpoint.pt", lambda path: RunRecord(path.parent).load_checkpoint(), torch_files(STEP), 200),
    "rows of a leaderboard": ("rows.jsonl", read_rows, mutated(ROW + b"\n" + ROW + b"\n", ROW, b""), 200),
    "picture": (
        "photos/a/x.png", lambda path: read_image_folder(path.parent.parent, SMALLEST, False), mutated(*PICTURES), 80,
    ),
    "splits": ("splits.npz", lambda path: Splits.load(path, DATASET), mutated(b""), 150),
    "report": ("report.json", read_report, mutated(REPORT, b'{"schema_version": 1}'), 100),
}  # fmt: skip


def check(read: Callable[[Path], object], path: Path) -> bool:
    """Whether a file was accepted; it was refused otherwise. Anything else is raised."""
    try:
        with watched():
            read(path)
    except UserError as error:
        line = one_line(str(error))
        assert line and printable(line) == line
        return False
    except SystemExit as error:  # of --help
        assert not error.code
    return True


@pytest.mark.parametrize("name", TARGETS)
def test_every_case_is_read_or_refused(name, tmp_path, capsys, monkeypatch):
    place, read, cases, number = TARGETS[name]
    path = tmp_path / place
    path.parent.mkdir(parents=True, exist_ok=True)
    if name == "splits":
        made = [make_splits(DATASET, forget, validation="0.2") for forget in ("random:5images", "class:apple", None)]
        for split in made:
            split.save(path)
        cases = mutated(path.read_bytes())
    if name == "picture":
        (tmp_path / "photos/b").mkdir()
        PICTURE.save(tmp_path / "photos/b/x.png")
    if name == "report":  # asking git would start a process
        monkeypatch.setattr(verify, "code_version", lambda: {"version": "1", "commit": None, "changed": None})
        for file, content in (("config.yaml", "seed: 0\n"), ("splits.npz", ""), ("report.html", "")):
            (tmp_path / file).write_text(content)
    outcomes = []

    @settings(
        max_examples=number, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
    )
    @given(cases)
    def feed(data: bytes) -> None:
        path.write_bytes(data)
        outcomes.append(check(read, path))

    feed()
    assert set(outcomes) == {True, False}, "neither nonsense alone, nor valid files alone"


def spin(path: Path) -> None:
    while True:
        pass


def hide(path: Path) -> None:
    """As a parser that takes every error for a damaged file."""
    try:
        os.mkdir(path.with_name("made"))
    except Exception:
        raise UserError("damaged") from None


BAD: dict[str, tuple[type[BaseException], Callable[[Path], object]]] = {
    "an error": (KeyError, lambda path: {}["x"]),
    "computing": (TooLong, spin),
    "memory": (MemoryError, lambda path: bytearray(2 * guard.MEMORY)),
    "a folder": (Forbidden, lambda path: path.with_name("made").mkdir()),
    "a hidden folder": (Forbidden, hide),
    "writing": (Forbidden, lambda path: path.write_bytes(b"overwritten")),
    "appending": (Forbidden, lambda path: os.open(path, os.O_WRONLY | os.O_APPEND)),
    "a process": (Forbidden, lambda path: os.system(f"touch {path.with_name('made')}")),
    "a connection": (Forbidden, lambda path: socket.socket().connect(("127.0.0.1", 9))),
    "an exit": (AssertionError, lambda path: exit(3)),
}


@pytest.mark.parametrize("kind", BAD)
def test_the_watch_sees_what_a_parser_must_not_do(kind, tmp_path, monkeypatch):
    monkeypatch.setattr(guard, "SECONDS", 0.2)
    error, read = BAD[kind]
    (tmp_path / "case").write_bytes(b"x")
    with pytest.raises(error):
        check(read, tmp_path / "case")
    assert [path.name for path in tmp_path.iterdir()] == ["case"] and (tmp_path / "case").read_bytes() == b"x"
