"""A target of fuzzing, and the cases that it is given: odd texts, and good bytes with a few places changed."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from hypothesis import strategies as st

from data.datasets import Dataset

Cases = st.SearchStrategy[bytes]


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


# What is odd in YAML, in numbers, in paths, or on a terminal.
ODD = (
    "", " ", "~", "null", "yes", "No", "true", "0", "-1", "+1", "010", "0x10", "0o7", "1:30", "1_000", "1e3", "1e-3",
    "1e999", "1.0e+999", ".inf", "-.inf", ".nan", "nan", "inf", "9" * 400, "9" * 5000, "0x" + "f" * 5000, "١", "½",
    "2026-01-02", "2026-99-99", "!!timestamp x", '!!int ""', "!!float x", "!!binary aGk=", "!!python/name:os.system",
    "!!python/object/apply:os.mkdir [x]", "&a [*a]", "*a", "&a", "<<", "=", "[", "]", "{", "}", "[[[[", "{a: {b: 1}}",
    "[1, 2]", "[.5, .5, .5]", "[null]", "- 1", "? a", "a: b", "'", '"', '"\\0"', '"\\ud800"', '"\\U99999999"', "\0",
    "\x1b[2J", "\u202e", "\n", "\r", "\t", "\ufeff", "\udcff", "\u2028", "../..", "/etc/passwd", "/dev/stdin", "~/x",
    "%s", "{0}", "<script>", "file:", "file:/", "file:x", "class:", "class:0", "class:a,b", "random:0.1", "random:3",
    "random:1e-3", "superclass:fish", "mislabelled:.5", "auto", "none", "cpu", "cuda:99", "resnet8", "#", ",", ":", "-",
    "--", "@", "`", "|", ">", "%YAML 9.9", "---", "...",
)  # fmt: skip
TEXTS = st.sampled_from(ODD) | st.text(max_size=12) | st.floats().map(str) | st.integers().map(str)


def encoded(text: str) -> bytes:
    """UTF-8, in which half of a surrogate pair stays what it is."""
    return text.encode("utf-8", "surrogatepass")


def mutated(seeds: tuple[bytes, ...], odd: tuple[str, ...] = ()) -> Cases:
    """Good bytes with a few places overwritten, cut out, put in or doubled."""
    pieces = st.binary(max_size=8)
    if odd:
        pieces |= st.sampled_from(odd).map(encoded)
    edit = st.tuples(st.floats(0, 1), st.sampled_from(("over", "in", "out", "double", "cut")), pieces)

    def apply(case: tuple[bytes, list]) -> bytes:
        data, edits = case
        for place, kind, piece in edits:
            start = round(place * len(data))
            end = start + max(len(piece), 1)
            if kind == "over":
                data = data[:start] + piece + data[end:]
            elif kind == "in":
                data = data[:start] + piece + data[start:]
            elif kind == "out":
                data = data[:start] + data[end:]
            elif kind == "double":
                data = data[:end] + data[start:]
            else:
                data = data[:start]
        return data

    return st.tuples(st.sampled_from(seeds), st.lists(edit, max_size=4)).map(apply)


def toy() -> Dataset:
    """Sixty pictures of four classes, of which ten are an official test part."""
    labels = torch.arange(60) % 4
    images = torch.arange(240).to(torch.uint8).reshape(60, 1, 2, 2)
    return Dataset(
        "toy", images, labels, ("apple", "pear", "0", "cat, sleeping"), 50, (0.5,), (0.5,),
        {"fruit": ("apple", "pear")}, tuple(f"c{i % 4}/{i}.png" for i in range(60)),
    )  # fmt: skip
