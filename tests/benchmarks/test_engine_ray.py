"""Sweeps on Ray: what comes out is what comes out here, also when workers and machines are lost; one cluster of two."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster

from benchmarks.leaderboard import board as leaderboard
from benchmarks.leaderboard import tune
from benchmarks.sweeps import engine_ray, sweep
from benchmarks.sweeps.engines import EngineArgs, RunAll, engine_of
from helper_functions.config import run_script
from helper_functions.errors import UserError

REPOSITORY = Path(__file__).parents[2]
TINY = "dataset: digits\nmodel: resnet8\nwidth: 4\nnum_epochs: 1\nbatch_size: 64\n"


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two machines of one processor each, as far as Ray can tell."""
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


def double(cell: dict) -> int:
    """What a cell does; in another process, as the functions below."""
    if cell["number"] == 2:
        raise UserError("2 cannot be doubled")
    return 2 * cell["number"]


def see(cell: dict) -> tuple:
    return os.getcwd(), torch.get_num_threads(), os.environ["CUDA_VISIBLE_DEVICES"]


def fill_the_disk(cell: dict) -> None:
    raise OSError(28, "No space left on device", cell["folder"])


def die_once(cell: dict) -> int:
    """Leave a file for each attempt; those of cell 1 kill their process until there are as many as it must have."""
    folder = Path(cell["folder"])
    (folder / f"{cell['number']}-{os.getpid()}").touch()
    if cell["number"] == 1 and len(list(folder.glob("1-*"))) < cell["attempts"]:
        os.kill(os.getpid(), signal.SIGKILL)
    return cell["number"]


def outlive(cell: dict) -> int:
    """Leave a file for each attempt; those on the doomed machine never end, all others wait until it has one."""
    folder, here = Path(cell["folder"]), ray.get_runtime_context().get_node_id()
    (folder / f"{cell['number']}-{here}").touch()
    while here == cell["doomed"] or not list(folder.glob(f"*-{cell['doomed']}")):
        time.sleep(0.05)
    return cell["number"]


class TestCells:
    def test_results_and_errors_are_those_of_local_processes(self, run_all, tmp_path):
        def found(finished) -> dict:
            return {cell["number"]: (result, str(error)) for cell, result, error in finished}

        asked = cells(tmp_path, 4)
        assert found(run_all(double, asked, title="cells")) == found(sweep.run_all(double, asked, 1, "cells"))

    def test_a_run_has_one_thread_no_gpu_and_the_folder_of_who_asked(self, run_all, tmp_path):
        ((_, seen, _),) = run_all(see, cells(tmp_path, 1), title="cells")
        assert seen == (os.getcwd(), 1, "")

    def test_any_other_error_is_raised_as_it_was(self, run_all, tmp_path):
        with pytest.raises(OSError) as caught:
            list(run_all(fill_the_disk, cells(tmp_path, 1), title="cells"))
        assert (caught.value.strerror, caught.value.filename) == ("No space left on device", str(tmp_path))

    def test_a_cell_waits_for_an_attempt_that_is_still_at_work_elsewhere(self, run_all, log_dir, tmp_path):
        held, free = asked = cells(tmp_path, 2)
        with contextlib.ExitStack() as elsewhere:
            elsewhere.enter_context(engine_ray._alone(held, log_dir / "attempts.lock"))
            finished = iter(run_all(double, asked, title="cells"))
            assert next(finished)[0] == free
            elsewhere.close()
            assert [cell for cell, _, _ in finished] == [held]


def run(*flags: object) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "benchmarks.leaderboard", *map(str, flags)],
        cwd=REPOSITORY, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_a_leaderboard_is_the_same_on_either_engine(tmp_path):
    (tmp_path / "train.yaml").write_text(TINY)
    asked = ["--methods", "ssd", "delete", "--forget", "class:3", "--train_config", str(tmp_path / "train.yaml")]

    def said_and_rows(engine: str) -> tuple[list[str], dict[str, dict]]:
        where = ["--output", f"{tmp_path}/{engine}/out", "--log_dir", f"{tmp_path}/{engine}/runs"]
        done = run(*asked, *where, "--engine", engine, "--workers", "1")
        assert done.returncode == 0 and not done.stderr, done.stderr
        lines = (tmp_path / engine / "out" / "results.jsonl").read_text().splitlines()
        assert len(lines) == 2
        rows = {row["key"]: without_place(row) for row in map(json.loads, lines)}
        return without_seconds(done.stdout, engine), rows

    assert said_and_rows("ray") == said_and_rows("local")


def without_seconds(said: str, engine: str) -> list[str]:
    """What was printed, without the seconds that end a cell's line, and with neither engine's name."""
    return [line.partition(" points left")[0].replace(f"/{engine}/", "/") for line in said.splitlines()]


def without_place(row: dict) -> dict:
    """A row without what tells where it was run and for how long."""
    config = {name: value for name, value in row["config"].items() if not name.endswith(("_path", "_dir"))}
    costs = {name: {**row[name], "seconds": None, "peak_memory_bytes": None} for name in ("cost", "retrained_cost")}
    return {**row, **costs, "config": config, "environment": None}


class TestRefusals:
    @pytest.mark.parametrize("script", [leaderboard, tune])
    @pytest.mark.parametrize(
        "flags, part",
        [
            (["--address", "auto"], "--address auto: there is no cluster to join without --engine ray"),
            (["--gpus_per_run", "0.5"], "--gpus_per_run 0.5: GPUs are shared out by --engine ray alone"),
            (["--engine", "ray", "--gpus_per_run", "1.5"], "gpus_per_run"),
            (["--engine", "slurm"], "engine"),
            (["--engine", "ray", "--address", "somewhere"], "--address somewhere: auto, or HOST:PORT"),
            (["--engine", "ray", "--address", "127.0.0.1:1"], "Connection refused; ray start --head starts a cluster"),
        ],
    )
    def test_flags_that_cannot_be_met(self, script, flags, part, tmp_path, monkeypatch, capsys):
        assert_refused(script, [*flags, "--log_dir", str(tmp_path / "runs")], part, monkeypatch, capsys)
        assert not (tmp_path / "runs").exists()

    @pytest.mark.parametrize("script", [leaderboard, tune])
    def test_ray_that_is_not_installed(self, script, tmp_path, monkeypatch, capsys):
        monkeypatch.setitem(sys.modules, "ray", None)
        monkeypatch.delitem(sys.modules, "benchmarks.sweeps.engine_ray")
        monkeypatch.delattr("benchmarks.sweeps.engine_ray")
        flags = ["--engine", "ray", "--log_dir", str(tmp_path / "runs")]
        assert_refused(script, flags, "pip install -r requirements-cluster.txt", monkeypatch, capsys)
        assert not (tmp_path / "runs").exists()

    def test_a_share_of_a_gpu_where_no_machine_has_one(self, cluster, tmp_path):
        where = ["--output", tmp_path, "--log_dir", tmp_path, "--engine", "ray", "--address", cluster.address]
        done = run(*where, "--gpus_per_run", 0.5)
        assert done.returncode == 2 and done.stderr.count("\n") == 1, done.stderr
        assert "--gpus_per_run 0.5: no machine of the cluster has a GPU" in done.stderr
        assert not list(tmp_path.iterdir())


def assert_refused(script, flags: list[str], part: str, monkeypatch, capsys) -> None:
    """Exit status 2 and one line on standard error, which has this part."""
    monkeypatch.setattr(sys, "argv", ["script", *flags])
    assert run_script(script.get_parser, script.main) == 2
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and part in err, err


class TestLosses:
    """Last in this file: Ray reports a lost machine seconds later, on the standard output of whoever is connected."""

    def test_a_cell_whose_worker_was_killed_is_begun_again(self, run_all, tmp_path):
        asked = cells(tmp_path, 4, attempts=2)
        finished = [(cell["number"], result, error) for cell, result, error in run_all(die_once, asked, title="cells")]
        assert sorted(finished) == [(number, number, None) for number in range(4)]
        assert sorted(path.name.partition("-")[0] for path in tmp_path.iterdir()) == ["0", "1", "1", "2", "3"]

    def test_a_cell_that_kills_every_worker_is_given_up_and_the_others_go_on(self, run_all, tmp_path, monkeypatch):
        monkeypatch.setattr(engine_ray, "ATTEMPTS", 2)
        asked = cells(tmp_path, 3, attempts=100)
        found = {cell["number"]: (result, error) for cell, result, error in run_all(die_once, asked, title="cells")}
        assert {number: result for number, (result, _) in found.items()} == {0: 0, 1: None, 2: 2}
        assert isinstance(found[1][1], UserError) and "2 workers were lost with it" in str(found[1][1])
        assert len(list(tmp_path.glob("1-*"))) == 2

    def test_cells_of_a_machine_that_is_lost_are_begun_again_on_another(self, run_all, cluster, tmp_path):
        machine = cluster.add_node(num_cpus=1, num_gpus=0)
        finished = iter(run_all(outlive, cells(tmp_path, 6, doomed=machine.node_id), title="cells"))
        found = [next(finished)]
        (lost,) = tmp_path.glob(f"*-{machine.node_id}")
        cluster.remove_node(machine, allow_graceful=False)
        found += finished
        assert sorted((result, error) for _, result, error in found) == [(number, None) for number in range(6)]
        number = lost.name.partition("-")[0]
        assert len(list(tmp_path.glob(f"{number}-*"))) == 2 and len(list(tmp_path.iterdir())) == 7
