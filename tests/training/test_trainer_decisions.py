"""What the trainer decides from what is measured after a pass: how far to go along it, step size, price and margin."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch
from helpers.method_cases import QuietRecord
from helpers.solving import own_labels
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from data.loaders import TensorLoader
from data.streams import CyclingLoader, PairedLoader
from helper_functions.errors import NotFinite
from helper_functions.training.devices import Precision
from optimizer.nan_guard import MOST_REWINDS
from optimizer.schedules import rescale_schedule
from optimizer.solver import SOLVERS
from unlearning.arguments import FINETUNE_RATE, MET_FINETUNE_RATE, MethodArgs, UnlearnArgs
from unlearning.constrained.line_search import SHORTEST, on_line, snapshot
from unlearning.constrained.trainer import FAR, PULLED_BACK, RAISE, ConstrainedTrainer, dual_rate
from unlearning.context import MethodContext
from unlearning.evaluator import Evaluation, keeps_budget
from unlearning.streams import RETAIN_LOSSES

CPU = Precision(torch.device("cpu"), torch.float32)
GENERATOR = torch.Generator().manual_seed(2)
FORGET = [(torch.randn(4, 3, generator=GENERATOR), torch.tensor([0, 1, 2, 0])) for _ in range(2)]
RETAIN = [(torch.randn(4, 3, generator=GENERATOR), torch.tensor([2, 1, 0, 0])) for _ in range(3)]
RATE, BUDGET, AIM = 0.01, 1.0, 0.8
DUALS = {"multiplier": 5.0, "penalty_coefficient": 4.0}


def found(fall=0.7, distance=0.0, gap=0.01, **more) -> dict:
    """What is measured of a model, by default one that has spent most of its budget."""
    return {
        "constraint/fall": fall, "constraint/fall_bound": fall, "constraint/feasible": float(fall <= BUDGET),
        "retain/loss_gap": gap, "retain/loss": 0.5, "forget/distance": distance, **more,
    }  # fmt: skip


KEPT, BROKEN, FAR_OFF = found(), found(fall=60.0), found(fall=0.1, distance=0.9)
NAN = found(**{"retain/loss": math.nan})


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


class Scripted:
    """A run of `passes` whose measurements are these figures, one after the other; the last is repeated."""

    def __init__(
        self, passes, *script, solver="augmented_lagrangian", finetune=0, disturb=None, record=None, mixture=True,
        original=None, **options,
    ):
        torch.manual_seed(0)
        self.model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))
        options = {"schedule": "constant", "learning_rate": RATE, "retain_budget": BUDGET} | options
        args = MethodArgs(
            solver=solver, bn="train", num_epochs=passes, finetune_num_epochs=finetune, **DUALS, **options
        )  # fmt: skip
        self.start, figures = snapshot(self.model), itertools.chain(script, itertools.repeat(script[-1]))
        self.measured, self.taken, self.ends, self.duals, self.rates, self.rows = [], [], [], [], [], []
        evaluator = SimpleNamespace(
            losses=lambda model, name: torch.zeros(1), num_classes=3, is_mixture=lambda: mixture,
            retain_loss_gap=RETAIN_LOSSES["labels"], views={"unseen": FORGET},
            original_losses={"unseen": torch.zeros(1), "forget": torch.zeros(1)},
        )  # fmt: skip
        context = MethodContext("chance", self.model, {"forget": FORGET, "retain": RETAIN}, evaluator, args, CPU, 0)
        self.trainer = ConstrainedTrainer(context, lambda context: own_labels(3**-1.5))
        if disturb is not None:
            set_up = self.trainer.set_up_stage
            self.trainer.set_up_stage = lambda *stage: (set_up(*stage), disturb(self.trainer))

        def measure():
            self.measured.append(snapshot(self.model))
            return Evaluation(dict(next(figures)), {"unseen": torch.zeros(1), "forget": torch.zeros(1)}, ())

        def take(evaluation):
            self.taken.append(evaluation.figures)
            self.ends.append(snapshot(self.model))

        def close_epoch(*_):
            self.rates.append(self.trainer.solver.optimizer.param_groups[0]["lr"])
            problem = self.trainer.problem
            values = *(m.weight for m in problem.multipliers()), *(c.value for c in problem.penalty_coefficients())
            self.duals.append([value.item() for value in values])

        own = SimpleNamespace(scalars=lambda figures, step: self.rows.append((step, dict(figures))), step=None)
        self.trainer.run(
            SimpleNamespace(
                record=record or own, log_interval=1, on_nan="rewind", epochs=[], measure=measure, take=take,
                original=original or {"forget/distance": 1.0, "forget/own_distance": 1.0}, close_epoch=close_epoch,
            ),
            None,
        )  # fmt: skip

    @property
    def shares(self) -> list[float]:
        return [event["share"] for event in self.trainer.events]

    @property
    def momentum(self) -> float:
        return sum(state["momentum_buffer"].norm().item() for state in self.trainer.solver.optimizer.state.values())


class TestShortened:
    @pytest.mark.parametrize("solver", SOLVERS)
    @pytest.mark.parametrize("breaks", [1, 2, 3])
    def test_a_pass_that_breaks_the_budget_goes_on_from_its_share_at_a_shorter_step_and_a_higher_price(
        self, breaks, solver
    ):
        share = 0.5**breaks
        run = Scripted(1, *[BROKEN] * breaks, KEPT, solver=solver)
        expected = on_line(run.model, run.start, run.measured[0], share)
        assert same(run.ends[0], expected) and same(snapshot(run.model), expected)
        assert run.taken == [KEPT] and run.trainer.events == [{"step": 2, "share": share}]
        assert (2, {"constraint/share": share}) in run.rows
        assert run.rates == [pytest.approx(share * RATE)] and run.momentum == 0
        own = [DUALS["multiplier"]] * (solver != "penalty") + [DUALS["penalty_coefficient"]] * (solver != "lagrangian")
        assert run.duals == [[pytest.approx(RAISE * value) for value in own]]
        # What a next request takes over is the price without the raise.
        assert run.trainer.multiplier == (None if solver == "penalty" else DUALS["multiplier"])
        # The smoothed fall belongs to weights that are left behind.
        assert run.trainer.problem.smoothed.tolist() == [0, 0]

    def test_shorter_steps_stay_and_a_price_is_raised_from_what_the_last_pass_learned(self):
        run = Scripted(3, BROKEN, KEPT, KEPT, BROKEN, KEPT, solver="lagrangian")
        assert run.rates == [pytest.approx(rate * RATE) for rate in (0.5, 0.5, 0.25)]
        assert run.duals[1][0] != run.duals[0][0] and run.duals[2][0] == pytest.approx(RAISE * run.duals[1][0])
        assert same(run.ends[2], on_line(run.model, run.ends[1], run.measured[3], 0.5))

    @pytest.mark.parametrize("broken", [BROKEN, NAN, found(fall=1.01), found(fall=math.nan)])
    def test_a_pass_without_a_share_within_the_budget_is_undone(self, broken):
        run = Scripted(2, KEPT, *[broken] * 4, KEPT)
        assert run.shares == [0.0] and same(run.ends[1], run.ends[0]) and not same(run.ends[0], run.start)
        assert run.rates[1] == pytest.approx(RATE * SHORTEST / 2)
        assert run.taken == [KEPT, KEPT], "weights of a pass before are a result"

    def test_the_original_is_no_result(self):
        """It keeps its own budget, and nothing is forgotten."""
        run = Scripted(3, *[BROKEN] * 4, KEPT, *[BROKEN] * 4, KEPT, KEPT)
        assert run.shares == [0.0, 0.0] and same(run.ends[1], run.start) and not same(run.ends[2], run.start)
        assert [figures["constraint/feasible"] for figures in run.taken] == [0, 0, 1]

    def test_a_budget_that_is_spent_exactly_is_kept(self):
        """As the verdict has it: percentages carry float32 rounding."""
        bound = 100 * torch.tensor(0.07).item()
        assert bound > 7 and keeps_budget(7.0, (bound, 0.0), (0.0, 0.0))
        assert Scripted(1, found(fall=bound), retain_budget=7.0).shares == []


class TestLengthened:
    @pytest.mark.parametrize(("far", "share"), [([0.9, 0.8, 0.7], 4), ([0.9, 0.8, 0.85], 2), ([0.9, 0.9, 0.9], 4)])
    def test_a_pass_with_little_spent_far_from_the_target_goes_on_unless_it_ends_farther(self, far, share):
        """A share of images that are named stays as it is until the first of them is not."""
        run = Scripted(1, *[found(fall=0.1, distance=distance) for distance in far])
        plain = Scripted(1, KEPT)
        assert run.shares == [share] * (share > 1)
        expected = on_line(run.model, run.start, run.measured[0], share)
        assert same(run.ends[0], expected)
        assert run.rates == [pytest.approx(share * RATE)]
        # Neither price nor momentum change.
        assert run.duals == plain.duals and run.momentum == plain.momentum > 0

    def test_a_stretch_that_breaks_the_budget_is_left(self):
        run = Scripted(1, FAR_OFF, found(fall=2.0, distance=0.1))
        assert run.shares == [] and same(run.ends[0], run.measured[0]) and run.taken == [FAR_OFF]

    @settings(max_examples=20)
    @given(fall=st.floats(-1, BUDGET), distance=st.floats(0.01, 1.5))
    def test_only_with_less_than_half_of_what_may_be_spent_and_more_than_half_of_the_way_to_go(self, fall, distance):
        run = Scripted(1, found(fall, distance), found(fall, distance / 2), found(fall, distance / 4))
        little = fall < AIM / 2
        assert run.shares == ([4] if little and distance > 2 * FAR else [2] if little and distance > FAR else [])


class TestAfterwards:
    def test_the_margin_follows_what_was_measured_where_the_run_goes_on(self):
        run = Scripted(1, found(fall=2.0, gap=9.0), found(fall=0.9, gap=0.3))
        assert run.trainer.problem.margin.item() == pytest.approx(0.3 * AIM / 0.9 / 2)

    @pytest.mark.parametrize("broken", range(6))
    def test_fine_tuning_that_ends_outside_of_the_budget_goes_back_towards_the_original(self, broken):
        run = Scripted(1, KEPT, *[BROKEN] * broken, KEPT, finetune=1)
        share = (1.0, *PULLED_BACK)[min(broken, 4)]
        assert same(snapshot(run.model), on_line(run.model, run.start, run.measured[1], share))
        assert run.taken == [KEPT, KEPT if broken < 5 else BROKEN] and run.shares == [share] * (share < 1)

    def test_fine_tuning_learns_from_the_retain_set_and_searches_nothing(self):
        run = Scripted(1, KEPT, BROKEN, KEPT, finetune=2, finetune_learning_rate=0.05)
        assert len(run.measured) == 1 + 2 and run.shares == [] and run.taken[1:] == [BROKEN, KEPT]
        trainer = run.trainer
        assert trainer.multiplier == run.duals[0][0] and trainer.context.cost.gradient_steps == 2 + 2 * len(RETAIN)
        rows = [figures for step, figures in run.rows if step > 2 and "learning_rate" in figures]
        rates = [0.05 * (1 + math.cos(math.pi * (number + 1) / 6)) / 2 for number in range(6)]
        assert [row["learning_rate"] for row in rows] == pytest.approx(rates, abs=1e-9)
        assert all({"forget/violation", "forget/multiplier"} <= row.keys() for row in rows)
        assert not any("constraint/violation" in row or "constraint/step_scale" in row for row in rows)
        assert run.model[1].training and not same(run.ends[2], run.ends[1])

    @pytest.mark.parametrize(
        ("original", "asked", "rate"),
        [
            ({}, None, MET_FINETUNE_RATE), ({}, 0.03, 0.03), ({"forget/distance": 0.0051}, None, FINETUNE_RATE),
            ({"forget/own_distance": 0.0051}, None, FINETUNE_RATE),
            ({"forget/own_distance": math.nan}, None, FINETUNE_RATE),
            ({"forget/top1": 34.0}, None, FINETUNE_RATE), ({"forget/loss": 1.0}, None, FINETUNE_RATE),
        ],
    )  # fmt: skip
    def test_fine_tuning_is_gentle_where_the_original_is_at_its_target_already(self, original, asked, rate):
        met = {"forget/distance": 0.005, "forget/own_distance": 0.005, "forget/top1": 33.0, "forget/loss": 1.1}
        run = Scripted(0, KEPT, finetune=1, original=met | original, finetune_learning_rate=asked)
        assert run.trainer.solver.optimizer.defaults["lr"] == rate

    @pytest.mark.parametrize("mixture", [True, False])
    def test_fine_tuning_normalises_no_batch_of_few_classes_by_itself(self, mixture):
        streams = Scripted(1, KEPT, finetune=1, mixture=mixture).trainer.streams
        assert streams.batch_norm == ("train" if mixture else "retain")


def showing_nan(steps):
    """Makes the gradient steps of these numbers, from 1, log a NaN."""
    numbers = itertools.count(1)

    def disturb(trainer):
        own = trainer.problem.commit

        def commit(state):
            own(state)
            state.misc |= {"forget/objective": torch.tensor(math.nan)} if next(numbers) in steps else {}

        trainer.problem.commit = commit

    return disturb


class TestNaN:
    @pytest.mark.parametrize("steps", [{3}, {4}, {3, 4}, {3, 5}])
    def test_a_pass_is_begun_again_at_half_the_rate(self, steps):
        """The second one: all is as at its beginning, multipliers, momentum and the line as well."""
        run = Scripted(2, KEPT, *[BROKEN] * 2, KEPT, disturb=showing_nan(steps))

        def halved(trainer):
            on_pass = trainer.on_pass

            def begun(epoch, number, resumed):
                if epoch == 1:
                    rescale_schedule(trainer.schedule, 0.5 ** len(steps))
                on_pass(epoch, number, resumed)

            trainer.on_pass = begun

        expected = Scripted(2, KEPT, *[BROKEN] * 2, KEPT, disturb=halved)
        assert same(run.ends[1], expected.ends[1]) and run.duals == expected.duals
        assert run.rates == expected.rates == [RATE, pytest.approx(RATE * 0.5 ** len(steps) / 4)]
        assert run.shares == [0.25]

    @pytest.mark.parametrize("steps", [{3}, {3, 4}])
    def test_the_logged_scale_is_that_of_the_rate(self, steps):
        run = Scripted(2, KEPT, disturb=showing_nan(steps))
        (*_, row) = (figures for _, figures in run.rows if "learning_rate" in figures)
        assert row["constraint/step_scale"] == pytest.approx(row["learning_rate"] / RATE)

    def test_where_going_back_does_not_help_it_ends(self, tmp_path):
        with pytest.raises(NotFinite, match=f"after {MOST_REWINDS} rewinds"):
            Scripted(1, KEPT, disturb=showing_nan(range(100)), record=QuietRecord(tmp_path))


class TestDualRate:
    @pytest.mark.parametrize("batch_size", [None, 2])
    def test_with_a_users_loader_is_in_proportion_to_its_batches(self, batch_size):
        loader = DataLoader(TensorDataset(*FORGET[0]), batch_size=4)
        args = UnlearnArgs(batch_size=batch_size)
        assert dual_rate(args, PairedLoader(loader, CyclingLoader(RETAIN))) == pytest.approx(0.03 * 4 / 128)

    @pytest.mark.parametrize(
        ("asked", "size", "expected"), [(None, 8, 0.03), (None, 256, 0.06), (8, 8, 0.03 * 8 / 128), (256, 256, 0.06)]
    )
    def test_on_images_does_not_fall_with_a_small_forget_set(self, asked, size, expected):
        images, labels = torch.zeros(300, 1, 2, 2, dtype=torch.uint8), torch.zeros(300, dtype=torch.int64)
        loader = TensorLoader(images, labels, torch.arange(300), size, mean=(0.5,), std=(0.2,))
        args = UnlearnArgs(batch_size=asked)
        assert dual_rate(args, PairedLoader(loader, CyclingLoader(RETAIN))) == pytest.approx(expected)
