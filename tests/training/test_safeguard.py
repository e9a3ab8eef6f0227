"""The safeguard: rolling back, step sizes, and what the trainer decides from the figures of an epoch."""

import itertools
import math
from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch
from helpers.method_cases import QuietRecord
from helpers.solving import figures_of_step
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from data.loaders import TensorLoader
from data.streams import CyclingLoader, PairedLoader
from helper_functions.errors import NotFinite
from helper_functions.files import load_tensors, save_tensors
from helper_functions.training.devices import Precision
from optimizer.nan_guard import MOST_REWINDS
from optimizer.sam import SAM
from optimizer.schedules import get_schedule
from optimizer.solver import SOLVERS, Solver
from unlearning.arguments import MethodArgs, UnlearnArgs
from unlearning.constrained.problem import ForgetSubjectToRetain
from unlearning.constrained.safeguard import LONGEST, PATIENCE, Safeguard
from unlearning.constrained.targets import ChanceTarget
from unlearning.constrained.trainer import CHECK_INTERVAL, FAR_OUTSIDE, RUNAWAY, ConstrainedTrainer, dual_rate
from unlearning.context import MethodContext
from unlearning.evaluator import Evaluation
from unlearning.streams import RETAIN_LOSSES, OriginalAnswers, TwoStreams

CPU = Precision(torch.device("cpu"), torch.float32)
GENERATOR = torch.Generator().manual_seed(2)
FORGET = [(torch.randn(4, 3, generator=GENERATOR), torch.tensor([0, 1, 2, 0])) for _ in range(2)]
RETAIN = [(torch.randn(4, 3, generator=GENERATOR), torch.tensor([2, 1, 0, 0])) for _ in range(3)]
BATCH = {"forget": FORGET[0], "retain": RETAIN[0]}
LIMIT = 2.0
DUALS = {"multiplier": 0.5, "penalty_coefficient": 4.0}


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def problem_of(model, name="augmented_lagrangian"):
    streams = TwoStreams(model, CPU, "train")
    streams.prepare(model)
    args = UnlearnArgs(solver=name, **DUALS)
    answers = OriginalAnswers(model, CPU, "train")
    return ForgetSubjectToRetain(streams, ChanceTarget(3, 1.5), args, answers, RETAIN_LOSSES["labels"])


def guarded(name="augmented_lagrangian", optimizer="sgd", rate=0.1, steps=1000, schedule="constant"):
    model = network()
    primal = {
        "sgd": lambda: torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9, nesterov=True),
        "sam": lambda: SAM(model.parameters(), torch.optim.SGD, lr=rate, momentum=0.9),
        "adamw": lambda: torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=0.0),
    }[optimizer]()
    solver = Solver(problem_of(model, name), primal, model)
    return Safeguard(model, solver, get_schedule(schedule, primal, steps), LIMIT)


def advance(guard, steps=3) -> None:
    for _ in range(steps):
        figures_of_step(guard.solver, **BATCH)
        guard.schedule.step()


def weights(model) -> dict:
    return {name: value.detach().clone() for name, value in model.state_dict().items()}


def same(first: dict, second: dict) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def dual_values(guard) -> list[float]:
    problem = guard.solver.problem
    multipliers = [multiplier.weight.item() for multiplier in problem.multipliers()]
    return multipliers + [coefficient.value.item() for coefficient in problem.penalty_coefficients()]


class TestGoingBack:
    @pytest.mark.parametrize("violation", [LIMIT + 0.1, math.inf, math.nan])
    @pytest.mark.parametrize("optimizer", ["sgd", "sam"])
    @pytest.mark.parametrize("name", SOLVERS)
    def test_weights_back_step_halved_constraint_raised_event_recorded(self, violation, optimizer, name):
        guard = guarded(name, optimizer)
        good, dual = weights(guard.model), dual_values(guard)
        advance(guard)
        assert not same(good, weights(guard.model))
        if math.isnan(violation):
            nn.init.constant_(guard.model[0].weight, math.nan)
        assert guard.check(violation, step=17)
        assert same(good, weights(guard.model))
        assert guard.solver.optimizer.param_groups[0]["lr"] == pytest.approx(0.05)
        assert all(now > then for now, then in zip(dual_values(guard), dual, strict=True))
        (event,) = guard.events
        assert event["step"] == 17 and event["scale"] == 0.5
        assert event["violation"] == violation or math.isnan(violation)
        # The smoothed fall belonged to weights that are gone.
        assert guard.solver.problem.smoothed.tolist() == [0, 0]

    @pytest.mark.parametrize("optimizer", ["sgd", "sam", "adamw"])
    def test_the_next_step_is_that_of_a_fresh_optimizer(self, optimizer):
        """Momentum pointed to where the run went wrong; what is left is the new, shorter step."""
        guard = guarded(optimizer=optimizer)
        advance(guard, 50)
        guard.check(math.nan, step=50)
        fresh = guarded(optimizer=optimizer, rate=0.05)
        fresh.solver.problem.load_state_dict(guard.solver.problem.state_dict())
        for each in (guard, fresh):
            advance(each, 3)
        for name, value in weights(fresh.model).items():
            torch.testing.assert_close(weights(guard.model)[name], value, msg=name)

    @pytest.mark.parametrize("name", SOLVERS)
    def test_each_time_the_constraint_weighs_more(self, name):
        guard, seen = guarded(name), []
        for step in range(4):
            seen.append(dual_values(guard))
            advance(guard)
            guard.check(math.nan, step)
        for earlier, later in zip(seen, seen[1:], strict=False):
            assert all(now > then for now, then in zip(later, earlier, strict=True))

    @pytest.mark.parametrize("name", SOLVERS)
    def test_four_times_as_much_while_the_step_is_no_shorter_than_asked_for(self, name):
        guard = guarded(name)
        guard.lengthen_step()
        for multiplier in guard.solver.problem.multipliers():
            multiplier.weight.data.fill_(1.5)
        guard.keep()
        first = dual_values(guard)
        for step, (scale, factor) in enumerate([(1, 4), (0.5, 8), (0.25, 16)]):
            advance(guard)
            guard.check(math.nan, step)
            assert guard.scale == scale
            assert dual_values(guard) == pytest.approx([factor * value for value in first])

    @settings(deadline=None, max_examples=100)
    @given(st.floats(0, 100), st.lists(st.floats(0.1, 10), max_size=4), st.floats(0, 1e4))
    def test_a_learned_multiplier_is_the_multiplier_less_what_is_left_of_the_raise(self, before, moves, last):
        """However it moved between going back and going back: at first it is what it was before, and never less than
        that unless the multiplier itself is. One below 1 is raised from 1."""
        guard = guarded()
        (multiplier,) = guard.solver.problem.multipliers()
        multiplier.weight.data.fill_(before)
        assert guard.learned_multipliers == pytest.approx([before])
        guard.keep()
        raised, before = 1, max(1.0, before)
        for step, move in enumerate(moves):
            guard.check(math.nan, step)
            raised *= 4 if guard.scale >= 1 else 2
            if step == 0:
                assert guard.learned_multipliers == pytest.approx([before])
            multiplier.weight.data.mul_(move)
            guard.keep()
        multiplier.weight.data.fill_(last)
        (learned,) = guard.learned_multipliers
        if not moves or last <= before:
            assert learned == pytest.approx(last)
        elif last < before * raised:
            assert learned == pytest.approx(before)
        else:
            assert learned == pytest.approx(last / raised)

    @pytest.mark.parametrize("violation", [-5.0, 0.0, LIMIT])
    def test_nothing_happens_within_the_limit(self, violation):
        guard = guarded()
        advance(guard)
        before, dual, rate = weights(guard.model), dual_values(guard), guard.solver.optimizer.param_groups[0]["lr"]
        assert not guard.check(violation, step=3)
        assert same(before, weights(guard.model)) and dual == dual_values(guard) and guard.events == []
        assert guard.solver.optimizer.param_groups[0]["lr"] == rate

    def test_goes_back_to_what_was_kept_last(self):
        guard = guarded()
        advance(guard)
        guard.keep()
        kept = weights(guard.model)
        advance(guard)
        guard.check(99.0, step=6)
        assert same(kept, weights(guard.model))
        advance(guard)
        assert same(kept, guard._weights), "the copy in memory must not follow the model"

    def test_without_a_limit_only_nan_counts(self):
        guard = guarded()
        guard.limit = math.inf
        assert not guard.check(1e9, step=1)
        assert guard.check(math.nan, step=2)


class TestStepSize:
    def test_lengthening_ends(self):
        guard = guarded()
        for _ in range(50):
            guard.lengthen_step()
        assert guard.scale == LONGEST

    @settings(deadline=None, max_examples=100)
    @given(st.lists(st.sampled_from(["lengthen", "lengthen", "runaway", "shorten", "step"]), max_size=20))
    def test_a_step_that_was_too_long_needs_patience_and_all_follow_their_schedule(self, actions):
        guard = guarded(steps=20, schedule="cosine")
        steps, too_long, in_vain = 0, math.inf, 0
        for action in actions:
            scale = guard.scale
            if action == "lengthen":
                in_vain += scale * 2 >= too_long and scale < LONGEST
                doubled = scale < LONGEST and (scale * 2 < too_long or in_vain == PATIENCE)
                if doubled:
                    # What was tried again may be kept, and what is twice as long is unknown.
                    too_long, in_vain = too_long * (2 if scale * 2 >= too_long else 1), 0
                assert guard.lengthen_step() == doubled
                assert guard.scale == scale * (2 if doubled else 1)
            elif action in ("runaway", "shorten"):
                too_long, in_vain = scale, 0
                guard.check(math.nan, steps) if action == "runaway" else guard.shorten_step()
                assert guard.scale == scale / 2
            else:
                guard.solver.optimizer.step()
                guard.schedule.step()
                steps += 1
            expected = 0.1 * guard.scale * (1 + math.cos(math.pi * steps / 20)) / 2
            assert guard.solver.optimizer.param_groups[0]["lr"] == pytest.approx(expected)


class TestRelaxing:
    @settings(deadline=None, max_examples=30)
    @given(st.floats(0, 1e4))
    def test_halves_the_multiplier_down_to_one_and_lifts_none(self, value):
        guard = guarded()
        before = weights(guard.model), guard.scale, dual_values(guard)[1]
        (multiplier,) = guard.solver.problem.multipliers()
        multiplier.weight.data.fill_(value)
        guard.relax_multipliers()
        assert multiplier.weight.item() == pytest.approx(value if value <= 1 else max(1, value / 2))
        assert same(before[0], weights(guard.model)) and (guard.scale, dual_values(guard)[1]) == before[1:]

    def test_a_penalty_stays(self):
        guard = guarded("penalty")
        before = dual_values(guard)
        guard.relax_multipliers()
        assert dual_values(guard) == before


class TestState:
    def test_round_trip(self, tmp_path):
        guard = guarded(schedule="linear")
        advance(guard)
        guard.lengthen_step()
        guard.keep()
        advance(guard)
        guard.check(9.0, step=6)
        guard.check_far_outside(1.5, step=6)
        guard.relax_multipliers()
        parts = {"guard": guard.state_dict(), "solver": guard.solver.state_dict()}
        parts |= {"schedule": guard.schedule.state_dict(), "model": guard.model.state_dict()}
        save_tensors(parts, tmp_path / "state.pt")
        state, other = load_tensors(tmp_path / "state.pt", ""), guarded(schedule="linear")
        other.model.load_state_dict(state["model"])
        other.solver.load_state_dict(state["solver"])
        other.schedule.load_state_dict(state["schedule"])
        other.load_state_dict(state["guard"])
        for name in ("events", "scale", "ceiling", "refused", "nearest", "relaxed"):
            assert getattr(other, name) == getattr(guard, name)
        assert other.learned_multipliers == guard.learned_multipliers
        for each in (guard, other):
            advance(each)
            each.lengthen_step()
            each.check(math.nan, step=9)
            advance(each)
        assert same(weights(guard.model), weights(other.model)) and other.events == guard.events
        assert dual_values(guard) == dual_values(other)


class SpyRecord:
    """Keeps scalars in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, dict]] = []

    def scalars(self, figures, step) -> None:
        self.rows.append((step, dict(figures)))


def figures_of(**changes) -> dict:
    """An epoch that kept the budget and came near its target."""
    figures = {
        "constraint/fall": 0.1, "constraint/fall_bound": 0.2, "constraint/feasible": 1.0, "retain/loss_gap": 0.01,
        "retain/loss": 0.5, "forget/distance": 0.0,
    }  # fmt: skip
    return figures | {key.replace("_", "/", 1): value for key, value in changes.items()}


LOST = {"constraint_fall": 60.0, "constraint_fall_bound": 61.0, "constraint_feasible": 0.0, "retain_loss_gap": 2.0}


class TestTrainer:
    def run(
        self, epochs, solver="augmented_lagrangian", spoil=None, aim=0.5, forget=FORGET, log_interval=50, disturb=None,
        on_nan="rewind", record=None, **options,
    ):  # fmt: skip
        """Run a stage whose evaluations are these figures; keeps the weights that they were measured on.

        `aim` None makes it the second stage.
        """
        model, record = network(), record or SpyRecord()
        options = {"schedule": "constant", "learning_rate": 0.01, "retain_budget": 1.0} | options
        stages = {"num_epochs": len(epochs)} if aim is not None else {"finetune_num_epochs": len(epochs)}
        args = MethodArgs(solver=solver, bn="train", **DUALS, **{"num_epochs": 0, **stages}, **options)
        self.measured, self.coefficients, figures = [], [], iter(epochs)

        def evaluate(feasible):
            if spoil is not None:
                spoil(model, len(self.measured))
            self.measured.append(weights(model))
            return Evaluation(next(figures), {"unseen": torch.zeros(1)}, ())

        def close_epoch(*_):
            self.coefficients.append([c.value.item() for c in self.trainer.problem.penalty_coefficients()])

        class Disturbed(ConstrainedTrainer):
            def set_up_stage(self, number, num_epochs):
                super().set_up_stage(number, num_epochs)
                self.problem.aim = aim
                if disturb is not None:
                    disturb(self.problem)

        self.start, self.model, self.record = weights(model), model, record
        evaluator = SimpleNamespace(
            losses=lambda model, name: torch.zeros(1), num_classes=3, retain_loss_gap=RETAIN_LOSSES["labels"]
        )
        context = MethodContext("chance", model, {"forget": forget, "retain": RETAIN}, evaluator, args, CPU, 0)
        self.trainer = Disturbed(context, lambda context: ChanceTarget(3, 1.5))
        listener = SimpleNamespace(
            record=record, log_interval=log_interval, on_nan=on_nan, original={"forget/distance": 1.0}, epochs=[],
            evaluate=evaluate, close_epoch=close_epoch,
        )  # fmt: skip
        self.trainer.run(listener, None)
        return self.trainer.safeguard

    def test_an_epoch_that_kept_the_budget_is_the_place_to_go_back_to(self):
        guard = self.run([figures_of(), figures_of(), figures_of(**LOST)])
        assert same(weights(self.model), self.measured[1]) and not same(weights(self.model), self.start)
        assert len(guard.events) == 1 and guard.scale == 0.5
        assert any("constraint/safeguard" in row for _, row in self.record.rows)

    def test_an_epoch_slightly_over_budget_is_gone_on_from_and_never_back_to(self):
        over = {"constraint_fall": 1.2, "constraint_fall_bound": 1.5, "constraint_feasible": 0.0}
        guard = self.run([figures_of(), figures_of(**over), figures_of(**over), figures_of(**LOST)])
        assert len(guard.events) == 1
        assert same(weights(self.model), self.measured[0])
        assert not same(self.measured[1], self.measured[2])

    FALL = 1.1 * FAR_OUTSIDE
    FAR = {"constraint_fall": FALL, "constraint_fall_bound": FALL, "constraint_feasible": 0.0}

    def test_an_epoch_far_over_budget_halves_the_step_and_goes_on(self):
        assert self.FALL - 0.5 < RUNAWAY
        guard = self.run([figures_of(**self.FAR), figures_of(), figures_of(**self.FAR)])
        assert guard.scale == 0.25 and guard.events == [] and same(weights(self.model), self.measured[2])
        assert self.record.rows[-1][1]["learning_rate"] == pytest.approx(0.005)

    def test_one_after_it_that_comes_no_nearer_goes_back_and_weighs_the_constraint_more(self):
        """Or ever shorter steps would leave the weights where they are, far outside."""
        far = figures_of(**self.FAR)
        guard = self.run([figures_of(), far, far], solver="lagrangian")
        assert len(guard.events) == 1 and guard.scale == 0.5
        assert same(weights(self.model), self.measured[0])
        (multiplier,) = self.trainer.problem.multipliers()
        assert multiplier.weight.item() >= 2
        # Then it has two again.
        assert len(self.run([figures_of(), far, far, far]).events) == 1
        assert len(self.run([figures_of(), far, far, far, far]).events) == 2

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.floats(FALL, RUNAWAY + 0.4), min_size=1, max_size=9))
    def test_while_it_comes_nearer_it_is_let_repair(self, falls):
        """What was forgotten would be lost with the damage, and forgetting again does the same damage."""
        nearest, slower, back = math.inf, 0, 0
        for fall in falls:
            slower += nearest == math.inf
            back, nearest = (back, fall) if fall < nearest else (back + 1, math.inf)
        epochs = [figures_of(**self.FAR | {"constraint_fall": fall, "constraint_fall_bound": fall}) for fall in falls]
        guard = self.run(epochs)
        assert len(guard.events) == back and guard.scale == 0.5**slower

    def test_an_epoch_that_kept_the_budget_begins_anew(self):
        far = figures_of(**self.FAR)
        guard = self.run([far, figures_of(), far, figures_of()])
        assert guard.events == [] and guard.scale == 0.25

    @pytest.mark.parametrize(("batch_size", "expected"), [(None, 0.03 * 4 / 128), (2, 0.03 * 4 / 128)])
    def test_the_multipliers_pace_with_a_users_loader_is_that_of_its_batches(self, batch_size, expected):
        loader = DataLoader(TensorDataset(*FORGET[0]), batch_size=4)
        args = UnlearnArgs(batch_size=batch_size)
        assert dual_rate(args, PairedLoader(loader, CyclingLoader(RETAIN))) == pytest.approx(expected)

    @pytest.mark.parametrize(
        ("asked", "size", "expected"), [(None, 8, 0.03), (None, 256, 0.06), (8, 8, 0.03 * 8 / 128), (256, 256, 0.06)]
    )
    def test_the_multipliers_pace_on_images(self, asked, size, expected):
        images, labels = torch.zeros(300, 1, 2, 2, dtype=torch.uint8), torch.zeros(300, dtype=torch.int64)
        loader = TensorLoader(images, labels, torch.arange(300), size, mean=(0.5,), std=(0.2,))
        args = UnlearnArgs(batch_size=asked)
        assert dual_rate(args, PairedLoader(loader, CyclingLoader(RETAIN))) == pytest.approx(expected)

    def test_first_epoch_lost_goes_back_to_the_original(self):
        self.run([figures_of(**LOST)])
        assert same(weights(self.model), self.start)

    def test_penalty_grows_after_epochs_outside_of_the_budget_only(self):
        over = {"constraint_fall": 1.2, "constraint_fall_bound": 1.5, "constraint_feasible": 0.0}
        self.run([figures_of(), figures_of(**over), figures_of(), figures_of(**over)], solver="penalty")
        first, second, third, fourth = (coefficient for (coefficient,) in self.coefficients)
        assert first == 4 and second > first and third == second and fourth > third

    def test_lengthens_the_step_where_hardly_anything_was_forgotten(self):
        guard = self.run([figures_of(forget_distance=0.99)] * 2)
        assert guard.scale > 1
        assert self.run([figures_of(forget_distance=0.1)] * 2).scale == 1

    @settings(deadline=None, max_examples=20)
    @given(st.lists(st.tuples(st.floats(0, 1.2), st.floats(-0.1, 0.1), st.floats(-1, 0.4)), min_size=1, max_size=4))
    def test_lengthens_the_step_after_epochs_that_a_short_step_limits(self, epochs):
        """Far from the target, less than half of the points spent that may be, and retain loss not much lower: where
        it fell, it is the multiplier that holds the weights.
        """
        unspent = [(far, retain_loss_gap < -0.005) for far, retain_loss_gap, fall in epochs if fall < 0.25]
        names = ("forget_distance", "retain_loss_gap", "constraint_fall")
        figures = [figures_of(**dict(zip(names, epoch, strict=True))) for epoch in epochs]
        for to_the_last in (False, True):
            relaxing = patch.object(Safeguard, "relax_multipliers")
            with patch.object(ChanceTarget, "to_the_last", to_the_last), relaxing as relax_multipliers:
                assert self.run(figures, aim=0.5).scale == 2.0 ** sum(far > 0.5 and not fell for far, fell in unspent)
            assert relax_multipliers.call_count == to_the_last * sum(fell for _, fell in unspent)

    def test_a_nan_rolls_back(self):
        def spoil(model, epoch):
            if epoch == 1:
                nn.init.constant_(model[0].weight, math.nan)

        broken = figures_of(retain_loss=math.nan, retain_loss_gap=math.nan, constraint_feasible=0.0)
        guard = self.run([figures_of(), broken], spoil=spoil)
        assert len(guard.events) == 1 and same(weights(self.model), self.measured[0])

    def test_one_broken_epoch_is_left_behind(self):
        broken = figures_of(retain_loss=math.nan, retain_loss_gap=math.nan, constraint_feasible=0.0)
        guard = self.run([broken, figures_of(), figures_of()])
        assert len(guard.events) == 1
        assert not same(weights(self.model), self.start)

    def test_a_stage_whose_objective_is_accuracy_has_no_runaway(self):
        guard = self.run([figures_of(**LOST)] * 2, aim=None)
        assert guard.events == [] and same(weights(self.model), self.measured[-1])

    LONG = FORGET * (CHECK_INTERVAL + 7)

    @staticmethod
    def showing(figure, value, steps):
        """Makes the steps of these numbers log this value."""

        def disturb(problem):
            own, numbers = problem.commit, itertools.count(1)

            def commit(state):
                own(state)
                state.misc |= {figure: torch.tensor(value)} if next(numbers) in steps else {}

            problem.commit = commit

        return disturb

    @pytest.mark.parametrize(("figure", "value"), [("constraint/violation", 5000.0), ("forget/objective", math.nan)])
    @pytest.mark.parametrize(
        ("at", "caught"),
        [(3, CHECK_INTERVAL), (CHECK_INTERVAL, CHECK_INTERVAL), (2 * CHECK_INTERVAL + 3, len(LONG))],
    )
    def test_a_runaway_within_an_epoch_is_caught_at_the_next_check(self, figure, value, at, caught):
        """Each so many steps, and at the epoch's end before the weights are measured."""
        disturb = self.showing(figure, value, {at})
        guard = self.run([figures_of()], forget=self.LONG, disturb=disturb)
        assert [event["step"] for event in guard.events] == [caught]
        assert same(self.measured[0], self.start) == (caught == len(self.LONG))

    def test_a_mean_is_judged_and_not_a_step(self):
        disturb = self.showing("constraint/violation", RUNAWAY * CHECK_INTERVAL / 10, range(20, 27))
        assert self.run([figures_of()], forget=self.LONG, disturb=disturb).events == []

    @pytest.mark.parametrize("schedule", ["constant", "cosine"])
    @pytest.mark.parametrize(("learning_rate", "value"), [(1e-3, 0.0), (1e-3, 10 * RUNAWAY), (1e30, 0.0)])
    def test_the_log_interval_changes_nothing(self, learning_rate, value, schedule):
        """Neither without a runaway, nor with one, nor with weights that are NaN."""

        def outcome(log_interval):
            guard = self.run(
                [figures_of()], forget=self.LONG, log_interval=log_interval, learning_rate=learning_rate,
                schedule=schedule, disturb=self.showing("constraint/violation", value, range(20, 30)),
            )  # fmt: skip
            events = [(event["step"], event["scale"], str(event["violation"])) for event in guard.events]
            return weights(self.model), dual_values(guard), events

        alike = [outcome(log_interval) for log_interval in (1, 7, CHECK_INTERVAL, 10_000)]
        for now, dual, events in alike[1:]:
            assert same(now, alike[0][0]) and dual == alike[0][1] and events == alike[0][2]
        assert bool(alike[0][2]) == (learning_rate > 1 or value > 0)

    @pytest.mark.parametrize("log_interval", [1, CHECK_INTERVAL, 10_000])
    def test_where_rolling_back_does_not_help_it_ends(self, log_interval, tmp_path):
        flags = {"record": QuietRecord(tmp_path), "log_interval": log_interval, "learning_rate": 1e30}
        with pytest.raises(NotFinite):
            self.run([figures_of()], forget=FORGET * 10 * CHECK_INTERVAL, **flags)
        checks = [CHECK_INTERVAL * number for number in range(1, MOST_REWINDS + 2)]
        assert [event["step"] for event in self.trainer.safeguard.events] == checks

    @pytest.mark.parametrize("log_interval", [7, 10_000])
    def test_with_on_nan_stop_nothing_is_rolled_back_before(self, log_interval, tmp_path):
        flags = {"record": QuietRecord(tmp_path), "log_interval": log_interval, "learning_rate": 1e30}
        with pytest.raises(NotFinite):
            self.run([figures_of()], forget=self.LONG, on_nan="stop", **flags)
        assert self.trainer.safeguard.events == []

    def test_a_window_continues_where_a_stopped_run_left_it(self):
        self.run([figures_of()], forget=self.LONG)
        left = self.trainer
        left.violation_window.add({name: torch.tensor(7.0) for name in left.violation_window.names})
        self.run([figures_of()], forget=self.LONG)
        self.trainer.restore(left.state(0))
        figures, non_finite = self.trainer.violation_window.transfer()
        assert set(figures.values()) == {7.0} and non_finite is None
