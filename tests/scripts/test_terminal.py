"""What a terminal shows while a script runs, with and without --quiet."""

import fcntl
import os
import struct
import termios
import threading
from functools import partial
from pathlib import Path

import pytest
from helpers.processes import SMALL, Done, fork, onto_terminal

UNLEARN = "train_constrained_unlearning.py"


def on_terminal(script: str, *flags: object) -> tuple[Done, str]:
    """Run a script whose standard error is a terminal; also what that showed."""
    reader, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 120, 0, 0))
    shown: list[bytes] = []

    def read() -> None:
        try:
            while part := os.read(reader, 65536):
                shown.append(part)
        except OSError:  # the other end is closed
            pass

    thread = threading.Thread(target=read)
    thread.start()
    done = fork(script, *flags, before=partial(onto_terminal, os.ttyname(terminal)))
    os.close(terminal)
    thread.join()
    os.close(reader)
    return done, b"".join(shown).decode()


@pytest.mark.parametrize("script", ["train.py", UNLEARN])
def test_bars_from_the_first_line_on(script, tmp_path):
    epochs = "num_epochs" if script == "train.py" else "train_num_epochs"
    flags = (*SMALL, f"--{epochs}", 2, "--forget", "random:40", "--figures", "False", "--log_dir", tmp_path)
    done, shown = on_terminal(script, *flags)
    assert done.status in (0, 3, 4), done
    assert shown.startswith(f"{script}: loading PyTorch")
    titles = ["loading digits", "original 1/2", "measuring", "judging models"]
    places = [shown.find(title) for title in titles]
    assert places == sorted(places) and places[0] > 0, shown
    for line in ("data     digits", "forget   random:40", "model    resnet8 on ", "run      "):
        assert f"\n{line}" in f"\n{done.out}"
    assert "original epoch" in done.out


def test_quiet_leaves_the_result(tmp_path):
    flags = (*SMALL, "--num_epochs", 1, "--forget", "random:40", "--figures", "False", "--log_dir", tmp_path)
    done, shown = on_terminal("train.py", *flags, "--quiet")
    assert done.status == 0 and shown == ""
    assert "original epoch" not in done.out and "test top-1" in done.out and "weights " in done.out
    (folder,) = Path(tmp_path).iterdir()
    assert "\nquiet:" not in (folder / "config.yaml").read_text()
