"""The one loop: counts, means, when it tells whom, and how often it reads from the device."""

import copy
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from data.streams import CyclingLoader, PairedLoader
from helper_functions.training.devices import Precision
from helper_functions.training.loop import Cost, LoopConfig, NamedLoader, run_phase
from helper_functions.training.peak_memory import CLEAR_REFS
from optimizer.problems import EmpiricalRisk
from optimizer.solver import Solver
from optimizer.training import GradientSteps, Recipe
from unlearning.constrained.problem import ForgetSubjectToRetain
from unlearning.constrained.targets import UnseenTarget
from unlearning.streams import RETAIN_LOSSES, OriginalAnswers, TwoStreams

ROOT = Path(__file__).parents[2]


def batches_of(sizes) -> list[dict]:
    return [{"train": (torch.zeros(size, 1), torch.zeros(size, dtype=torch.int64))} for size in sizes]


class Listener:
    """A phase whose steps give 1, 2, 3, … and that writes down what it hears."""

    def __init__(self, sizes, num_epochs=1, stop_after=None, **options) -> None:
        self.numbers, self.intervals, self.epochs, self.cost = itertools.count(1), [], [], Cost()
        self.phase = LoopConfig(
            "listen", num_epochs, batches_of(sizes), self.step, self.on_interval, self.on_epoch, cost=self.cost,
            **options,
        )  # fmt: skip
        self.stop_after = stop_after
        run_phase(self.phase)

    def step(self, batch) -> dict[str, Tensor]:
        number = float(next(self.numbers))
        return {"number": torch.tensor(number), "minus": torch.tensor(-number, dtype=torch.float64, requires_grad=True)}

    def on_interval(self, means, step) -> None:
        self.intervals.append((step, dict(means)))

    def on_epoch(self, means, epoch) -> bool:
        self.epochs.append((epoch, dict(means)))
        return epoch == self.stop_after


class TestCounts:
    @settings(deadline=None, max_examples=40)
    @given(st.lists(st.integers(1, 5), min_size=1, max_size=12), st.integers(1, 3), st.integers(1, 15))
    def test_steps_images_intervals_and_means(self, sizes, num_epochs, log_interval):
        found = Listener(sizes, num_epochs, log_interval=log_interval)
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
        found = Listener([1, 1], num_epochs=9, stop_after=3)
        assert len(found.epochs) == 3 and found.cost.gradient_steps == 6

    def test_it_begins_after_the_epochs_that_are_done(self):
        found = Listener([1, 1], num_epochs=5, start_epoch=3)
        assert [epoch for epoch, _ in found.epochs] == [4, 5]
        assert Listener([1], num_epochs=2, start_epoch=2).epochs == []

    def test_costs_add_up_over_phases(self):
        cost = Cost()
        for _ in range(2):
            run_phase(LoopConfig("part", 1, batches_of([2, 3]), lambda batch: {"loss": torch.zeros(())}, cost=cost))
        assert (cost.gradient_steps, cost.images) == (4, 10)

    @pytest.mark.skipif(not os.access(CLEAR_REFS, os.W_OK), reason="the system cannot forget a peak")
    def test_memory_of_what_came_before_does_not_count(self):
        device, costs = torch.device("cpu"), []
        for mebibytes in (1, 400, 1):
            cost = Cost()
            watch = cost.stopwatch(device)
            torch.ones(mebibytes * 2**18)
            watch.lap()
            torch.ones(400 * 2**18)
            watch.skip()
            watch.lap()
            costs.append(cost.peak_memory_bytes / 2**20)
        first, second, third = costs
        assert second - first > 300 and second - third > 300

    @pytest.mark.skipif(not os.access(CLEAR_REFS, os.W_OK), reason="the system cannot forget a peak")
    def test_memory_of_the_process_that_started_this_one_does_not_count(self):
        asked = "import helper_functions.training.peak_memory as m, torch; print(m.peak_memory(torch.device('cpu')))"
        large = f"import subprocess, sys; a = b'x' * 2**30; exit(subprocess.call([sys.executable, '-c', {asked!r}]))"
        found = subprocess.run([sys.executable, "-c", large], cwd=ROOT, capture_output=True, text=True, check=True)
        assert 0 < int(found.stdout) < 2**30

    def test_all_streams_of_a_batch_count_as_images(self):
        pair = {"forget": (torch.zeros(2), torch.zeros(2)), "retain": (torch.zeros(3), torch.zeros(3))}
        cost = Cost()
        run_phase(LoopConfig("two", 1, [pair], lambda batch: {"loss": torch.zeros(())}, cost=cost))
        assert cost.images == 5

    def test_a_nan_stays_in_its_interval(self):
        numbers = iter([1.0, float("nan"), 3.0, 5.0])
        violation_window = []
        run_phase(
            LoopConfig(
                "nan",
                1,
                batches_of([1] * 4),
                lambda batch: {"loss": torch.tensor(next(numbers))},
                lambda means, step: violation_window.append(means["loss"]),
                log_interval=2,
            )  # fmt: skip
        )
        assert violation_window[0] != violation_window[0] and violation_window[1] == 4


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


def training_phase(recipe: Recipe, device: torch.device) -> LoopConfig:
    """Six steps of train.py on a small network, figures of every three."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 3)).to(device)
    data = [(torch.randn(4, 4), torch.tensor([0, 1, 2, 0])) for _ in range(6)]
    problem = EmpiricalRisk(model, Precision(device, torch.float32))
    steps = GradientSteps(problem, model, recipe, len(data))
    return LoopConfig("train", 1, NamedLoader("train", data), steps, log_interval=3, device=device)


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

        phase = LoopConfig("quiet", 1, batches_of([2] * steps), step, log_interval=log_interval)
        with Transfers(monkeypatch) as transfers:
            run_phase(phase)
        assert transfers.count == expected

    @pytest.mark.parametrize("recipe", [Recipe(), Recipe(use_sam=True)], ids=["sgd", "sam"])
    def test_training_adds_none(self, recipe, monkeypatch):
        with Transfers(monkeypatch) as transfers:
            run_phase(training_phase(recipe, torch.device("cpu")))
        assert transfers.count == 2

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    @pytest.mark.parametrize("recipe", [Recipe(), Recipe(use_sam=True)], ids=["sgd", "sam"])
    def test_on_a_gpu_nothing_waits_between_two_transfers(self, recipe):
        phase = training_phase(recipe, torch.device("cuda"))
        batches = [
            {name: tuple(part.cuda() for part in pair) for name, pair in batch.items()} for batch in phase.batches
        ]
        phase.step(batches[0])  # what is set up at the first step may wait
        torch.cuda.set_sync_debug_mode("error")
        try:
            for batch in batches:
                phase.step(batch)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    def test_constrained_unlearning_adds_none(self, monkeypatch):
        torch.manual_seed(0)
        model, precision = nn.Linear(4, 3), Precision(torch.device("cpu"), torch.float32)
        target = UnseenTarget(torch.ones(5))
        target.refresh(torch.arange(5.0))
        streams, original = TwoStreams(model, precision, "frozen"), OriginalAnswers(model, precision, "frozen")
        problem = ForgetSubjectToRetain(
            streams=streams, original=original, retain_loss_gap=RETAIN_LOSSES["original"], target=target, aim=0.5,
            solver="augmented_lagrangian", multiplier=1.0, penalty_coefficient=10.0,
        )  # fmt: skip
        solver = Solver(problem, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), model, max_grad_norm=1.0)
        data = [(torch.randn(4, 4), torch.tensor([0, 1, 2, 0])) for _ in range(6)]
        loader = PairedLoader(data, CyclingLoader(copy.deepcopy(data)))
        with Transfers(monkeypatch) as transfers:
            run_phase(LoopConfig("forget", 2, loader, solver.step, log_interval=3))
        assert transfers.count == 4
