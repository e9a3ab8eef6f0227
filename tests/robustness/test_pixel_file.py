"""The file of decoded pictures under kills, two processes at once, a full disk, and in a folder of somebody else."""

import codecs
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.processes import SMALL, assert_refused, become_nobody, fork, limit_file_size, only
from helpers.run_folders import weights_of
from PIL import Image

COUNT = 96
FLAGS = (*SMALL, "--image_size", 8, "--num_epochs", 1, "--figures", "False")


@pytest.fixture(scope="module")
def photos(tmp_path_factory) -> Path:
    """Pictures of two classes, which everybody may read."""
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        path = folder / "ab"[number % 2] / f"{number:03}.png"
        path.parent.mkdir(exist_ok=True)
        pixels = np.random.default_rng(number).integers(0, 256, (8, 8, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return folder


def train(photos: Path, log_dir: Path, *flags: object, before=None):
    return fork("train.py", "--data_dir", photos, *FLAGS, "--log_dir", log_dir, *flags, before=before)


@pytest.fixture(scope="module")
def expected(photos, tmp_path_factory) -> dict[str, torch.Tensor]:
    """Weights of a run from memory."""
    log_dir = tmp_path_factory.mktemp("memory")
    assert train(photos, log_dir, "--cache", "memory").status == 0
    return weights_of(only(log_dir))


def assert_same(folder: Path, expected: dict[str, torch.Tensor]) -> None:
    found = weights_of(folder)
    assert all(torch.equal(value, found[name]) for name, value in expected.items())


def killed_in(number: int) -> None:
    """This process is killed after it has noted decoded pictures as often; small chunks, each noted at once."""
    from data.pictures import decoding, pixel_cache

    decoding.CHUNK, decoding.FEW, pixel_cache.INTERVAL = 8, 10**6, -1.0
    settle, times = pixel_cache._settle, []

    def count(*arguments: object) -> None:
        settle(*arguments)
        times.append(None)
        if len(times) == number:
            os.kill(os.getpid(), signal.SIGKILL)

    pixel_cache._settle = count


@pytest.mark.parametrize("number", [1, 7])
def test_a_killed_build_goes_on_and_nothing_wrong_is_read(number, photos, expected, tmp_path):
    disk = ("--cache", "disk", "--cache_dir", tmp_path / "cache")
    assert train(photos, tmp_path / "killed", *disk, before=partial(killed_in, number)).status == -signal.SIGKILL
    done = train(photos, tmp_path / "runs", *disk)
    assert done.status == 0 and f"{COUNT - 8 * number} of {COUNT} pictures to decode" in done.out, done
    assert_same(only(tmp_path / "runs"), expected)
    again = train(photos, tmp_path / "again", *disk)
    assert "to decode" not in again.out
    assert_same(only(tmp_path / "again"), expected)


def test_two_at_once_build_it_once(photos, expected, tmp_path):
    disk = ("--cache", "disk", "--cache_dir", tmp_path / "cache")
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(train, photos, tmp_path / name, *disk) for name in "12"]
    done = [each.result() for each in runs]
    assert [each.status for each in done] == [0, 0], done
    assert sum("to decode" in each.out for each in done) == 1
    for name in "12":
        assert_same(only(tmp_path / name), expected)


def test_a_disk_that_is_full_leaves_nothing(photos, tmp_path):
    disk = ("--cache", "disk", "--cache_dir", tmp_path / "cache")
    done = train(photos, tmp_path / "runs", *disk, before=partial(limit_file_size, 4096))
    assert_refused(done, "train.py", "--cache_dir", "--cache none")
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.name != "lock"]


def open_to_all(*folders: Path) -> None:
    """pytest's own folders are closed to other users."""
    above = {path for folder in folders for path in (folder, *folder.parents)}
    for path in above - {*Path("/tmp").parents, Path("/tmp")}:
        path.chmod(path.stat().st_mode | 0o055)


def test_a_file_in_a_folder_that_cannot_be_written_is_read(photos, expected, tmp_path):
    disk = ("--cache", "disk", "--cache_dir", tmp_path / "cache")
    assert train(photos, tmp_path / "first", *disk).status == 0
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(0o777)
    open_to_all(photos, tmp_path)
    done = train(photos, tmp_path / "runs", *disk, before=become_nobody)
    assert done.status == 0 and "to decode" not in done.out, done
    assert_same(only(tmp_path / "runs"), expected)
    other = ("--cache", "disk", "--cache_dir", tmp_path / "first")
    refused = train(photos, tmp_path / "runs", *other, before=become_nobody)
    assert_refused(refused, "train.py", "--cache_dir", "Permission denied", "--cache none")


def become_reader() -> None:
    """Somebody else, who may not be able to read Python's own folder, from which encodings are loaded late."""
    for name in ("cp437", "utf-8-sig"):
        codecs.lookup(name)
    become_nobody()


def test_pictures_in_a_file_of_somebody_else_cannot_be_withdrawn(photos, tmp_path):
    """Refused before any work, since its end could not be reached."""
    disk = ("--cache", "disk", "--cache_dir", tmp_path / "cache")
    assert train(photos, tmp_path / "first", *disk).status == 0
    withdrawn = tmp_path / "withdrawn.txt"
    withdrawn.write_text("a/000.png\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs").chmod(0o777)
    open_to_all(photos, tmp_path)
    given = ("--data_dir", photos, *FLAGS, "--log_dir", tmp_path / "runs", *disk)
    script = "train_constrained_unlearning.py"
    done = fork(script, *given, "--forget", f"file:{withdrawn}", before=become_reader)
    assert_refused(done, script, f"--cache_dir {tmp_path / 'cache'}", "cannot be overwritten", "Permission denied")
    assert not list((tmp_path / "runs").iterdir())
