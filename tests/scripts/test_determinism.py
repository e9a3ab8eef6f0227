"""A command repeats its bits in any surroundings; with another number of threads it differs in the last digits."""

import contextlib
import json
import math
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.processes import REPOSITORY, SMALL, TIMEOUT, assert_refused, fork, only, run
from helpers.steps import around_steps
from PIL import Image

from data.pictures.reading import read_image_folder
from data.preprocessing import Preprocessing
from helper_functions.training.devices import lacks_determinism

UNLEARN, CONTRASTIVE = "train_constrained_unlearning.py", "train_contrastive.py"
QUICK = (*SMALL, "--figures", "False", "--deterministic")
# What a clock, the machine's memory or the name of the folder says.
MEASURED = ("seconds", "memory", "created", "name", "files", "sha256")
# Of tensors, relative to their norms, and of figures, in points of 100; see docs/trust.md.
THREADS_WEIGHTS, THREADS_POINTS = 1e-4, 0.5


def outcome(folder: Path) -> tuple[dict[str, torch.Tensor], object]:
    """Weights, and the report without what was measured on the way."""
    weights = {path.name: torch.load(path, weights_only=True) for path in folder.glob("*.pt")}
    weights.pop("checkpoint.pt", None)
    tensors = {f"{file} {name}": value for file, content in weights.items() for name, value in content.items()}
    return tensors, without_measures(json.loads((folder / "report.json").read_text()))


def without_measures(value: object) -> object:
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if not any(word in key for word in MEASURED)}
        return {key: without_measures(item) for key, item in kept.items()}
    return [without_measures(item) for item in value] if isinstance(value, list) else value


def assert_same(one: tuple, other: tuple) -> None:
    assert one[0].keys() == other[0].keys() and one[0]
    for name, value in one[0].items():
        assert torch.equal(value, other[0][name]), name
    assert one[1] == other[1]


def elsewhere(script: str, *flags: object) -> str:
    """Run a script as another user might: another folder, language, time zone, order of hashes; gives its output."""
    around = {"PYTHONHASHSEED": "4321", "LC_ALL": "C", "TZ": "Asia/Kathmandu", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, REPOSITORY / script, *map(str, flags)],
        cwd="/", env={**os.environ, **around}, capture_output=True, text=True, timeout=TIMEOUT,
    )  # fmt: skip
    assert done.returncode in (0, 3, 4), done.stderr
    return done.stdout


@pytest.fixture
def twice(original, tmp_path):
    """Run a script here and once more, there or in another process; gives both outcomes."""

    def both(script: str, *flags: object, there: bool = False) -> tuple[tuple, tuple]:
        weights = () if script == "train.py" else ("--weight_path", original.folder / "model.pt")
        argv = (*QUICK, *weights, *flags, "--log_dir")
        done = (run if there else fork)(script, *argv, tmp_path / "one")
        assert done.status in (0, 3, 4) and not done.err, done
        if there:
            elsewhere(script, *argv, tmp_path / "two")
        else:
            assert fork(script, *argv, tmp_path / "two").status in (0, 3, 4)
        return outcome(only(tmp_path / "one")), outcome(only(tmp_path / "two"))

    return both


class TestSameBits:
    def test_training(self, twice):
        assert_same(*twice("train.py", "--num_epochs", 2, "--cutout", 2, "--augmentation", "crop"))

    def test_sam(self, twice):
        assert_same(*twice("train.py", "--num_epochs", 1, "--use_sam", "--forget", "mislabelled:0.1", "--retain_only"))

    def test_constrained_unlearning(self, twice):
        assert_same(*twice(UNLEARN, "--num_epochs", 2, "--finetune_num_epochs", 1, there=True))

    @pytest.mark.parametrize("method", ["fisher", "random_labels", "scrub"])
    def test_published_methods(self, twice, method):
        """One draws noise, one labels, one plays two epochs against one another."""
        assert_same(*twice(UNLEARN, "--method", method))

    @pytest.mark.parametrize("mode", ["train", "untrain", "untrain_contrastive"])
    def test_contrastive(self, twice, mode):
        assert_same(*twice(CONTRASTIVE, "--mode", mode, "--num_epochs", 1))

    def test_judging(self, original, tmp_path):
        weights = original.folder / "model.pt"
        further = ("--original_weight_path", weights, "--linear_probe", "--forget", "random:40")
        flags = (*SMALL, "--deterministic", "--weight_path", weights, *further, "--output")
        done = run("test.py", *flags, tmp_path / "one.json")
        assert done.status == 0, done.err
        assert elsewhere("test.py", *flags, tmp_path / "two.json") == done.out
        assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


# Fine-tuning in training mode lets any difference grow.
FORGETTING_ALONE = ("--num_epochs", 3, "--finetune_num_epochs", 0)


class TestThreads:
    """Sums in another order: near, not equal. Training from nothing lets any difference grow, and is not compared."""

    @pytest.fixture
    def on_threads(self, original, tmp_path):
        """Run a script on the small original's weights with one thread, and with two; gives what `read` makes of it."""

        def run(script: str, read: Callable[[Path], object], *flags: object) -> list:
            found = []
            for threads in (1, 2):
                (folder := tmp_path / str(threads)).mkdir()
                argv = (*SMALL, "--deterministic", "--weight_path", original.folder / "model.pt", *flags)
                where = ("--output", folder / "figures.json") if script == "test.py" else ("--log_dir", folder)
                done = fork(script, *argv, *where, before=partial(torch.set_num_threads, threads))
                assert done.status in (0, 3, 4), done.err
                found.append(read(folder))
            return found

        return run

    def test_unlearning(self, on_threads):
        (one, report), (two, other) = on_threads(UNLEARN, lambda folder: outcome(only(folder)), *FORGETTING_ALONE)
        for name, value in one.items():
            difference = (value.double() - two[name].double()).norm()
            assert difference <= THREADS_WEIGHTS * value.double().norm(), name
        assert_near(report["models"]["unlearned"], other["models"]["unlearned"])

    def test_judging(self, on_threads):
        one, two = on_threads("test.py", lambda folder: json.loads((folder / "figures.json").read_text())["models"])
        (path,) = (name for name in one if name.endswith("model.pt"))
        assert_near(one[path], two[path])


def assert_near(one: dict[str, float], two: dict[str, float]) -> None:
    assert one.keys() == two.keys()
    for name, value in one.items():
        if value is not None and "discriminator" not in name:  # trained anew
            allowed = THREADS_POINTS if abs(value) > 1 else THREADS_POINTS / 100
            assert math.isclose(value, two[name], abs_tol=allowed), name


class TestTheFlag:
    def test_it_reaches_torch(self, tmp_path):
        """Also where an op has no such form: one line, and status 2."""
        flags = (*QUICK, "--num_epochs", 1, "--log_dir", tmp_path)
        done = fork("train.py", *flags, before=take_a_step_without_deterministic_form)
        assert_refused(done, "train.py", "--deterministic True", "put_", "no deterministic form")

    def test_without_it_such_an_operation_is_allowed(self, tmp_path):
        flags = (*SMALL, "--figures", "False", "--num_epochs", 1, "--log_dir", tmp_path)
        assert fork("train.py", *flags, before=take_a_step_without_deterministic_form).status == 0

    def test_other_errors_are_not_explained_away(self):
        assert lacks_determinism(RuntimeError("CUDA out of memory")) is None
        assert "CUBLAS_WORKSPACE_CONFIG" in lacks_determinism(RuntimeError("set CUBLAS_WORKSPACE_CONFIG=:4096:8"))


def take_a_step_without_deterministic_form() -> None:
    """In this process, a gradient step begins with an operation whose result depends on the order of threads."""

    def other(trainer: object, step: Callable[[dict], dict], batch: dict) -> dict:
        torch.zeros(2).put_(torch.tensor([0, 0]), torch.ones(2))
        return step(batch)

    around_steps(other)


class Backwards(list):
    """The entries of a folder, the last one first."""

    def __init__(self, entries: Iterable) -> None:
        super().__init__(list(entries)[::-1])

    def close(self) -> None:
        """Nothing is open any more."""


def test_pictures_are_in_the_same_order_however_the_folder_lists_them(tmp_path, monkeypatch):
    for name in ("b/2.png", "a/1.png", "a/deeper/0.png", "Z/1.png", "ä/1.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2, 2), (len(name), 0, 0)).save(tmp_path / name)
    first = read_image_folder(tmp_path, Preprocessing(2).resolved(), False)
    scandir, iterdir = os.scandir, Path.iterdir
    monkeypatch.setattr(os, "scandir", lambda path: contextlib.closing(Backwards(scandir(path))))
    monkeypatch.setattr(Path, "iterdir", lambda folder: iter(sorted(iterdir(folder))[::-1]))
    second = read_image_folder(tmp_path, Preprocessing(2).resolved(), False)
    assert (first.images == second.images).all() and (first.listing.labels == second.listing.labels).all()
    assert first.listing.files == second.listing.files == ("Z/1.png", "a/1.png", "a/deeper/0.png", "b/2.png", "ä/1.png")
