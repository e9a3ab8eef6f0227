"""A full disk in the middle of a run, a folder without write permission, a clock that goes backwards."""

import codecs
import os
import shutil
import time
from functools import partial
from pathlib import Path

import pytest
from helpers.processes import SMALL, assert_refused, at_step, become_nobody, contents, fork, limit_file_size, only
from helpers.run_folders import UNLEARN, assert_same_weights, figures_of, results_of, weights_of

# Acts as a full disk: no file may exceed this size, which is less than a checkpoint's.
FULL = partial(limit_file_size, 2_000)
FLAGS = (*SMALL, "--forget", "random:40", "--num_epochs", 3, "--figures", "False")


def lose_rights() -> None:
    """Import codecs first: the interpreter's own folder may not be readable afterwards."""
    codecs.lookup("utf-8-sig")
    become_nobody()


def turn_back_the_clock() -> None:
    """Set the clock back by a day from now on."""
    now, form, parts = time.time, time.strftime, time.localtime
    time.time = lambda: now() - 86_400
    time.strftime = lambda pattern, *when: form(pattern, *(when or (parts(now() - 86_400),)))


@pytest.fixture(scope="module")
def whole(original, tmp_path_factory) -> Path:
    """The folder of an undisturbed run."""
    place = tmp_path_factory.mktemp("whole")
    assert fork(UNLEARN, *FLAGS, "--weight_path", original.folder / "model.pt", "--log_dir", place).status in (0, 3, 4)
    return only(place)


def assert_goes_on(folder: Path, whole: Path) -> None:
    done = fork(UNLEARN, "--resume", folder)
    assert done.status in (0, 3, 4) and done.err == ""
    assert_same_weights(weights_of(folder), weights_of(whole))
    assert figures_of(folder) == figures_of(whole)
    assert results_of(folder) == results_of(whole)
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


class TestFullDisk:
    def test_resumes_to_the_same_result_once_there_is_room(self, original, whole, tmp_path):
        flags = (*FLAGS, "--weight_path", original.folder / "model.pt", "--log_dir", tmp_path)
        done = fork(UNLEARN, *flags, before=partial(at_step, 10, FULL))  # of eight steps an epoch
        folder = only(tmp_path)
        assert_refused(done, UNLEARN, "File too large", f"python {UNLEARN} --resume {folder}")
        assert not (folder / "report.json").exists() and (folder / "checkpoint.pt").exists()
        assert_goes_on(folder, whole)


class TestReadOnlyFolder:
    @pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder to another user")
    def test_of_a_run_to_resume(self, whole, tmp_path):
        """It does not change, and the line names it."""
        folder = shutil.copytree(whole, tmp_path / "run")
        (folder / "report.json").unlink()  # as of a run that has not ended
        for path in (tmp_path, *tmp_path.parents):
            path.chmod(path.stat().st_mode | 0o055)
        earlier = contents(folder)
        assert_refused(fork(UNLEARN, "--resume", folder, before=lose_rights), UNLEARN, folder, "Permission denied")
        assert contents(folder) == earlier


class TestClock:
    def test_a_clock_that_goes_back_changes_no_result(self, original, whole, tmp_path):
        flags = (*FLAGS, "--weight_path", original.folder / "model.pt", "--log_dir", tmp_path)
        done = fork(UNLEARN, *flags, before=partial(at_step, 10, turn_back_the_clock))
        assert done.status in (0, 3, 4) and done.err == ""
        assert_same_weights(weights_of(only(tmp_path)), weights_of(whole))
        assert figures_of(only(tmp_path)) == figures_of(whole)
        assert results_of(only(tmp_path)) == results_of(whole)
