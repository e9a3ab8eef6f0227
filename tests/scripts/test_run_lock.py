"""One process at a time in a run folder: who is refused, by which line, and what the end of a process leaves."""

import errno
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


@pytest.fixture
def folder(tmp_path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run"


class TestLock:
    def test_another_process_is_refused_by_a_line_that_names_the_holder(self, folder):
        with Holder(folder) as holder:
            words = f"--resume here: process {holder.process.pid} on {socket.gethostname()} uses this folder"
            for _ in range(2):  # the first refusal leaves the holder's name in place
                with pytest.raises(UserError, match=words):
                    RunLock(folder, "--resume here")

    @pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGTERM])
    def test_the_lock_of_a_killed_process_is_free(self, how, folder):
        with Holder(folder) as holder:
            os.kill(holder.process.pid, how)
            holder.process.join()
            with RunLock(folder, "x"):
                assert (folder / NAME).read_text().split()[0] == str(os.getpid())

    def test_release_removes_the_file(self, folder):
        with Holder(folder) as holder:
            holder.end()
        assert not list(folder.iterdir())
        with RunLock(folder, "x"):
            assert [path.name for path in folder.iterdir()] == [NAME]
        assert not list(folder.iterdir())

    def test_a_process_may_take_its_own_lock_again(self, folder):
        first = RunLock(folder, "x")
        second = RunLock(folder / ".." / folder.name, "x")
        del first
        gc.collect()
        with pytest.raises(EOFError):
            Holder(folder)
        second.release()
        Holder(folder).end()

    def test_a_lock_without_owner_is_free(self, folder):
        lock = RunLock(folder, "x")
        del lock
        gc.collect()
        Holder(folder).end()

    @pytest.mark.parametrize("number", [errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP])
    def test_a_file_system_without_locks_refuses_nobody(self, number, folder, monkeypatch):
        def unsupported(file: int, how: int) -> None:
            raise OSError(number, os.strerror(number))

        monkeypatch.setattr("fcntl.flock", unsupported)
        with RunLock(folder, "x"), RunLock(folder, "x"):
            pass

    def test_a_folder_that_does_not_exist(self, tmp_path):
        with pytest.raises(FileNotFoundError):
            RunLock(tmp_path / "nowhere", "x")
        assert not list(tmp_path.iterdir())


class TestRecord:
    def test_holds_it_until_it_is_closed(self, tmp_path):
        record = RunRecord.create(str(tmp_path), "name", RunArgs(), torch.device("cpu"))
        assert (record.folder / NAME).exists()
        record.close()
        assert not (record.folder / NAME).exists()
        with Holder(record.folder) as holder, pytest.raises(UserError, match=f"process {holder.process.pid} "):
            RunRecord.reopen(str(record.folder), RunArgs)


class TestScripts:
    def test_a_run_in_progress(self, tmp_path):
        flags = (*SMALL, "--num_epochs", 2, "--figures", "False", "--log_dir", tmp_path)
        assert fork("train.py", *flags, before=partial(signal_at, 15)).status == -signal.SIGKILL
        folder = only(tmp_path)
        with Holder(folder) as holder:
            was = contents(folder)
            done = fork("train.py", "--resume", folder)
            assert_refused(done, "train.py", f"--resume {folder}: process {holder.process.pid} ", "wait until it ends")
            assert contents(folder) == was
        assert fork("train.py", "--resume", folder).status == 0

    def test_a_leaderboard_in_progress(self, tmp_path):
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
