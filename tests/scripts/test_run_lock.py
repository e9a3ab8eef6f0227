"""One process at a time in a run folder: who is refused, by which line, and what the end of a process leaves."""

import fcntl
import gc
import os
import signal
import socket
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.processes import SMALL, Holder, assert_refused, contents, fork, only, signal_at

from benchmarks.leaderboard import board as leaderboard
from helper_functions.config import RunArgs
from helper_functions.errors import UserError
from helper_functions.record import RunRecord
from helper_functions.run_lock import NAME, RunLock


def is_held(folder: Path) -> bool:
    """Whether another process is refused: locks of one process exclude each other, too, if they are not shared."""
    with open(folder / NAME, "a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


class TestLock:
    def test_another_process_is_named_and_refused(self, tmp_path):
        with Holder(tmp_path) as holder:
            words = f"--resume here: process {holder.process.pid} on {socket.gethostname()} is at work there"
            with pytest.raises(UserError, match=words):
                RunLock(tmp_path, "--resume here")
            assert (tmp_path / NAME).read_text().split()[0] == str(holder.process.pid)

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
    def test_what_a_killed_process_leaves_blocks_nobody(self, how, tmp_path):
        with Holder(tmp_path) as holder:
            os.kill(holder.process.pid, how)
            holder.process.join()
            assert (tmp_path / NAME).exists()
            lock = RunLock(tmp_path, "x")
            assert (tmp_path / NAME).read_text().split()[0] == str(os.getpid())
            lock.release()

    def test_the_end_of_a_process_and_of_the_lock_removes_the_file(self, tmp_path):
        with Holder(tmp_path) as holder:
            holder.end()
        assert not list(tmp_path.iterdir())
        with RunLock(tmp_path, "x"):
            assert [path.name for path in tmp_path.iterdir()] == [NAME]
        assert not list(tmp_path.iterdir())
        lock = RunLock(tmp_path, "x")
        del lock
        gc.collect()
        assert not list(tmp_path.iterdir())

    def test_a_process_shares_its_own(self, tmp_path):
        first = RunLock(tmp_path, "x")
        second = RunLock(tmp_path / ".." / tmp_path.name, "x")
        del first
        gc.collect()
        assert is_held(tmp_path)
        second.release()
        with Holder(tmp_path):
            assert is_held(tmp_path)

    def test_a_lock_whose_file_was_removed_meanwhile_is_not_taken_for_one(self, tmp_path, monkeypatch):
        """Its last holder removes it between the moment that it is opened and the moment that it is locked."""
        flock, calls = fcntl.flock, []

        def late(file, how):
            calls.append(1)
            if len(calls) == 1:
                (tmp_path / NAME).unlink()
            flock(file, how)

        monkeypatch.setattr(fcntl, "flock", late)
        with RunLock(tmp_path, "x"):
            assert len(calls) == 2
            monkeypatch.undo()
            assert is_held(tmp_path)

    def test_a_file_system_without_locks_refuses_nobody(self, tmp_path, monkeypatch):
        def none(file, how):
            raise OSError(95, "Operation not supported")

        monkeypatch.setattr("fcntl.flock", none)
        with RunLock(tmp_path, "x"):
            pass

    def test_a_folder_that_cannot_be_written(self, tmp_path):
        with pytest.raises(OSError):
            RunLock(tmp_path / "nowhere", "x")


class TestRecord:
    def test_holds_it_until_it_is_closed(self, tmp_path):
        record = RunRecord.create(str(tmp_path), "name", RunArgs(), torch.device("cpu"))
        assert (record.folder / NAME).exists()
        record.close()
        assert not (record.folder / NAME).exists()
        with Holder(record.folder) as holder, pytest.raises(UserError, match=f"process {holder.process.pid} "):
            RunRecord.reopen(str(record.folder), RunArgs)


class TestScripts:
    def test_a_run_that_another_process_is_at(self, tmp_path):
        flags = (*SMALL, "--num_epochs", 2, "--figures", "False", "--log_dir", tmp_path)
        assert fork("train.py", *flags, before=partial(signal_at, 15)).status == -signal.SIGKILL
        folder = only(tmp_path)
        with Holder(folder) as holder:
            was = contents(folder)
            done = fork("train.py", "--resume", folder)
            assert_refused(done, "train.py", f"--resume {folder}: process {holder.process.pid} ", "wait for its end")
            assert contents(folder) == was
        assert fork("train.py", "--resume", folder).status == 0

    def test_a_leaderboard_that_another_process_is_at(self, tmp_path):
        (tmp_path / "train.yaml").write_text("dataset: digits\nmodel: resnet8\nwidth: 4\nnum_epochs: 1\n")
        args = leaderboard.Args(
            methods=["ssd"], train_config=str(tmp_path / "train.yaml"), output=str(tmp_path / "out"),
            log_dir=str(tmp_path / "runs"), workers=1,
        )  # fmt: skip
        (tmp_path / "out").mkdir()
        with Holder(tmp_path / "out") as holder, pytest.raises(UserError) as refused:
            leaderboard.main(args)
        assert f"--output {tmp_path}/out: process {holder.process.pid} " in str(refused.value)
        assert not (tmp_path / "runs").exists()
