"""The one loop: counts, means, when it tells whom, and how often it reads from the device."""

import contextlib
import copy
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from helpers.solving import take_step
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from data.streams import CyclingLoader, PairedLoader
from helper_functions.training import loop
from helper_functions.training.devices import Precision
from helper_functions.training.loop import Cost, LoopConfig, NamedLoader, Trainer, run_loop
from helper_functions.training.passes import ResumableEpoch
from helper_functions.training.peak_memory import CLEAR_REFS
from optimizer.solver import Solver
from optimizer.training import EmpiricalRisk, GradientSteps, Recipe
from unlearning.arguments import UnlearnArgs
from unlearning.constrained.problem import ForgetSubjectToRetain
from unlearning.constrained.targets import UnseenTarget
from unlearning.streams import RETAIN_LOSSES, OriginalAnswers, TwoStreams

ROOT = Path(__file__).parents[3]


def batches_of(sizes) -> list[dict]:
    return [{"train": (torch.zeros(size, 1), torch.zeros(size, dtype=torch.int64))} for size in sizes]


class Counting(Trainer):
    """A trainer whose steps give 1, 2, 3, …; it keeps what the loop hands to its hooks."""

    def __init__(self, sizes, num_epochs=1, stop_after=None, **options) -> None:
        self.numbers, self.intervals, self.epochs, self.cost = itertools.count(1), [], [], Cost()
        self.batches, self.stop_after = batches_of(sizes), stop_after
        run_loop(self, LoopConfig(num_epochs, cost=self.cost, **options))

    def step(self, batch) -> dict[str, Tensor]:
        number = float(next(self.numbers))
        return {"number": torch.tensor(number), "minus": torch.tensor(-number, dtype=torch.float64, requires_grad=True)}

    def on_interval(self, means, step) -> None:
        self.intervals.append((step, dict(means)))

    def on_epoch(self, means, epoch) -> bool:
        self.epochs.append((epoch, dict(means)))
        return epoch == self.stop_after


class Stepping(Trainer):
    """A trainer of batches and one step function."""

    def __init__(self, batches, step) -> None:
        self.batches, self.step = batches, step


def nothing(batch) -> dict[str, Tensor]:
    return {"loss": torch.zeros(())}


class TestCounts:
    @settings(max_examples=40)
    @given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(1, 3), st.integers(1, 15))
    def test_steps_images_intervals_and_means(self, sizes, num_epochs, log_interval):
        found = Counting(sizes, num_epochs, log_interval=log_interval)
        length = len(sizes)
        assert found.cost.gradient_steps == length * num_epochs and found.cost.images == sum(sizes) * num_epochs
        ends = [*range(log_interval, length, log_interval), length]
        expected = []
        for epoch in range(num_epochs):
            for start, end in zip([0, *ends], ends, strict=False):
                numbers = range(epoch * length + start + 1, epoch * length + end + 1)
                expected.append((epoch * length + end, sum(numbers) / len(numbers)))
        assert [step for step, _ in found.intervals] == [step for step, _ in expected]
        for (_, means), (_, mean) in zip(found.intervals, expected, strict=True):
            assert means["number"] == pytest.approx(mean) and means["minus"] == pytest.approx(-mean)
            assert means["images_per_second"] > 0
        # Every step weighs the same in the mean of an epoch, also those of a short last interval.
        assert [epoch for epoch, _ in found.epochs] == list(range(1, num_epochs + 1))
        for epoch, means in found.epochs:
            numbers = range((epoch - 1) * length + 1, epoch * length + 1)
            assert means == {"number": pytest.approx(sum(numbers) / length), "minus": pytest.approx(-means["number"])}

    def test_a_listener_ends_it(self):
        found = Counting([1, 1], num_epochs=9, stop_after=3)
        assert len(found.epochs) == 3 and found.cost.gradient_steps == 6

    def test_it_begins_after_the_epochs_that_are_done(self):
        found = Counting([1, 1], num_epochs=5, start_epoch=3)
        assert [epoch for epoch, _ in found.epochs] == [4, 5]
        assert Counting([1], num_epochs=2, start_epoch=2).epochs == []

    def test_costs_add_up_over_phases(self):
        cost = Cost()
        for _ in range(2):
            run_loop(Stepping(batches_of([2, 3]), nothing), LoopConfig(1, cost=cost))
        assert (cost.gradient_steps, cost.images) == (4, 10)

    @pytest.mark.skipif(not os.access(CLEAR_REFS, os.W_OK), reason="the system cannot forget a peak")
    def test_memory_of_what_came_before_does_not_count(self):
        device, costs = torch.device("cpu"), []
        for mebibytes in (1, 100, 1):
            cost = Cost()
            watch = cost.stopwatch(device)
            torch.ones(mebibytes * 2**18)
            watch.lap()
            torch.ones(100 * 2**18)
            watch.skip()
            watch.lap()
            costs.append(cost.peak_memory_bytes / 2**20)
        first, second, third = costs
        assert second - first > 75 and second - third > 75

    @pytest.mark.skipif(not os.access(CLEAR_REFS, os.W_OK), reason="the system cannot forget a peak")
    def test_memory_of_the_process_that_started_this_one_does_not_count(self):
        # Without torch, whose import takes longer than all else.
        asked = (
            "import runpy, sys, types; sys.modules['torch'] = types.SimpleNamespace(device=object)\n"
            "found = runpy.run_path('helper_functions/training/peak_memory.py')\n"
            "print(found['peak_memory'](types.SimpleNamespace(type='cpu')))"
        )
        large = f"import subprocess, sys; a = b'x' * 2**28; exit(subprocess.call([sys.executable, '-c', {asked!r}]))"
        found = subprocess.run([sys.executable, "-c", large], cwd=ROOT, capture_output=True, text=True, check=True)
        assert 0 < int(found.stdout) < 2**28

    def test_all_streams_of_a_batch_count_as_images(self):
        pair = {"forget": (torch.zeros(2), torch.zeros(2)), "retain": (torch.zeros(3), torch.zeros(3))}
        cost = Cost()
        run_loop(Stepping([pair], nothing), LoopConfig(1, cost=cost))
        assert cost.images == 5

    def test_a_nan_stays_in_its_interval(self):
        numbers, means = iter([1.0, float("nan"), 3.0, 5.0]), []
        trainer = Stepping(batches_of([1] * 4), lambda batch: {"loss": torch.tensor(next(numbers))})
        trainer.on_interval = lambda figures, step: means.append(figures["loss"])
        run_loop(trainer, LoopConfig(1, log_interval=2))
        assert means[0] != means[0] and means[1] == 4


class TestBar:
    def test_it_counts_steps_and_estimates_the_time_of_all_epochs(self, monkeypatch):
        """By a clock that takes a second a step: of 2 epochs of 3 steps, 5, 4, … 0 seconds are left."""
        bars, seconds = [], [0.0]

        class Bar:
            disable, n = False, 0

            def set_postfix_str(self, text, refresh) -> None:
                self.texts = [*getattr(self, "texts", []), text.partition(",")[0]]

            def update(self, steps) -> None:
                self.n += steps

        @contextlib.contextmanager
        def progress_bar(title, total, done, unit):
            bars.append((title, total, Bar()))
            yield bars[-1][2]

        monkeypatch.setattr(loop, "progress_bar", progress_bar)

        def step(batch) -> dict[str, Tensor]:
            seconds[0] += 1
            return nothing(batch)

        monkeypatch.setattr(loop.time, "perf_counter", lambda: seconds[0])
        run_loop(Stepping(batches_of([2, 2, 2]), step), LoopConfig(2))
        assert [(title, total, bar.n) for title, total, bar in bars] == [("training 1/2", 3, 3), ("training 2/2", 3, 3)]
        assert [text for *_, bar in bars for text in bar.texts] == [f"all in 00:0{left}" for left in (5, 4, 3, 2, 1, 0)]


class SeveralPasses(Counting):
    """Two passes in the first epoch, one in the next; stops asks are simulated by `on_pass`."""

    def passes(self, epoch: int) -> list[tuple[str, list[dict]]]:
        return [("first", self.batches), ("second", batches_of([3]))][: 2 - epoch]

    def on_pass(self, epoch, number, resumed) -> None:
        self.entered = [*getattr(self, "entered", []), (epoch, number, resumed)]


class TestPasses:
    def test_an_epoch_may_have_several_and_its_means_are_the_last_ones(self):
        found = SeveralPasses([1, 2], num_epochs=2)
        assert found.entered == [(0, 0, False), (0, 1, False), (1, 0, False)]
        assert found.cost.gradient_steps == 5 and found.cost.images == 3 + 3 + 3
        assert [means["number"] for _, means in found.epochs] == [3.0, 4.5]

    def test_a_run_goes_on_in_the_pass_that_it_was_left_in(self):
        place = {"pass": 1, **ResumableEpoch(batches_of([3]), torch.device("cpu")).place()}
        found = SeveralPasses([1, 2], num_epochs=1, place=place)
        assert found.entered == [(0, 1, True)] and found.cost.gradient_steps == 1


class Transfers(TorchDispatchMode):
    """Counts what reads a tensor's value on the host: `item` and its like here, `tolist` and its like by a wrapper."""

    def __init__(self, monkeypatch) -> None:
        super().__init__()
        self.count = 0
        for name in ("tolist", "cpu", "numpy"):
            monkeypatch.setattr(Tensor, name, self._counted(getattr(Tensor, name)))

    def _counted(self, method):
        def counted(*args, **kwargs):
            self.count += 1
            return method(*args, **kwargs)

        return counted

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.__name__.startswith(("_local_scalar_dense", "nonzero", "is_nonzero"))
        return func(*args, **(kwargs or {}))


def training(recipe: Recipe, device: torch.device) -> Trainer:
    """Six steps of train.py on a small network, figures of every three."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).to(device)
    data = [(torch.randn(4, 4), torch.tensor([0, 1, 2, 0])) for _ in range(6)]
    problem = EmpiricalRisk(model, Precision(device, torch.float32))
    steps = GradientSteps(problem, model, recipe, len(data))
    return Stepping(NamedLoader("train", data), steps)


class TestTransfers:
    def test_the_counter_counts(self, monkeypatch):
        with Transfers(monkeypatch) as transfers:
            torch.ones(()).item()
            torch.ones(2).tolist()
            torch.ones(2).cpu().numpy()
            bool(torch.ones(()) > 0)
        assert transfers.count == 5

    @pytest.mark.parametrize(("steps", "log_interval", "expected"), [(10, 50, 1), (10, 5, 2), (10, 4, 3), (3, 1, 3)])
    def test_one_an_interval_whatever_the_number_of_figures(self, steps, log_interval, expected, monkeypatch):
        def step(batch):
            return {f"figure{number}": torch.full((), float(number)) for number in range(30)}

        with Transfers(monkeypatch) as transfers:
            run_loop(Stepping(batches_of([2] * steps), step), LoopConfig(1, log_interval=log_interval))
        assert transfers.count == expected

    @pytest.mark.parametrize("recipe", [Recipe(), Recipe(use_sam=True)], ids=["sgd", "sam"])
    def test_training_adds_none(self, recipe, monkeypatch):
        with Transfers(monkeypatch) as transfers:
            run_loop(training(recipe, torch.device("cpu")), LoopConfig(1, log_interval=3))
        assert transfers.count == 2

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    @pytest.mark.parametrize("recipe", [Recipe(), Recipe(use_sam=True)], ids=["sgd", "sam"])
    def test_on_a_gpu_nothing_waits_between_two_transfers(self, recipe):
        trainer = training(recipe, torch.device("cuda"))
        batches = [
            {name: tuple(part.cuda() for part in pair) for name, pair in batch.items()} for batch in trainer.batches
        ]
        trainer.step(batches[0])  # what is set up at the first step may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in batches:
                trainer.step(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_constrained_unlearning_adds_none(self, monkeypatch):
        torch.manual_seed(0)
        model, precision = nn.Linear(4, 3), Precision(torch.device("cpu"), torch.float32)
        target = UnseenTarget(torch.ones(5))
        target.refresh(torch.arange(5.0), torch.arange(9.0))
        streams, original = TwoStreams(model, precision, "frozen"), OriginalAnswers(model, precision, "frozen")
        args = UnlearnArgs(solver="augmented_lagrangian", multiplier=1.0, penalty_coefficient=10.0)
        problem = ForgetSubjectToRetain(streams, target, args, original, RETAIN_LOSSES["original"])
        solver = Solver(problem, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), model, max_grad_norm=1.0)
        data = [(torch.randn(4, 4), torch.tensor([0, 1, 2, 0])) for _ in range(6)]
        loader = PairedLoader(data, CyclingLoader(copy.deepcopy(data)))
        with Transfers(monkeypatch) as transfers:
            trainer = Stepping(loader, lambda batch: take_step(solver, **batch).misc)
            run_loop(trainer, LoopConfig(2, log_interval=3))
        assert transfers.count == 4
