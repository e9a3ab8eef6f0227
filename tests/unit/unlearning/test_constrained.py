"""The two constrained problems: figures by hand, what moves what, batch norm, smoothing and the margin."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers.solving import figures_of_step, own_labels
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode

from helper_functions.files import load_tensors, save_tensors
from helper_functions.training.devices import Precision
from optimizer.sam import SAM
from optimizer.solver import SOLVERS, Solver
from unlearning.arguments import UnlearnArgs
from unlearning.constrained.problem import SMOOTHING_IMAGES, ForgetSubjectToRetain, RetainSubjectToForget
from unlearning.constrained.targets import ChanceTarget, UnseenTarget, ZeroTarget
from unlearning.streams import RETAIN_LOSSES, OriginalAnswers, TwoStreams

CPU = Precision(torch.device("cpu"), torch.float32)
# The k-th image is the k-th unit vector, so that column k of the weights holds its logits.
IMAGES = torch.eye(4)
ZERO = torch.tensor(0)


def table(*logits) -> nn.Linear:
    """A model that gives image k the k-th logits."""
    model = nn.Linear(len(logits), len(logits[0]), bias=False)
    model.weight.data = torch.tensor(np.array(logits), dtype=torch.float32).T.contiguous()
    return model


def batch(images, labels):
    return IMAGES[images], torch.tensor(labels)


def forgetting(
    model, original, target=None, aim=0.5, solver="lagrangian", batch_norm="frozen", loss="labels", **options
):
    streams = TwoStreams(model, CPU, batch_norm)
    streams.prepare(model)
    args = UnlearnArgs(solver=solver, **{"multiplier": 1.0, "penalty_coefficient": 10.0, **options})
    answers, target = OriginalAnswers(original, CPU, batch_norm), target or own_labels(2**-1.5)
    problem = ForgetSubjectToRetain(streams, target, args, answers, RETAIN_LOSSES[loss])
    problem.aim = aim
    return problem


def normalised(seed=0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 3))


def streams_of(count=6):
    generator = torch.Generator().manual_seed(4)
    forget = torch.randn(count, 3, generator=generator) + 2
    retain = torch.randn(count + 2, 3, generator=generator) - 1
    return (forget, torch.arange(count) % 3), (retain, torch.arange(count + 2) % 3)


class TestForgetSubjectToRetain:
    @pytest.mark.parametrize("loss", ["labels", "original"])
    def test_figures_by_hand(self, loss):
        now = np.array([[2.0, 0.0, 1.0], [0.5, 1.0, -1.0], [0.3, 0.1, 0.2], [-1.0, 2.0, 0.5]])
        before = np.array([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [2.0, 0.0, 0.0], [1.0, 0.5, 0.0]])
        problem = forgetting(table(*now), table(*before), own_labels(0.0), aim=0.5, loss=loss)
        problem.margin = torch.tensor(0.25)
        state = problem.compute_cmp_state(batch([0, 1], [0, 1]), batch([2, 3, 1], [0, 0, 1]))

        def losses(logits, images, labels):
            rows = np.exp(logits[images])
            return -np.log(rows[range(len(images)), labels] / rows.sum(1))

        own = np.exp(-losses(now, [0, 1], [0, 1]))
        objective = -np.log(1 - own).mean()
        if loss == "labels":
            retain_loss_gap = losses(now, [2, 3, 1], [0, 0, 1]).mean() - losses(before, [2, 3, 1], [0, 0, 1]).mean()
        else:
            rows = (np.exp(logits[[2, 3, 1]]) for logits in (before, now))
            p, q = (row / row.sum(1, keepdims=True) for row in rows)
            retain_loss_gap = (p * np.log(p / q)).sum(1).mean()
        # Right before: all three. Right now: images 2 and 1.
        fall = 100 / 3
        figures = state.misc
        (constraint,) = state.observed_constraints.values()
        assert state.loss.item() == pytest.approx(objective, rel=1e-5)
        assert constraint.violation.item() == pytest.approx(retain_loss_gap - 0.25, rel=1e-5)
        assert constraint.strict_violation.item() == pytest.approx(fall - 0.5, rel=1e-5)
        assert not constraint.strict_violation.requires_grad
        assert figures["forget/objective"].item() == pytest.approx(objective, rel=1e-5)
        assert figures["forget/batch_loss"].item() == pytest.approx(losses(now, [0, 1], [0, 1]).mean(), rel=1e-5)
        assert figures["forget/reached"] == 0
        assert figures["retain/batch_loss"].item() == pytest.approx(losses(now, [2, 3, 1], [0, 0, 1]).mean(), rel=1e-5)
        assert figures["constraint/violation"].item() == pytest.approx(fall - 0.5, rel=1e-5)
        assert figures["constraint/surrogate"].item() == pytest.approx(retain_loss_gap - 0.25, rel=1e-5)
        assert figures["constraint/multiplier"] == 1

    # Accuracy falls by half while the loss falls, too, or the answers hardly move; and the reverse.
    FALLS = {"now": ((0.0, 0.0), (5.0, 0.0), (-0.1, 0.0)), "before": ((0.0, 0.0), (0.1, 0.0), (0.1, 0.0))}
    MOVES = {"now": ((0.0, 0.0), (0.1, 0.0), (-0.1, 0.0)), "before": ((0.0, 0.0), (0.1, 0.0), (0.1, 0.0))}
    RISES = {"now": ((0.0, 0.0), (0.1, 0.0), (0.1, 0.0)), "before": ((0.0, 0.0), (5.0, 0.0), (5.0, 0.0))}

    @pytest.mark.parametrize(
        ("loss", "case", "strict"),
        [
            ("labels", "FALLS", 49.5),
            ("original", "MOVES", 49.5),
            ("labels", "RISES", -0.5),
            ("original", "RISES", -0.5),
        ],
    )
    @pytest.mark.parametrize("name", SOLVERS)
    def test_accuracy_moves_the_multiplier_and_loss_moves_the_weights(self, loss, case, strict, name):
        logits = getattr(self, case)
        model = table(*logits["now"])
        problem = forgetting(model, table(*logits["before"]), own_labels(0.0), solver=name, loss=loss)
        problem.margin = torch.tensor(0.25)
        forget, retain = (IMAGES[:1, :3], torch.tensor([0])), (IMAGES[1:3, :3], torch.tensor([0, 0]))
        start = model.weight.detach().clone().requires_grad_()
        p, q = torch.tensor(logits["before"][1:]).softmax(1), (retain[0] @ start.T).softmax(1)
        retain_loss_gap = (p / q).log()[:, 0] if loss == "labels" else (p * (p / q).log()).sum(1)
        surrogate = retain_loss_gap.mean() - 0.25
        assert (surrogate.item() > 0) == (strict < 0)
        objective = F.softplus((forget[0] @ start.T) @ torch.tensor([1.0, -1.0])).sum()
        multiplier = 1 + 0.1 * strict
        value = {
            "lagrangian": objective + multiplier * surrogate,
            "penalty": objective + 10 / 2 * surrogate.relu() ** 2,
            "augmented_lagrangian": objective + ((multiplier + 10 * surrogate).relu() ** 2 - multiplier**2) / 20,
        }[name]
        (slope,) = torch.autograd.grad(value, start)

        solver = Solver(problem, torch.optim.SGD(model.parameters(), lr=0.01), model, dual_learning_rate=0.1)
        figures = figures_of_step(solver, forget=forget, retain=retain)
        assert figures["constraint/violation"].item() == pytest.approx(strict)
        for found in problem.multipliers():
            assert found.weight.item() == pytest.approx(multiplier)
        torch.testing.assert_close(model.weight.detach(), (start - 0.01 * slope).detach())

    @pytest.mark.parametrize("sam", [False, True])
    def test_a_step_takes_over_one_batch_of_smoothing(self, sam):
        model = table(*self.FALLS["now"])
        problem = forgetting(model, table(*self.FALLS["before"]))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        if sam:
            optimizer = SAM(model.parameters(), torch.optim.SGD, rho=10.0, lr=0.01)
        step = {"forget": (IMAGES[:1, :3], ZERO[None]), "retain": (IMAGES[1:3, :3], torch.tensor([0, 0]))}
        figures = figures_of_step(Solver(problem, optimizer, model), **step)
        weight = 1 - math.exp(-2 / SMOOTHING_IMAGES)
        assert problem.smoothed.tolist() == pytest.approx([50 * weight, weight], rel=1e-4)
        assert all(isinstance(value, torch.Tensor) and value.ndim == 0 for value in figures.values())

    @settings(max_examples=40)
    @given(st.lists(st.tuples(st.integers(1, 900), st.floats(0, 1)), min_size=1, max_size=6))
    def test_smoothing_is_the_closed_form(self, batches):
        """Image 1 stays right and image 2 is lost; exponential weights by images seen, normalised to sum 1."""
        problem = forgetting(table((0.0, 0.0), (1.0, 0.0), (0.0, 1.0)), table((0.0, 0.0), (1.0, 0.0), (1.0, 0.0)))
        forget, falls = (IMAGES[:1, :3], ZERO[None]), []
        for number, (size, share) in enumerate(batches):
            lost = round(size * share)
            falls.append(100 * lost / size)
            images = IMAGES[[2] * lost + [1] * (size - lost), :3]
            retain = (images, torch.zeros(size, dtype=torch.int64))
            # Looking twice, as SAM does, is no second observation.
            problem.compute_cmp_state(forget, retain)
            state = problem.compute_cmp_state(forget, retain)
            later = [size for size, _ in batches[: number + 1]]
            weights = [
                (1 - math.exp(-later[i] / SMOOTHING_IMAGES)) * math.exp(-sum(later[i + 1 :]) / SMOOTHING_IMAGES)
                for i in range(number + 1)
            ]
            expected = sum(w * f for w, f in zip(weights, falls, strict=True)) / sum(weights) - 0.5
            assert state.misc["constraint/violation"].item() == pytest.approx(expected, abs=2e-3)
            problem.commit(state)

    def test_forgotten_history_begins_anew(self):
        problem = forgetting(table(*self.FALLS["now"]), table(*self.FALLS["before"]))
        forget = (IMAGES[:1, :3], ZERO[None])
        problem.commit(problem.compute_cmp_state(forget, (IMAGES[2:3, :3], ZERO[None])))
        problem.rollback()
        state = problem.compute_cmp_state(forget, (IMAGES[1:2, :3], ZERO[None]))
        assert state.misc["constraint/violation"].item() == pytest.approx(-0.5)

    @pytest.mark.parametrize("name", SOLVERS)
    def test_state_round_trip(self, name, tmp_path):
        def build():
            return forgetting(table(*self.FALLS["now"]), table(*self.FALLS["before"]), solver=name)

        problem = build()
        model = problem.streams.model
        step = {"forget": (IMAGES[:1, :3], ZERO[None]), "retain": (IMAGES[2:3, :3], ZERO[None])}
        figures_of_step(Solver(problem, torch.optim.SGD(model.parameters(), lr=0.1), model), **step)
        problem.refit_margin(3.0, 0.2)
        save_tensors(problem.state_dict(), tmp_path / "problem.pt")
        other = build()
        other.load_state_dict(load_tensors(tmp_path / "problem.pt", ""))
        assert torch.equal(other.margin, problem.margin) and torch.equal(other.smoothed, problem.smoothed)
        for ours, theirs in zip(problem.multipliers(), other.multipliers(), strict=True):
            assert torch.equal(ours.weight, theirs.weight)
        for ours, theirs in zip(problem.penalty_coefficients(), other.penalty_coefficients(), strict=True):
            assert torch.equal(ours.value, theirs.value)

    @pytest.mark.parametrize("name", ["chance", "zero", "unseen"])
    @pytest.mark.parametrize("batch_norm", ["frozen", "train"])
    def test_a_step_waits_for_nothing(self, name, batch_norm, monkeypatch):
        """No operation whose result the host must read: each would stall a GPU."""
        # On the CPU, and there alone, one_hot looks whether a label is negative.
        monkeypatch.setattr(F, "one_hot", lambda labels, classes: labels[:, None] == torch.arange(classes))
        others = dict.fromkeys(("unseen", "validation"), (torch.arange(5.0), torch.ones(5)))
        waiting, target = [], {
            "chance": ChanceTarget(others), "zero": ZeroTarget(torch.tensor([1])), "unseen": UnseenTarget(torch.ones(5))
        }[name]  # fmt: skip

        class Watch(TorchDispatchMode):
            def __torch_dispatch__(self, func, types, args=(), kwargs=None):
                if func.__name__.split(".")[0] in ("_local_scalar_dense", "nonzero", "masked_select", "is_nonzero"):
                    waiting.append(func.__name__)
                return func(*args, **(kwargs or {}))

        target.refresh(torch.arange(5.0), torch.arange(8.0))
        model = normalised()
        problem = forgetting(model, copy.deepcopy(model), target, batch_norm=batch_norm)
        solver = Solver(problem, torch.optim.SGD(model.parameters(), lr=0.01), model, max_grad_norm=1.0)
        forget, retain = streams_of()
        with Watch():
            torch.zeros(()).item()
            figures_of_step(solver, forget=forget, retain=retain)
        assert waiting == ["_local_scalar_dense.default"]


class TestMargin:
    """ε carries a margin, refitted so that the model may move as far as accuracy may fall."""

    def problem(self, aim=0.5):
        return forgetting(table((0.0, 0.0)), table((0.0, 0.0)), aim=aim)

    @pytest.mark.parametrize("start", [0.0, 3.0])
    def test_converges_where_the_fall_would_be_the_aim(self, start):
        """With 0.2 nats for each point that falls, wherever that is measured."""
        problem = self.problem(aim=0.5)
        problem.margin = torch.tensor(start)
        gaps = []
        for fall in (0.1, 4.0, 0.7, 0.3, 2.0, 0.5, 0.5, 0.6, 0.5):
            problem.refit_margin(fall, 0.2 * fall)
            gaps.append(abs(problem.margin.item() - 0.1))
        assert all(later <= earlier + 1e-6 for earlier, later in zip(gaps, gaps[1:], strict=False))
        assert gaps[-1] < 0.02

    def test_a_fall_within_the_noise_teaches_nothing(self):
        """One image in a thousand would otherwise say that the loss may rise tenfold."""
        problem = self.problem(aim=0.5)
        problem.margin = torch.tensor(0.1)
        problem.refit_margin(0.02, 0.3)
        assert problem.margin.item() == pytest.approx(0.1)

    @pytest.mark.parametrize("fall", [0.0, -1.0])
    def test_does_not_shrink_while_no_accuracy_is_lost(self, fall):
        problem = self.problem()
        for start, measured in ((0.3, 0.1), (0.3, 0.9)):
            problem.margin = torch.tensor(start)
            problem.refit_margin(fall, measured)
            assert start - 1e-6 <= problem.margin.item() <= max(start, measured) + 1e-6

    @pytest.mark.parametrize("measured", [math.nan, math.inf])
    @pytest.mark.parametrize("fall", [50.0])
    def test_a_diverged_epoch_leaves_it_a_number(self, measured, fall):
        problem = self.problem()
        problem.margin = torch.tensor(0.3)
        problem.refit_margin(fall, measured)
        assert problem.margin.item() == pytest.approx(0.3)


class TestDivergence:
    def test_is_the_rise_of_cross_entropy_against_the_originals_answers(self):
        generator = torch.Generator().manual_seed(0)
        before, now = torch.randn(2, 7, 4, generator=generator)
        answers = before.softmax(1)
        retain_loss_gap = F.cross_entropy(now, answers) - F.cross_entropy(before, answers)
        divergence = RETAIN_LOSSES["original"]
        torch.testing.assert_close(divergence(before, now, None), retain_loss_gap)
        independent = torch.distributions.kl_divergence(
            torch.distributions.Categorical(logits=before), torch.distributions.Categorical(logits=now)
        )
        torch.testing.assert_close(divergence(before, now, None), independent.mean())

    def test_is_least_at_the_original(self):
        """There it is 0 and flat: nothing of the budget is spent before anything is forgotten."""
        logits = torch.randn(5, 3, generator=torch.Generator().manual_seed(1), requires_grad=True)
        value = RETAIN_LOSSES["original"](logits.detach(), logits, None)
        (slope,) = torch.autograd.grad(value, logits)
        assert value.item() == pytest.approx(0, abs=1e-6) and slope.abs().max().item() == pytest.approx(0, abs=1e-6)

    def test_certain_answers_are_no_nan(self):
        certain, divergence = torch.tensor([[200.0, 0.0, -200.0]]), RETAIN_LOSSES["original"]
        assert divergence(certain, certain, None).item() == 0 and divergence(certain, -certain, None).isfinite()


class TestOriginal:
    @pytest.mark.parametrize("batch_norm", ["frozen", "train"])
    def test_uses_the_originals_weights_for_ever(self, batch_norm):
        model, (inputs, _) = normalised(), streams_of()[1]
        twin = copy.deepcopy(model).train(batch_norm == "train")
        expected = copy.deepcopy(twin)(inputs).detach()
        original = OriginalAnswers(model, CPU, batch_norm)
        streams = TwoStreams(model, CPU, batch_norm)
        streams.prepare(model)
        for _ in range(3):
            logits = original(inputs)
            torch.testing.assert_close(logits, expected)
            assert not logits.requires_grad and not original.model[0].weight.requires_grad
            # The model goes its way, in the same memory.
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.add_(1)
            streams(inputs, inputs)
        for before, after in zip(twin.state_dict().values(), original.model.state_dict().values(), strict=True):
            assert torch.equal(before, after)

    @pytest.mark.parametrize("loss", ["labels", "original"])
    @pytest.mark.parametrize("batch_norm", ["frozen", "train"])
    def test_an_unchanged_model_has_lost_nothing(self, batch_norm, loss):
        model, (forget, retain) = normalised(), streams_of()
        problem = forgetting(model, copy.deepcopy(model), batch_norm=batch_norm, aim=0.5, loss=loss)
        state = problem.compute_cmp_state(forget, retain)
        assert state.misc["constraint/violation"].item() == pytest.approx(-0.5)
        assert state.misc["constraint/surrogate"].item() == pytest.approx(0, abs=1e-6)

    def test_dropout_counts_as_no_loss(self):
        model = nn.Sequential(normalised(), nn.Dropout(0.9))
        forget, retain = streams_of(300)
        problem = forgetting(model, copy.deepcopy(model), own_labels(3**-1.5), aim=0.5)
        state = problem.compute_cmp_state(forget, retain)
        assert state.misc["constraint/surrogate"].item() == pytest.approx(0, abs=0.01)
        assert state.misc["constraint/violation"].item() < 2


class TestTwoStreams:
    def test_frozen_is_one_pass_that_equals_two(self):
        model, ((forget, _), (retain, _)) = normalised(), streams_of()
        model[1].running_mean.normal_()
        model[1].running_var.uniform_(0.5, 2)
        before = copy.deepcopy(model.state_dict())
        streams, passes = TwoStreams(model, CPU, "frozen"), []
        streams.prepare(model)
        model.register_forward_hook(lambda *_: passes.append(1))
        found = streams(forget, retain)
        assert len(passes) == 1
        model.eval()
        torch.testing.assert_close(found[0], model(forget))
        torch.testing.assert_close(found[1], model(retain))
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())

    def test_train_normalises_each_stream_by_itself_and_retain_alone_moves_statistics(self):
        model, ((forget, _), (retain, _)) = normalised(), streams_of()
        twins = copy.deepcopy(model).train(), copy.deepcopy(model).train()
        streams = TwoStreams(model, CPU, "train")
        streams.prepare(model)
        found = streams(forget, retain)
        for twin, inputs, logits in zip(twins, (forget, retain), found, strict=True):
            torch.testing.assert_close(logits, twin(inputs))
        hidden = model[0](retain).detach()
        torch.testing.assert_close(model[1].running_mean, 0.1 * hidden.mean(0))
        torch.testing.assert_close(model[1].running_var, 0.9 + 0.1 * hidden.var(0))
        assert model[1].num_batches_tracked == 1

    def test_retain_normalises_both_streams_by_the_retain_batch_which_alone_moves_statistics(self):
        model, ((forget, _), (retain, _)) = normalised(), streams_of()
        streams = TwoStreams(model, CPU, "retain")
        streams.prepare(model)
        twin = copy.deepcopy(model)
        before_forget, before_retain = model[0](forget), model[0](retain)
        variance, mean = torch.var_mean(before_retain, 0, correction=0)
        expected = model[2]((before_forget - mean) / (variance + model[1].eps).sqrt())
        found = streams(forget, retain)
        torch.testing.assert_close(found[0], expected)
        torch.testing.assert_close(found[1], twin(retain))
        for name, value in model.state_dict().items():
            torch.testing.assert_close(value, twin.state_dict()[name])
        assert model[1].training and model[1].num_batches_tracked == 1
        gradients = [torch.autograd.grad(logits.square().sum(), model[0].weight) for logits in (found[0], expected)]
        torch.testing.assert_close(*gradients)

    def test_a_batch_of_one_class_is_told_from_others_beside_the_retain_batch_alone(self):
        model = nn.Sequential(nn.BatchNorm1d(1, affine=False), nn.Linear(1, 2, bias=False)).train()
        with torch.no_grad():
            model[1].weight.copy_(torch.tensor([[-1.0], [1.0]]))
        # The second class has large values; half of the forget batch lies below its own mean.
        forget, retain = torch.tensor([[8.0], [9.0], [10.0], [11.0]]), torch.tensor([[-1.0], [1.0], [8.0], [10.0]])
        named = {mode: TwoStreams(model, CPU, mode)(forget, retain)[0].argmax(1) for mode in ("train", "retain")}
        assert named["train"].tolist() == [0, 0, 1, 1] and named["retain"].tolist() == [1, 1, 1, 1]

    def test_answers_on_a_view_are_those_beside_the_retain_batch_and_leave_the_model_alone(self):
        model, ((forget, labels), (retain, _)) = normalised(), streams_of()
        streams = TwoStreams(model, CPU, "retain")
        streams.prepare(model)
        before = copy.deepcopy(model.state_dict())
        view = [(forget[:1], labels[:1]), (forget[1:], labels[1:])]
        found = streams.measure(lambda logits, labels: logits, view, retain, 1, 0)
        assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
        torch.testing.assert_close(found, streams(forget, retain)[0])

    def test_prepare_keeps_batch_norm_as_asked_for(self):
        for batch_norm in ("frozen", "train", "retain"):
            model = normalised().eval()
            TwoStreams(model, CPU, batch_norm).prepare(model)
            assert model[1].training == (batch_norm != "frozen")

    def test_logits_are_float32_under_autocast(self):
        model, ((forget, _), (retain, _)) = normalised(), streams_of()
        for batch_norm in ("frozen", "train", "retain"):
            logits = TwoStreams(model, Precision(torch.device("cpu"), torch.bfloat16), batch_norm)(forget, retain)
            assert [each.dtype for each in logits] == [torch.float32] * 2


class TestRetainSubjectToForget:
    def test_retain_loss_subject_to_the_targets_objective(self):
        model, (forget, retain) = normalised(), streams_of()
        streams, target = TwoStreams(model, CPU, "frozen"), own_labels(3**-1.5)
        target.floor = 0.25
        streams.prepare(model)
        problem = RetainSubjectToForget(streams, target, UnlearnArgs(multiplier=2.0))
        state = problem.compute_cmp_state(forget, retain)
        objective, reached = target.objective(model(forget[0]), forget[1])
        assert state.loss.item() == pytest.approx(F.cross_entropy(model(retain[0]), retain[1]).item(), rel=1e-5)
        (constraint,) = state.observed_constraints.values()
        assert constraint.violation.item() == pytest.approx(objective.item() - 0.25 - 0.01, rel=1e-4)
        assert state.misc["forget/violation"].item() == constraint.violation.item()
        assert state.misc["forget/multiplier"] == 2
        assert state.misc["forget/reached"] == reached
        assert all(value.ndim == 0 for value in state.misc.values())

    @pytest.mark.parametrize("name", SOLVERS)
    def test_stays_forgotten_while_retain_loss_falls(self, name):
        """One logit table: image 0 has to stay below its label's bound, image 1 may be learned freely."""
        model = table((-1.0, 0.0), (0.0, 0.0))
        streams, target = TwoStreams(model, CPU, "frozen"), own_labels(2**-1.5)
        args = UnlearnArgs(solver=name, multiplier=1.0, penalty_coefficient=10.0)
        problem = RetainSubjectToForget(streams, target, args)
        solver = Solver(problem, torch.optim.SGD(model.parameters(), lr=0.5), model)
        step = {"forget": (IMAGES[:1, :2], ZERO[None]), "retain": (IMAGES[1:2, :2], ZERO[None])}
        for _ in range(50):
            figures_of_step(solver, **step)
        loss = F.cross_entropy(model(IMAGES[:2, :2]), torch.tensor([0, 0]), reduction="none")
        assert loss[0] > 0.99 * 1.5 * math.log(2) and loss[1] < 0.1
