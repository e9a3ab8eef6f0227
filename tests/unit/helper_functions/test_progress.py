"""Bars on a terminal: what they count, that they move by themselves, and where there are none."""

import io
import threading
from contextlib import redirect_stderr

import pytest

from helper_functions import progress as module
from helper_functions.progress import progress, progress_bar


class Terminal(io.StringIO):
    """Standard error as a terminal; `again` is set when it has been written to twice."""

    def __init__(self) -> None:
        super().__init__()
        self.writes, self.again = 0, threading.Event()

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self.writes += bool(text.strip())
        if self.writes > 1:
            self.again.set()
        return super().write(text)


def test_items_are_counted():
    with redirect_stderr(Terminal()) as terminal:
        assert list(progress([3, 1, 2], "counting")) == [3, 1, 2]
    assert "counting:   0%" in terminal.getvalue() and "0/3" in terminal.getvalue()


def test_items_without_a_length():
    with redirect_stderr(Terminal()) as terminal:
        assert list(progress(iter([3, 1]), "counting", 2)) == [3, 1]
    assert "0/2" in terminal.getvalue()


def test_it_moves_while_nothing_is_counted():
    with redirect_stderr(Terminal()) as terminal, progress_bar("waiting"):
        assert terminal.again.wait(30)
    assert terminal.getvalue().count("waiting: 00:") >= 2


def test_its_thread_ends_with_it():
    before = threading.active_count()
    with pytest.raises(KeyError), redirect_stderr(Terminal()), progress_bar("failing"):
        raise KeyError
    assert threading.active_count() == before


def test_none_with_quiet(monkeypatch):
    monkeypatch.setattr(module.shown, "quiet", True)
    with redirect_stderr(Terminal()) as terminal:
        assert list(progress([1, 2], "counting")) == [1, 2]
    assert terminal.getvalue() == ""


def test_none_where_there_is_no_terminal(capsys):
    assert list(progress([1, 2], "counting")) == [1, 2] and capsys.readouterr().err == ""
