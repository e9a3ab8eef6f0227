"""Files that list images of a data set, or its classes: one a line, or tables of requests and of groups."""

import csv
import dataclasses
import json
import os
import posixpath
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from data.datasets import Dataset
from helper_functions.errors import UserError
from helper_functions.safe_files.printable import REFUSED
from helper_functions.safe_files.regular_files import open_text
from helper_functions.wording import did_you_mean, nearest

# A wrong path, such as a video's, ends in an error before it fills the memory.
LONGEST_LINE = 4096
LINES_PER_IMAGE, FURTHER_LINES = 10, 1000
LONGEST_ENTRY, LONGEST_TEXT = 200, 200
# The requests of a run, in its folder.
REQUESTS = "requests.json"
# Images that a message names.
NAMED = 5


@dataclass(frozen=True)
class Request:
    """One request of a table of them: its reference, who asked, and the images, as indices."""

    id: str
    requester: str
    images: tuple[int, ...]


class ImageNames:
    """Finds images of a data set by what a user calls them.

    That is an index in the training part's order, from 0, or, for an image folder, a file name relative to it, with the
    folder's own name or its path in front or without. An entry is only compared with the data set's own names and never
    opened, so it cannot lead out of the folder.
    """

    def __init__(self, dataset: Dataset) -> None:
        self.dataset = dataset
        self.names = {name: index for index, name in enumerate(dataset.file_names or ())}
        folder = dataset.folder
        places = [] if folder is None else [folder.name, os.path.normpath(folder), os.path.abspath(folder)]
        self.places = [f"{place}/" for place in places]

    def find(self, entry: str) -> int | None:
        """The index of an image, None where there is none of this name."""
        written = [posixpath.normpath(each) for each in (entry, entry.replace("\\", "/"))]
        for name in (entry, *written, *(name.removeprefix(place) for name in written for place in self.places)):
            if name in self.names:
                return self.names[name]
        # Python refuses to convert numbers of thousands of digits; no data set has an index of 19.
        index = int(entry) if entry.isascii() and entry.isdigit() and len(entry) < 19 else self.dataset.num_train
        return index if index < self.dataset.num_train else None

    def find_all(self, entries: Iterable[tuple[str, str]], path: str | Path) -> list[int]:
        """The images that a file names, by `where` each stands; a UserError lists those that are not found."""
        found, missing = [], []
        for where, entry in entries:
            if (image := self.find(entry)) is None:
                missing.append((where, entry))
            else:
                found.append(image)
        if not missing:
            return found
        first, *more = [(where, self._shown(entry)) for where, entry in missing[:NAMED]]
        others = and_more([f"{where} {entry}" for where, entry in more], len(missing) - 1)
        what = f"an index from 0 to {self.dataset.num_train - 1}" + " or a file name of the data set" * bool(self.names)
        raise UserError(
            f"{first[0]} of {path}: {first[1]} is no image of {self.dataset.name}"
            f"{f', nor are {others}' if others else ''}; give {what}"
        )

    def _shown(self, entry: str) -> str:
        """An entry that is not found, with the nearest name."""
        inside = min((entry.removeprefix(place) for place in ("", *self.places)), key=len)
        inside = inside[:LONGEST_ENTRY]
        # A picture that was saved in another format is the same one.
        near = [name for name in self.names if _without_ending(name) == _without_ending(inside)]
        near = near or nearest(inside, self.names)
        shown = repr(entry if len(entry) <= LONGEST_ENTRY else f"{entry[:LONGEST_ENTRY]}…")
        return shown + (f" (nearest: {near[0]})" if near else "")


def _without_ending(name: str) -> str:
    return os.path.splitext(name)[0].casefold()


def read_image_list(path: str | Path, dataset: Dataset) -> np.ndarray:
    """The images that a file lists, as sorted distinct int64 indices into the data set's own training part.

    A line is an entry as of `ImageNames`; blank lines and lines that begin with # are skipped. Raises UserError naming
    the lines for anything else, and for a file that cannot be read, lists nothing, or has many times more lines than
    the data set has images.
    """
    listed = ((where, line.strip()) for where, line in lines(path, dataset.num_train, "one image a line"))
    found = ImageNames(dataset).find_all(((where, e) for where, e in listed if e and not e.startswith("#")), path)
    if not found:
        raise UserError(f"{path} lists no image; give one index or file name a line")
    return np.unique(np.array(found, dtype=np.int64))


def read_group(path: str | Path, names: tuple[str, ...], dataset: Dataset) -> np.ndarray:
    """The images of groups, such as persons, by a table of `file` and `group`: sorted distinct int64 indices.

    Raises UserError for a table that cannot be read, a group that is not in it, and files that are not in the data set.
    """
    rows = list(_table(path, ("file", "group"), dataset))
    known = {group: None for _, (_, group) in rows}
    # A group may have a comma in its name.
    whole = [name for name in (",".join(names), ", ".join(names)) if name in known]
    for name in whole or names:
        if name not in known:
            hint = did_you_mean(name, known) or f"; it has {and_more(list(known)[:NAMED], len(known))}"
            raise UserError(f"--groups {path} has no group {name!r}{hint}")
    entries = [(where, file) for where, (file, group) in rows if group in (whole or names)]
    return np.unique(np.array(ImageNames(dataset).find_all(entries, path), dtype=np.int64))


def read_requests(path: str | Path, dataset: Dataset) -> list[Request]:
    """The requests of a table of `request_id`, `requester` and `file`, in its order; one may have several rows.

    `file` is an image, as of `ImageNames`, or the path of a list of images, relative to the table or not. Raises
    UserError naming the lines for anything else, and for one request of two requesters.
    """
    names, found, missing = ImageNames(dataset), {}, []
    for where, (request, requester, file) in _table(path, ("request_id", "requester", "file"), dataset):
        for text in (request, requester):
            if not text or len(text) > LONGEST_TEXT or any(unicodedata.category(each) in REFUSED for each in text):
                raise UserError(f"{where} of {path}: {text[:20]!r}; give each request an id and a requester as text")
        before, images = found.setdefault(request, (requester, set()))
        if before != requester:
            raise UserError(f"{where} of {path}: request {request!r} is of {before!r} above and of {requester!r} here")
        lists = [each for each in (Path(path).parent / file, file) if os.path.isfile(each)]
        if (image := names.find(file)) is not None:
            images.add(image)
        elif lists:
            images.update(read_image_list(lists[0], dataset).tolist())
        else:
            missing.append((where, file))
    names.find_all(missing, path)
    if not found:
        raise UserError(f"{path} holds no request; give one image or list a line")
    return [Request(name, requester, tuple(sorted(images))) for name, (requester, images) in found.items()]


def in_class_order(dataset: Dataset, path: str | Path) -> Dataset:
    """The data set with its classes numbered in the order of a file that names each once, one a line.

    Raises UserError naming a class that is missing, double or unknown, and for a file that cannot be read.
    """
    order: list[str] = []
    for where, line in lines(path, len(dataset.classes), "a class a line"):
        name = line if line in dataset.classes else line.strip()
        if not name:
            continue
        if name not in dataset.classes:
            hint = did_you_mean(name, dataset.classes)
            raise UserError(f"--class_order {path}, {where}: the data set has no class {name!r}{hint}")
        if name in order:
            raise UserError(f"--class_order {path}, {where}: class {name!r} is there twice; name each once")
        order.append(name)
    if missing := [name for name in dataset.classes if name not in order]:
        raise UserError(f"--class_order {path}: class {missing[0]!r} is missing; name each once")
    places = torch.tensor([order.index(name) for name in dataset.classes])
    return dataclasses.replace(dataset, labels=places[dataset.labels], classes=tuple(order))


def load_requests(path: Path) -> list[Request]:
    """The requests that a run has kept in its folder; UserError where they are damaged."""
    try:
        found = json.loads(path.read_text())
        return [Request(str(each["id"]), str(each["requester"]), tuple(map(int, each["images"]))) for each in found]
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path} cannot be read, or is damaged; copy it again from its run") from None


def _table(path: str | Path, columns: tuple[str, ...], dataset: Dataset) -> Iterator[tuple[str, list[str]]]:
    """Where each row of a CSV file stands, and its values of some columns, which the first line names."""
    content = [line for _, line in lines(path, dataset.num_train, f"a table of {', '.join(columns)}")]
    # Spreadsheets of some countries separate by semicolons.
    separator = ";" if content and ";" in content[0] and "," not in content[0] else ","
    rows = csv.reader(content, delimiter=separator, strict=True)
    try:
        header = [name.strip().lower() for name in next(rows, [])]
        if absent := [name for name in columns if name not in header]:
            raise UserError(f"{path}: its first line has no column {absent[0]}; begin with {','.join(columns)}")
        for row in rows:
            if len(row) not in (0, len(header)):
                raise UserError(f"line {rows.line_num} of {path} has {len(row)} values, its first line {len(header)}")
            if row:
                yield f"line {rows.line_num}", [row[header.index(name)].strip() for name in columns]
    except csv.Error as error:
        raise UserError(f"line {rows.line_num} of {path} is no CSV: {error}") from None


def lines(path: str | Path, count: int, content: str) -> Iterator[tuple[str, str]]:
    """Where each line of a text file stands, and the line; a UserError for what is no list of about `count` entries."""
    most = LINES_PER_IMAGE * count + FURTHER_LINES
    try:
        with open_text(path) as file:
            for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE + 1), ""), start=1):
                if number > most:
                    raise UserError(f"{path} has more than {most} lines, for {count} entries; list each once")
                if len(line) > LONGEST_LINE:
                    raise UserError(f"line {number} of {path} is longer than {LONGEST_LINE} characters; give {content}")
                yield f"line {number}", line.removesuffix("\n")
    except OSError as error:
        raise UserError(f"cannot read {path}: {error.strerror}; give a file with {content}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 text; give a file with {content}") from error


def name_image(index: int, dataset: Dataset) -> str | int:
    """An image's entry in a list: its file name where the data set has file names, else its index."""
    return int(index) if dataset.file_names is None else dataset.file_names[index]


def and_more(names: list[str], count: int) -> str:
    """The first few names out of `count`, and the number of the others."""
    more = count - len(names)
    return ", ".join(names) + (f" and {more:,} more" if more else "")
