"""Targets of fuzzing that read text: configurations, command lines, forget requests and lists."""

import dataclasses
import json
import os
from pathlib import Path
from types import ModuleType

import numpy as np
from hypothesis import strategies as st

from benchmarks.fuzz_cases import ODD, TEXTS, Target, encoded, mutated, toy
from data.forget import parse_forget, select_forget
from data.image_list import read_image_list
from data.partition import Partition


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


def forget_request() -> Target:
    """A text in the grammar of --forget, and the images that it names."""
    dataset, nothing = toy(), np.empty(0, dtype=np.int64)
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
    dataset = toy()
    entry = TEXTS | st.integers(-5, 70).map(str) | st.sampled_from(dataset.file_names)
    ends = st.sampled_from(("\n", "\r\n", "\r", "\n\n", "\0", "\u2028"))
    cases = st.lists(st.tuples(entry, ends).map("".join), max_size=8).map("".join).map(encoded)
    seeds = (b"1\n2\n# three\n\n3\n", b"c1/1.png\r\n./c2/2.png\r\n", "\ufeff7\n".encode())
    return Target(lambda path: read_image_list(path, dataset), cases | mutated(seeds), seeds, "list.txt")
