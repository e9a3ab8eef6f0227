"""Sweeps on Ray, with a cluster of two machines as far as Ray can tell.

Only a cluster can show that a cell survives the loss of its worker or of its machine, that two attempts at one cell
never run at once, and that results and errors arrive from another process tree as they do locally.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import ray
import torch
from helpers.processes import REPOSITORY
from PIL import Image
from ray.cluster_utils import Cluster

from benchmarks.leaderboard import board as leaderboard
from benchmarks.sweeps import engine_ray, sweep
from benchmarks.sweeps.sweep import EngineArgs, RunAll, engine_of
from data.datasets import load_dataset
from data.pictures import pixel_cache
from data.preprocessing import Preprocessing
from helper_functions.config import run_script
from helper_functions.errors import UserError


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    one = {"num_cpus": 1, "num_gpus": 0}
    cluster = Cluster(initialize_head=True, head_node_args={**one, "include_dashboard": False})
    cluster.add_node(**one)
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("sweep")


@pytest.fixture(scope="module")
def run_all(cluster, log_dir) -> Iterator[RunAll]:
    with engine_of(EngineArgs("ray", cluster.address), str(log_dir)) as run_all:
        yield run_all


def cells(folder: Path, count: int, **further: object) -> list[dict]:
    return [{"number": number, "folder": str(folder), **further} for number in range(count)]


def see(cell: dict) -> tuple:
    """The work of a cell, in another process, as are the functions below."""
    if cell["number"] == 2:
        raise UserError("2 cannot be seen")
    return cell["number"], os.getcwd(), torch.get_num_threads()


def fill_the_disk(cell: dict) -> None:
    raise OSError(28, "No space left on device", os.environ["CUDA_VISIBLE_DEVICES"] + cell["folder"])


def die_once(cell: dict) -> int:
    """Leave a file for each attempt; cell 1 kills its process until it has the given number of attempts."""
    folder = Path(cell["folder"])
    (folder / f"{cell['number']}-{os.getpid()}").touch()
    if cell["number"] == 1 and len(list(folder.glob("1-*"))) < cell["attempts"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return cell["number"]


def outlive(cell: dict) -> int:
    """Leave a file for each attempt; on the doomed machine it never ends, elsewhere it waits until that has one."""
    folder, here = Path(cell["folder"]), ray.get_runtime_context().get_node_id()
    (folder / f"{cell['number']}-{here}").touch()
    while here == cell["doomed"] or not list(folder.glob(f"*-{cell['doomed']}")):
        time.sleep(0.05)
    return cell["number"]


def read_pictures(cell: dict) -> tuple[str, int, int]:
    """The machine, how many pictures this process decodes into that machine's file, and the sum of all pixels."""
    here, decoded, decode = ray.get_runtime_context().get_node_id(), [], pixel_cache.decode

    def count(*given: object, **options: object) -> None:
        decoded.append(len(given[4]))
        decode(*given, **options)

    pixel_cache.decode = count
    try:
        cache_dir = Path(cell["folder"]) / here
        dataset = load_dataset("imagefolder", cell["photos"], Preprocessing(4), cache="disk", cache_dir=cache_dir)
    finally:
        pixel_cache.decode = decode
    return here, sum(decoded), int(dataset.images[:].sum())


class TestCells:
    def test_results_and_errors_are_those_of_local_processes(self, run_all, tmp_path):
        def found(finished) -> dict:
            return {cell["number"]: (result, str(error)) for cell, result, error in finished}

        asked = cells(tmp_path, 4)
        assert found(run_all(see, asked, title="cells")) == found(sweep.run_all(see, asked, 2, "cells"))

    def test_any_other_error_is_raised_as_it_was_and_no_gpu_is_seen(self, run_all, tmp_path):
        with pytest.raises(OSError) as caught:
            list(run_all(fill_the_disk, cells(tmp_path, 1), title="cells"))
        assert (caught.value.strerror, caught.value.filename) == ("No space left on device", str(tmp_path))

    def test_a_cell_waits_for_an_attempt_that_still_runs_elsewhere(self, run_all, log_dir, tmp_path):
        held, free = asked = cells(tmp_path, 2)
        with contextlib.ExitStack() as elsewhere:
            elsewhere.enter_context(engine_ray._alone(held, log_dir / "attempts.lock"))
            finished = iter(run_all(see, asked, title="cells"))
            assert next(finished)[0] == free
            elsewhere.close()
            assert [cell for cell, _, _ in finished] == [held]


    def test_pictures_are_decoded_once_a_machine(self, run_all, tmp_path):
        pixels = np.random.default_rng(0).integers(0, 256, (20, 4, 4, 3), dtype=np.uint8)
        for number, each in enumerate(pixels):
            path = tmp_path / "photos" / "ab"[number % 2] / f"{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(each).save(path)
        asked, decoded = cells(tmp_path, 6, photos=str(tmp_path / "photos")), {}
        for _, (here, count, total), error in run_all(read_pictures, asked, title="cells"):
            assert error is None and total == pixels.sum()
            decoded[here] = decoded.get(here, 0) + count
        assert set(decoded.values()) == {len(pixels)}


class TestRefusals:
    @pytest.mark.parametrize(
        "flags, part",
        [
            ("--address auto", "--address auto: there is no cluster to join without --engine ray"),
            ("--gpus_per_run 0.5", "--gpus_per_run 0.5: GPUs are shared out by --engine ray alone"),
            ("--engine ray --gpus_per_run 1.5", "gpus_per_run"),
            ("--engine slurm", "engine"),
            ("--engine ray --address somewhere", "--address somewhere: auto, or HOST:PORT"),
            ("--engine ray --address 127.0.0.1:1", "Connection refused; ray start --head starts a cluster"),
            ("--engine ray", "pip install -r requirements-cluster.txt"),
        ],
    )
    def test_flags_that_cannot_be_met(self, flags, part, tmp_path, monkeypatch, capsys):
        if "install" in part:
            monkeypatch.setitem(sys.modules, "ray", None)
            monkeypatch.delitem(sys.modules, "benchmarks.sweeps.engine_ray")
            monkeypatch.delattr("benchmarks.sweeps.engine_ray")
        monkeypatch.setattr(sys, "argv", ["script", *flags.split(), "--log_dir", str(tmp_path / "runs")])
        assert run_script(leaderboard.get_parser, leaderboard.main) == 2
        out, err = capsys.readouterr()
        assert not out and err.count("\n") == 1 and part in err, err
        assert not (tmp_path / "runs").exists()

    def test_a_share_of_a_gpu_where_this_machine_has_none(self, tmp_path):
        """As a process, which starts a Ray of its own."""
        flags = ["--output", tmp_path, "--log_dir", tmp_path, "--engine", "ray", "--gpus_per_run", 0.5]
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.leaderboard", *map(str, flags)],
            cwd=REPOSITORY, env={**os.environ, "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "--gpus_per_run 0.5: no machine of the cluster has a GPU" in done.stderr
        assert not list(tmp_path.iterdir())


class TestLosses:
    """Last in this file: Ray reports a lost machine seconds later, on the standard output of every connection."""

    @pytest.mark.parametrize("attempts", [2, 100])
    def test_a_cell_whose_worker_is_killed_starts_again_or_is_given_up(self, attempts, run_all, tmp_path, monkeypatch):
        monkeypatch.setattr(engine_ray, "ATTEMPTS", 2)
        asked = cells(tmp_path, 3, attempts=attempts)
        found = {cell["number"]: (result, error) for cell, result, error in run_all(die_once, asked, title="cells")}
        given_up = attempts > 2
        assert {number: result for number, (result, _) in found.items()} == {0: 0, 1: None if given_up else 1, 2: 2}
        assert ("2 workers were lost with it" in str(found[1][1])) == given_up
        assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["0", "1", "1", "2"]

    def test_cells_of_a_machine_that_is_lost_start_again_on_another(self, run_all, cluster, tmp_path):
        machine = cluster.add_node(num_cpus=1, num_gpus=0)
        finished = iter(run_all(outlive, cells(tmp_path, 6, doomed=machine.node_id), title="cells"))
        found = [next(finished)]
        (lost,) = tmp_path.glob(f"*-{machine.node_id}")
        cluster.remove_node(machine, allow_graceful=False)
        found += finished
        assert sorted((result, error) for _, result, error in found) == [(number, None) for number in range(6)]
        number = lost.name.partition("-")[0]
        assert len(list(tmp_path.glob(f"{number}-*"))) == 2 and len(list(tmp_path.iterdir())) == 7
