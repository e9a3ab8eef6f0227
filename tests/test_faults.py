"""Signals at any moment: the step is finished, everything is saved, the run that goes on ends bit for bit alike."""

import itertools
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from conftest import SMALL
from method_cases import STEPPING, begin, changed, everything, network, state_of, streams
from processes import fork, only, signal_at
from test_scripts import (
    CONTRASTIVE,
    UNLEARN,
    assert_same_weights,
    figures_of,
    recorded_scalars,
    report_of,
    scalars_of,
    weights_of,
)
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from helper_functions.signals import Stopped, listening
from optimizer.solver import Solver
from unlearning.methods import METHODS

SHORT = {
    "num_epochs": 2, "momentum": 0.9, "schedule": "cosine", "finetune_num_epochs": 1, "bn": "train",
    "learning_rate": 0.01, "noise_steps": 2,
}  # fmt: skip


@pytest.fixture(autouse=True)
def hasty(monkeypatch) -> None:
    """Discriminators that learn in a few steps: it does not matter here how much."""
    monkeypatch.setattr("contrastive_discrimination.games.WARM_UP_STEPS", 3)
    monkeypatch.setattr("contrastive_discrimination.held_out.FEWEST_STEPS", 2)
    monkeypatch.setattr("contrastive_discrimination.held_out.PASSES", 1)


def reported(folder: Path) -> dict:
    """The report, without what the clock and the machine say."""
    report = report_of(folder)
    for cost in report["cost"].values():
        del cost["seconds"], cost["peak_memory_bytes"]
    return report


def dropping() -> nn.Module:
    """A network with dropout."""
    return nn.Sequential(network()[:-1], nn.Dropout(0.3), network()[-1])


def shuffled() -> dict[str, DataLoader]:
    """The images of `streams`, by torch's own loader."""
    parts = {name: everything(loader) for name, loader in streams().items()}
    return {name: DataLoader(TensorDataset(*part), 8, shuffle=name == "retain") for name, part in parts.items()}


def interrupt(monkeypatch, at: int, number: int = signal.SIGTERM) -> None:
    """Have this process get a signal while it takes its step of this number."""
    step, numbers = Solver.step, itertools.count(1)

    def interrupted(solver, batch):
        if next(numbers) == at:
            signal.raise_signal(number)
        return step(solver, batch)

    monkeypatch.setattr(Solver, "step", interrupted)


class TestMethods:
    """A run of which each process takes a step or two, and is stopped."""

    def run(self, method: str, folder: Path, monkeypatch=None, at: int = 1, **settings):
        """Until it is stopped, or to its end; gives the run, its outcome and the step that it was stopped at."""
        folder.mkdir(exist_ok=True)
        torch.manual_seed(3)
        if settings.pop("draws", False):
            settings |= {"model": dropping(), "loaders": shuffled()}
        unlearning = begin(method, folder, **{**SHORT, **settings})
        checkpoint = unlearning.record.load_checkpoint()
        with pytest.MonkeyPatch.context() as patch, listening():
            if monkeypatch is not None:
                interrupt(patch, at)
            try:
                return unlearning, unlearning.run(checkpoint), None
            except Stopped as stopped:
                return unlearning, None, stopped.step

    def check(self, method: str, folder: Path, monkeypatch, at: int = 1, **settings) -> None:
        whole, expected, _ = self.run(method, folder / "whole", **settings)
        steps, outcome = [], None
        while outcome is None:
            unlearning, outcome, step = self.run(method, folder / "cut", monkeypatch, at, **settings)
            steps.append(step)
        total = expected.cost.gradient_steps
        assert steps == [*range(at, total + 1, at), None] and outcome.cost.gradient_steps == total
        assert changed(state_of(whole.model), state_of(unlearning.model)) == set()
        for name in ("epochs", "chosen", "events", "original", "held_out_auc"):
            assert str(getattr(outcome, name)) == str(getattr(expected, name)), name
        assert outcome.cost.images == expected.cost.images
        assert figures_of(folder / "cut") == figures_of(folder / "whole")

    @pytest.mark.parametrize("method", STEPPING)
    def test_everything_that_a_method_holds_is_saved(self, method, tmp_path, monkeypatch):
        self.check(method, tmp_path, monkeypatch, at=3 if METHODS[method].discriminates else 2)

    @pytest.mark.parametrize(
        "settings",
        [
            {"use_sam": True}, {"optimizer": "adamw"}, {"solver": "augmented_lagrangian", "rewind": True},
            # Steps that run away, to numbers that are none.
            {"learning_rate": 30.0, "max_grad_norm": None}, {"stop_criterion": "confusion", "target": "chance"},
        ],
    )  # fmt: skip
    def test_whatever_the_flags_are(self, settings, tmp_path, monkeypatch):
        self.check("constrained", tmp_path, monkeypatch, at=2, **settings)

    def test_draws_of_a_model_and_of_loaders_of_ones_own(self, tmp_path, monkeypatch):
        """Dropout, and a DataLoader that shuffles: both by torch's own generator."""
        self.check("finetune", tmp_path, monkeypatch, draws=True)


def again(script: str, folder: Path) -> str:
    return f"go on with: python {script} --resume {folder}"


class TestScripts:
    # 11 steps an epoch for the original, 10 for the retrained model, 5 for each of the three epochs of unlearning; the
    # step of each process, and the step of the training that it stops.
    STOPPED_AT = ((4, 4), (7, 11), (11 + 3, 3), (17 + 2, 2), (3, 5), (5 + 2, 12))

    def test_stopped_again_and_again_it_ends_as_if_it_had_never_stopped(self, quickstart, tmp_path):
        flags = ("--config_file", quickstart.folder / "config.yaml", "--log_dir", tmp_path)
        for number, (at, step) in enumerate(self.STOPPED_AT):
            name = ("SIGINT", "SIGTERM")[number % 2]
            done = fork(UNLEARN, *flags, before=partial(signal_at, at, name))
            folder = only(tmp_path)
            assert done.status == 128 + signal.Signals[name], (number, done)
            assert done.err == f"{UNLEARN}: stopped at step {step}; {again(UNLEARN, folder)}\n"
            flags = ("--resume", folder)
        done = fork(UNLEARN, *flags)
        assert done.status == quickstart.done.status and done.err == ""
        for name in ("model.pt", "original.pt", "retrained.pt"):
            assert_same_weights(weights_of(folder, name), weights_of(quickstart.folder, name))
        assert figures_of(folder) == figures_of(quickstart.folder)
        assert scalars_of(folder) == recorded_scalars(folder)
        assert reported(folder) == reported(quickstart.folder)
        assert {path.name for path in folder.iterdir()}.isdisjoint({"run.lock", "nan.json"})

    @pytest.mark.parametrize(
        ("mode", "step"), [("train", 11 + 4), ("untrain", 3), ("untrain_contrastive", 2)]
    )
    def test_a_student(self, mode, step, original, tmp_path):
        flags = ("--mode", mode, *SMALL, "--weight_path", original.folder / "model.pt", "--num_epochs", 2)
        flags += ("--figures", "False", "--judge", "validation")
        flags += ("--discriminator_steps", 1, "--discriminate", "features") if mode == "train" else ("--batch_size", 20)
        whole = fork(CONTRASTIVE, *flags, "--log_dir", tmp_path / "whole")
        done = fork(CONTRASTIVE, *flags, "--log_dir", tmp_path / "cut", before=partial(signal_at, step, "SIGTERM"))
        folder = only(tmp_path / "cut")
        assert done.status == 143
        assert done.err == f"{CONTRASTIVE}: stopped at step {step}; {again(CONTRASTIVE, folder)}\n"
        assert fork(CONTRASTIVE, "--resume", folder).status == whole.status
        assert_same_weights(weights_of(folder), weights_of(only(tmp_path / "whole")))
        assert figures_of(folder) == figures_of(only(tmp_path / "whole"))
        assert reported(folder) == reported(only(tmp_path / "whole"))
