"""Progress on a terminal: bars that move at least once a second, also while one step takes long."""

import contextlib
import sys
import threading
from collections.abc import Iterable, Iterator
from types import SimpleNamespace
from typing import TypeVar

from tqdm import tqdm

from helper_functions.training.distribution import is_main

T = TypeVar("T")

# `quiet`: --quiet was given; no bars, and no rows of epochs.
shown = SimpleNamespace(quiet=False)
OPAQUE = "{desc}: {elapsed}"


@contextlib.contextmanager
def progress_bar(title: str, total: int | None = None, done: int = 0, unit: str = "it") -> Iterator[tqdm]:
    """A bar on rank 0's terminal, removed at the end; the time alone where there is no `total`."""
    hidden = shown.quiet or not sys.stderr.isatty() or not is_main()
    layout = OPAQUE if total is None else None
    ended = threading.Event()
    with tqdm(
        total=total, initial=done, desc=title, unit=unit, leave=False, disable=hidden, bar_format=layout,
        mininterval=0.2, miniters=1, dynamic_ncols=True,
    ) as bar:  # fmt: skip
        clock = threading.Thread(target=_tick, args=(bar, ended), daemon=True)
        if not hidden:
            clock.start()
        try:
            yield bar
        finally:
            ended.set()
            if not hidden:
                clock.join()


def progress(items: Iterable[T], title: str, total: int | None = None) -> Iterator[T]:
    """The items, with a bar on a terminal; `total` where they have no length."""
    with progress_bar(title, len(items) if hasattr(items, "__len__") else total) as bar:
        for item in items:
            yield item
            bar.update()


def _tick(bar: tqdm, ended: threading.Event) -> None:
    """Refresh the bar's clock until the end."""
    while not ended.wait(0.5):
        bar.refresh()
