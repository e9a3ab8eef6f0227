"""Signals at any moment: the step is finished, everything is saved, the run that goes on ends bit for bit alike."""

import math
import os
import pkgutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.method_cases import STEPPING, begin, changed, everything, network, state_of, streams
from helpers.processes import SMALL, Done, contents, fork, only, signal_at
from helpers.run_folders import (
    CONTRASTIVE,
    UNLEARN,
    assert_same_weights,
    figures_of,
    recorded_scalars,
    results_of,
    scalars_of,
    weights_of,
)
from helpers.steps import SHORT, break_steps
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from helper_functions.signals import Stopped, listening
from optimizer.solver import Descent
from unlearning.methods import METHODS

pytestmark = pytest.mark.usefixtures("hasty")


def dropping() -> nn.Module:
    """A network with dropout."""
    return nn.Sequential(network()[:-1], nn.Dropout(0.3), network()[-1])


def shuffled() -> dict[str, DataLoader]:
    """The images of `streams`, by torch's own loader."""
    parts = {name: everything(loader) for name, loader in streams().items()}
    return {name: DataLoader(TensorDataset(*part), 8, shuffle=name == "retain") for name, part in parts.items()}


def run_until_stopped(method: str, folder: Path, at: int | None = None, **settings):
    """A run, or what is left of it, that a signal stops at its step of this number; with its outcome, or that step."""
    folder.mkdir(exist_ok=True)
    torch.manual_seed(3)
    if settings.pop("draws", False):
        settings |= {"model": dropping(), "loaders": shuffled()}
    on_nan = settings.pop("on_nan", None)
    unlearning = begin(method, folder, **{**SHORT, **settings})
    unlearning.on_nan = on_nan or unlearning.on_nan
    checkpoint = unlearning.record.load_checkpoint()
    with pytest.MonkeyPatch.context() as patch, listening():
        if at is not None:
            signal_at(at, "SIGTERM", patch.setattr)
        try:
            return unlearning, unlearning.run(checkpoint), None
        except Stopped as stopped:
            return unlearning, None, stopped.step


def check_stopped_again_and_again(method: str, folder: Path, at: int, **settings) -> None:
    """A run of which each process takes `at` steps ends bit for bit as one that is never stopped.

    A stop with figures that are not finite saves nothing. The step at which a run diverges depends on rounding.
    """
    whole, expected, _ = run_until_stopped(method, folder / "whole", **settings)
    steps, outcome = [], None
    while outcome is None and len(steps) < 100:
        unlearning, outcome, step = run_until_stopped(method, folder / "cut", at, **settings)
        steps.append(step)
    total = expected.cost.gradient_steps
    saved = [step for step in steps if step is not None]
    assert steps[-1] is None and outcome.cost.gradient_steps == total
    diverged = expected.events and None in steps[:-1] and saved == sorted(set(saved))
    assert saved == [*range(at, total + 1, at)] or diverged
    assert changed(state_of(whole.model), state_of(unlearning.model)) == set()
    for name in ("epochs", "chosen", "events", "original", "held_out_auc"):
        assert str(getattr(outcome, name)) == str(getattr(expected, name)), name
    assert outcome.cost.images == expected.cost.images
    assert figures_of(folder / "cut") == figures_of(folder / "whole")


class TestMethods:
    """A run of which each process takes a few steps, and is stopped."""

    @pytest.mark.parametrize("method", STEPPING)
    def test_everything_that_a_method_holds_is_saved(self, method, tmp_path):
        check_stopped_again_and_again(method, tmp_path, at=3 if METHODS[method].discriminates else 2)

    @pytest.mark.parametrize(
        "settings",
        [
            {"use_sam": True}, {"optimizer": "adamw"}, {"solver": "augmented_lagrangian", "rewind": True},
            # Steps that diverge.
            {"learning_rate": 30.0, "max_grad_norm": None}, {"stop_criterion": "confusion", "target": "chance"},
        ],
    )  # fmt: skip
    def test_whatever_the_flags_are(self, settings, tmp_path):
        check_stopped_again_and_again("constrained", tmp_path, at=3, **settings)

    def test_draws_of_a_model_and_of_loaders_of_ones_own(self, tmp_path):
        """Dropout, and a DataLoader that shuffles: both by torch's own generator."""
        check_stopped_again_and_again("finetune", tmp_path, at=1, draws=True)

    @pytest.mark.parametrize("method", ["finetune", "scrub", "random_labels"])
    def test_runs_that_go_back_twice_on_their_way(self, method, tmp_path, monkeypatch):
        """The gradient is NaN as long as the steps are too long."""
        step = Descent.step

        def diverge(descent, *losses):
            (group,) = descent.optimizer.param_groups
            too_long = group["lr"] > 0.3 * group["initial_lr"]
            return step(descent, *losses) * (math.nan if too_long else 1)

        monkeypatch.setattr(Descent, "step", diverge)
        check_stopped_again_and_again(method, tmp_path, at=5, schedule="constant", on_nan="rewind")
        lines = figures_of(tmp_path / "whole")
        assert [value for line in lines for name, value in line.items() if "rewound" in name] == [0.5, 0.25]


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
        # The original stays where it is not forgotten.
        for name in sorted(path.name for path in quickstart.folder.glob("*.pt") if path.name != "checkpoint.pt"):
            assert_same_weights(weights_of(folder, name), weights_of(quickstart.folder, name))
        assert figures_of(folder) == figures_of(quickstart.folder)
        assert scalars_of(folder) == recorded_scalars(folder)
        assert results_of(folder) == results_of(quickstart.folder)
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
        assert results_of(folder) == results_of(only(tmp_path / "whole"))

    FLAGS = (*SMALL, "--forget", "random:40", "--num_epochs", 2)

    def stop(self, original, tmp_path, before, script: str = "train.py") -> tuple[Done, Path]:
        """The session's original, which a signal stops."""
        flags = ("--config_file", original.folder / "config.yaml", "--log_dir", tmp_path)
        return fork(script, *flags, before=before), only(tmp_path)

    def assert_goes_on(self, folder: Path, original) -> None:
        done = fork("train.py", "--resume", folder)
        assert done.status == 0 and done.err == ""
        assert_same_weights(weights_of(folder), weights_of(original.folder))
        assert figures_of(folder) == figures_of(original.folder)

    def test_the_end_of_an_epoch_is_not_disturbed(self, original, tmp_path):
        before = partial(signal_in, "unlearning.experiment.Experiment.validation_figures", "SIGTERM")
        done, folder = self.stop(original, tmp_path, before)
        assert (done.status, done.err) == (143, f"train.py: stopped at step 11; {again('train.py', folder)}\n")
        assert "1/2" in done.out
        self.assert_goes_on(folder, original)

    def test_beyond_the_loop_there_is_nothing_to_save(self, original, tmp_path):
        done, folder = self.stop(original, tmp_path, partial(signal_in, "evaluation.judge.judge", "SIGINT"))
        line = f"train.py: stopped; the last checkpoint is of step 22; {again('train.py', folder)}\n"
        assert (done.status, done.err) == (130, line)
        self.assert_goes_on(folder, original)

    def test_nor_before_it(self, original, tmp_path):
        name = "helper_functions.record.RunRecord.load_checkpoint"
        done, folder = self.stop(original, tmp_path, partial(signal_in, name, "SIGTERM"))
        line = f"train.py: stopped before its first checkpoint; {again('train.py', folder)}\n"
        assert (done.status, done.err) == (143, line)
        self.assert_goes_on(folder, original)

    @pytest.mark.parametrize("script", ["train.py", "test.py"])
    def test_nor_before_there_is_a_folder(self, script, original, tmp_path):
        weights = () if script == "train.py" else ("--weight_path", original.folder / "model.pt")
        before = partial(signal_in, "data.arguments.load_dataset", "SIGTERM")
        place = () if script == "test.py" else ("--log_dir", tmp_path)
        done = fork(script, *SMALL, *weights, *place, before=before)
        line = f"{script}: stopped; there is nothing to go on with, start it again\n"
        assert (done.status, done.out, done.err) == (143, "", line)
        assert contents(tmp_path) == {}

    def test_a_second_one_ends_it_at_once_and_the_earlier_checkpoint_stays(self, original, tmp_path):
        done, folder = self.stop(original, tmp_path, interrupt_twice)
        assert (done.status, done.err) == (-signal.SIGTERM, "")
        assert torch.load(folder / "checkpoint.pt", weights_only=True)["step"] == 11
        assert [path for path in folder.iterdir() if path.name.startswith(".checkpoint.pt.")]
        self.assert_goes_on(folder, original)
        assert not [path for path in folder.iterdir() if path.name.startswith(".")]

    def test_one_that_is_ignored_stays_so(self, original, tmp_path):
        """As under nohup, or in the background of a shell script."""
        before = partial(ignore_and_signal_at, 4)
        done = fork("train.py", *self.FLAGS, "--figures", "False", "--log_dir", tmp_path, before=before)
        assert done.status == 0 and done.err == ""

    def test_a_state_that_is_not_finite_is_not_saved(self, original, tmp_path):
        """The run that goes on comes to it again, and says so."""
        flags = ("--config_file", original.folder / "config.yaml", "--log_dir", tmp_path)
        done = fork("train.py", *flags, before=break_and_interrupt)
        folder = only(tmp_path)
        line = f"train.py: stopped; the last checkpoint is of step 11; {again('train.py', folder)}\n"
        assert (done.status, done.err) == (143, line)
        self.assert_goes_on(folder, original)


def signal_in(name: str, signal_name: str) -> None:
    """Have this process get a signal as it comes to a function, the first time."""
    place, _, function = name.rpartition(".")
    place = pkgutil.resolve_name(place)
    own, calls = getattr(place, function), []

    def interrupted(*args, **options):
        calls.append(1)
        if len(calls) == 1:
            signal.raise_signal(signal.Signals[signal_name])
        return own(*args, **options)

    setattr(place, function, interrupted)


def interrupt_twice() -> None:
    """At step 15, and when half of the checkpoint of that step is written."""
    signal_at(15, "SIGTERM")
    save, calls = torch.save, []

    def cut(content, path, **options):
        calls.append(1)
        save(content, path, **options)
        if len(calls) == 2:
            os.truncate(path, path.stat().st_size // 2)
            signal.raise_signal(signal.SIGTERM)

    torch.save = cut


def ignore_and_signal_at(number: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal_at(number, "SIGINT")


def break_and_interrupt() -> None:
    """At step 14 the gradient is NaN, and at step 15 a signal comes."""
    break_steps("gradient", 14)
    signal_at(15, "SIGTERM")
