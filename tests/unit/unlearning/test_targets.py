"""Forget targets: gradients against finite differences, quantiles against brute force, distances against formulas."""

import math
from fractions import Fraction

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from unlearning.constrained.targets import (
    ChanceTarget,
    UnseenTarget,
    ZeroTarget,
    log_odds,
    log_probability_of_others,
    weighted_quantiles,
)

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(12, 5, dtype=torch.float64, generator=GENERATOR) * 2
LABELS = torch.randint(0, 5, (12,), generator=GENERATOR)
LOSSES = F.cross_entropy(LOGITS, LABELS, reduction="none")
# Between the sixth and the seventh of the twelve losses.
MIDDLE = LOSSES.sort().values[5:7].mean().item()
NOTHING = torch.zeros(0, dtype=torch.int64)
numbers = st.floats(-100, 100, width=32)


def logits_of(losses) -> tuple[torch.Tensor, torch.Tensor]:
    """Two-class logits whose cross-entropy on label 0 are these losses, and the labels."""
    losses = torch.as_tensor(losses, dtype=torch.float64)
    own = -losses - torch.log(-torch.expm1(-losses))
    return torch.stack([own, torch.zeros_like(own)], dim=1), torch.zeros(len(losses), dtype=torch.int64)


def unseen(losses, weights=None, dtype=torch.float64) -> UnseenTarget:
    losses = torch.as_tensor(losses, dtype=dtype)
    target = UnseenTarget(torch.ones_like(losses) if weights is None else torch.as_tensor(weights, dtype=dtype))
    target.refresh(losses)
    return target


def slope(target, logits, labels) -> torch.Tensor:
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target.objective(logits, labels)[0], logits)
    return gradient


def targets() -> dict:
    spread = torch.tensor([0.5, 1.5]).repeat(6)
    return {
        "chance": ChanceTarget(5, MIDDLE / math.log(5)),
        "chance, none reached": ChanceTarget(5, 100.0),
        "zero, own labels": ZeroTarget(NOTHING, bound=0.2),
        "zero, classes": ZeroTarget(torch.tensor([1, 3]), bound=0.2),
        "unseen": unseen(LOSSES.sort().values * spread),
        "unseen, weighted": unseen([0.2, 1.0, 3.0, 9.0], [1.0, 2.0, 0.0, 4.0]),
    }


class TestObjectives:
    @pytest.mark.parametrize("name", targets())
    def test_gradient_is_that_of_finite_differences(self, name):
        logits = LOGITS.clone().requires_grad_()
        target = targets()[name]
        assert slope(target, LOGITS, LABELS).abs().max() > 1e-3
        assert torch.autograd.gradcheck(lambda z: target.objective(z, LABELS)[0], logits, eps=1e-6, atol=1e-8)

    @pytest.mark.parametrize("name", targets())
    def test_images_that_have_arrived_are_not_pushed(self, name):
        target = targets()[name]
        pushed = slope(target, LOGITS, LABELS).abs().sum(1) > 0
        _, reached = target.objective(LOGITS, LABELS)
        if name == "chance":
            arrived = LOSSES > MIDDLE
        elif name.startswith("zero"):
            probability = LOGITS.softmax(1)
            rows = torch.arange(len(LABELS))
            forgotten = torch.zeros_like(probability, dtype=torch.bool)
            forgotten[rows, LABELS] = True
            if name == "zero, classes":
                forgotten[:, [1, 3]] = True
            arrived = (probability * forgotten).sum(1) <= 0.2
        else:
            arrived = ~pushed
        assert torch.equal(pushed, ~arrived)
        assert reached.item() == pytest.approx(arrived.double().mean().item())
        assert name == "chance, none reached" or 0 < reached < 1

    @pytest.mark.parametrize("name", targets())
    def test_descent_raises_the_losses_that_are_too_low(self, name):
        target, logits, values = targets()[name], LOGITS.clone(), []
        for _ in range(200):
            values.append(target.objective(logits, LABELS)[0].item())
            logits -= 2 * slope(target, logits, LABELS)
        pushed = slope(target, LOGITS, LABELS).abs().sum(1) > 0
        after = F.cross_entropy(logits, LABELS, reduction="none")
        if not name.startswith("unseen"):
            assert torch.equal(logits[~pushed], LOGITS[~pushed])
            assert (after[pushed] > LOSSES[pushed]).all() or name == "zero, classes"
        assert values[-1] < values[0] and min(values) >= 0

    def test_chance_has_the_closed_form(self):
        target = ChanceTarget(5, 100.0)
        p = LOGITS.softmax(1)
        own = p.gather(1, LABELS[:, None])
        objective, _ = target.objective(LOGITS, LABELS)
        assert objective.item() == pytest.approx(-(1 - own).log().mean().item())
        expected = torch.where(F.one_hot(LABELS, 5).bool(), own, -own * p / (1 - own)) / len(LABELS)
        torch.testing.assert_close(slope(target, LOGITS, LABELS), expected)

    def test_chance_bound_is_a_multiple_of_log_k(self):
        for margin in (1.0, 1.5):
            logits, labels = logits_of([margin * math.log(2) - 1e-6, margin * math.log(2) + 1e-6])
            _, reached = ChanceTarget(2, margin).objective(logits, labels)
            assert reached == 0.5
            assert ChanceTarget(2, margin).distance(logits, labels, None, None) == 0.5

    def test_objective_is_zero_when_everything_has_arrived(self):
        certain = torch.tensor([[-50.0, 50.0, 0.0], [50.0, -50.0, 0.0]])
        labels = torch.tensor([0, 1])
        low = unseen([1.0, 2.0], dtype=torch.float32)
        for target in (ChanceTarget(3, 1.5), ZeroTarget(NOTHING), low):
            objective, reached = target.objective(certain, labels)
            assert objective == 0 and reached == 1
            assert slope(target, certain, labels).abs().max() == 0

    def test_certain_images_have_finite_gradients(self):
        certain = torch.tensor([[1e4, -1e4, 0.0], [0.0, 1e4, -1e4]])
        for target in (ChanceTarget(3, 1.5), ZeroTarget(NOTHING), unseen([1.0, 2.0], dtype=torch.float32)):
            objective, _ = target.objective(certain, torch.tensor([0, 1]))
            gradient = slope(target, certain, torch.tensor([0, 1]))
            assert objective.isfinite() and gradient.isfinite().all()
            # The cross-entropy of a certain image is flat; what looks at log(1 - p) still pushes it fully.
            assert gradient.abs().max().item() == pytest.approx(1 / 2)


class TestLogOdds:
    @settings(deadline=None, max_examples=60)
    @given(st.floats(1e-5, 50.0))
    def test_is_the_logit_of_one_minus_p(self, loss):
        p = math.exp(-loss)
        found = log_odds(torch.tensor(loss, dtype=torch.float64)).item()
        assert found == pytest.approx(math.log((1 - p) / p), rel=1e-9)

    def test_is_finite_in_float32_for_any_loss(self):
        found = log_odds(torch.tensor([0.0, 1e-30, 1e-5, 1e-3, 100.0, 1e4]))
        assert found[0] == found[1] == found[2] and (found[2:].diff() > 0).all()
        assert found[0].item() == pytest.approx(math.log(math.expm1(1e-5)), rel=1e-5) and found[-1] == 1e4

    def test_float32_losses_tell_them_to_a_hundredth_down_to_the_lowest(self):
        exact = torch.linspace(math.log(math.expm1(1e-5)), 12, 2000, dtype=torch.float64)
        logits = torch.stack([torch.zeros_like(exact), exact], 1).float()
        losses = F.cross_entropy(logits, torch.zeros(len(exact), dtype=torch.int64), reduction="none")
        assert (log_odds(losses).double() - exact).abs().max() < 0.01


class TestZeroDistance:
    def test_counts_images_named_as_any_forgotten_class(self):
        named = torch.tensor([1, 3, 0, 2, 1])
        logits, labels = 9.0 * F.one_hot(named, 4), torch.tensor([1, 1, 1, 1, 2])
        assert ZeroTarget(torch.tensor([1, 3])).distance(logits, labels, None, None) == pytest.approx(3 / 5)
        # Without a wholly forgotten class, an image may be named as anything but its own label.
        assert ZeroTarget(NOTHING).distance(logits, labels, None, None) == pytest.approx(1 / 5)

    def test_a_retrained_model_names_none_of_a_class_but_some_of_any_other_set(self):
        """So that there alone an idle budget goes into the last images."""
        others = ChanceTarget(4, 1.5), UnseenTarget(torch.ones(3))
        assert ZeroTarget(NOTHING).to_the_last and not any(target.to_the_last for target in others)


class TestLogProbabilityOfOthers:
    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.lists(st.floats(-8, 8), min_size=4, max_size=4), min_size=1, max_size=5), st.integers(1, 14))
    def test_against_the_plain_formula_in_float64(self, rows, mask):
        logits = torch.tensor(rows, dtype=torch.float64)
        classes = torch.tensor([bool(mask >> k & 1) for k in range(4)]).expand(len(rows), 4)
        naive = (1 - (logits.softmax(1) * classes).sum(1)).log()
        torch.testing.assert_close(log_probability_of_others(logits, classes), naive, atol=1e-9, rtol=1e-6)
        single = log_probability_of_others(logits.float(), classes)
        torch.testing.assert_close(single.double(), naive, atol=5e-6, rtol=1e-5)

    @settings(deadline=None)
    @given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
    def test_extreme_logits(self, own, other):
        """With two classes it is the log-sigmoid of their difference."""
        logits = torch.tensor([[own, other]])
        found = log_probability_of_others(logits, torch.tensor([[True, False]]))
        exact = F.logsigmoid((logits[:, 1] - logits[:, 0]).double())
        torch.testing.assert_close(found.double(), exact, atol=2e-6 * max(1, abs(own), abs(other)), rtol=1e-5)
        assert found <= 0


class TestWeightedQuantiles:
    @settings(deadline=None, max_examples=100)
    @given(
        sample=st.lists(st.tuples(numbers, st.integers(0, 5)), min_size=1, max_size=10),
        levels=st.lists(st.tuples(st.integers(1, 40), st.integers(2, 41)), min_size=1, max_size=5),
    )
    def test_against_brute_force(self, sample, levels):
        total = sum(weight for _, weight in sample)
        assume(total > 0)
        levels = [Fraction(min(a, b - 1), b) for a, b in levels]
        values, weights = (torch.tensor(column, dtype=torch.float64) for column in zip(*sample, strict=True))
        places = torch.tensor([float(level) for level in levels], dtype=torch.float64)
        found = weighted_quantiles(values, weights, places)
        for level, value in zip(levels, found.tolist(), strict=True):
            reaching = [
                v for v, _ in sample if Fraction(sum(weight for u, weight in sample if u <= v), total) >= level
            ]
            assert value == min(reaching)

    @settings(deadline=None, max_examples=100)
    @given(st.lists(numbers, min_size=1, max_size=30), st.integers(1, 30), st.floats(0.1, 50))
    def test_equal_weights_are_numpys_inverted_cdf(self, sample, count, weight):
        # Where a level falls on a step of the distribution, rounding decides in NumPy.
        levels = [Fraction(2 * i + 1, 2 * count) for i in range(count)]
        levels = [float(level) for level in levels if (level * len(sample)).denominator > 1]
        values = torch.tensor(sample, dtype=torch.float64)
        found = weighted_quantiles(values, torch.full_like(values, weight), torch.tensor(levels).double())
        expected = np.quantile(np.array(sample), levels, method="inverted_cdf")
        np.testing.assert_array_equal(found.numpy(), expected)

    def test_float32_weights_reach_the_last_value(self):
        values, weights = torch.arange(10_000.0), torch.full((10_000,), 1 / 10_000)
        assert weighted_quantiles(values, weights, torch.tensor([1 - 2**-24])).item() >= 9_998


class TestUnseenDistance:
    @settings(deadline=None, max_examples=60)
    @given(st.lists(st.tuples(st.floats(0.01, 20), st.floats(0.01, 20)), min_size=1, max_size=25))
    def test_is_wasserstein_1_of_the_log_odds_of_samples_of_one_size(self, pairs):
        ours, theirs = np.array(pairs).T
        logits, labels = logits_of(ours)
        distance = unseen(theirs).distance(logits, labels, torch.from_numpy(theirs), torch.ones(len(pairs)).double())
        expected = scipy.stats.wasserstein_distance(np.log(np.expm1(ours)), np.log(np.expm1(theirs)))
        assert distance == pytest.approx(expected, abs=1e-8)

    def test_a_weight_counts_as_repetition(self):
        logits, labels = logits_of([0.1, 0.5, 0.7, 2.0, 4.0, 5.0])
        reference, weights = torch.tensor([3.0, 0.2, 1.0]).double(), torch.tensor([1.0, 2.0, 3.0]).double()
        repeated = torch.tensor([3.0, 0.2, 0.2, 1.0, 1.0, 1.0]).double()
        target = unseen([1.0])
        assert target.distance(logits, labels, reference, weights) == pytest.approx(
            target.distance(logits, labels, repeated, torch.ones(6).double())
        )

    @settings(deadline=None, max_examples=30)
    @given(st.lists(st.tuples(st.floats(-30, 4), st.floats(-30, 4)), min_size=1, max_size=25))
    def test_below_the_lowest_loss_nothing_is_told_apart(self, pairs):
        lowest = math.log(math.expm1(1e-5))
        odds = np.array(pairs).T
        ours, theirs = (F.softplus(torch.from_numpy(part)) for part in odds)
        found = unseen(theirs).distance(*logits_of(ours), theirs, torch.ones(len(pairs)).double())
        expected = scipy.stats.wasserstein_distance(*np.maximum(odds, lowest))
        assert found == pytest.approx(expected, abs=1e-6)

    def test_too_high_counts_as_too_low_does(self):
        odds, weights = torch.tensor([-1.0, 2.0]).double(), torch.ones(2).double()
        reference = F.softplus(odds)
        for shift in (-0.5, 0.5):
            logits, labels = logits_of(F.softplus(odds + shift))
            assert unseen([1.0]).distance(logits, labels, reference, weights) == pytest.approx(0.5)


class TestUnseenObjective:
    def test_is_half_the_mean_squared_shortfall_of_ranked_log_odds_up_to_one(self):
        """Ranked 0.2, 0.4, 3 against 0.3, 0.6, 2, as log(e^L - 1): the third has arrived, whatever the order."""
        odds = np.log(np.expm1([[0.2, 0.4, 3.0], [0.3, 0.6, 2.0]]))
        short = odds[1, :2] - odds[0, :2]
        assert (short < 1).all()
        for order in ([0, 1, 2], [2, 0, 1]):
            logits, labels = logits_of(np.array([0.2, 0.4, 3.0])[order])
            objective, reached = unseen([2.0, 0.3, 0.6]).objective(logits, labels)
            assert objective.item() == pytest.approx((short**2).sum() / 6)
            assert reached.item() == pytest.approx(1 / 3)

    def test_beyond_one_it_grows_in_proportion(self):
        """A few quantiles far away must not rule the gradient (Huber 1964)."""
        here = math.log(math.expm1(0.5))
        for short in (1.0, 2.0, 5.0):
            goal = math.log1p(math.exp(here + short))
            logits, labels = logits_of([0.5])
            assert unseen([goal]).objective(logits, labels)[0].item() == pytest.approx(short - 0.5)

    @settings(deadline=None)
    @given(st.floats(1e-5, 6.0))
    def test_images_that_are_known_well_are_pushed_as_hard_as_others(self, loss):
        """Of two classes the log-odds are the difference of the logits, whose slope is 1 at any probability."""
        logits, labels = logits_of([loss])
        pushed = slope(unseen([10.0]), logits, labels)
        torch.testing.assert_close(pushed, torch.tensor([[1.0, -1.0]], dtype=torch.float64))

    def test_ranks_are_those_of_losses(self):
        """Whichever of the two is compared: the matching, and what has arrived, are the same."""
        ranked = LOSSES.sort().values * torch.tensor([0.5, 1.5], dtype=torch.float64).repeat(6)
        _, reached = unseen(ranked).objective(LOGITS, LABELS)
        goals = ranked.sort().values
        assert reached.item() == pytest.approx((LOSSES.sort().values >= goals).double().mean().item())

    def test_equal_means_are_no_loophole(self):
        """Half of the images far up and half of them back at zero have the unseen losses' mean, and not their law."""
        ours, theirs = [0.01, 0.01, 3.99, 3.99], [1.5, 2.0, 2.0, 2.5]
        assert np.mean(ours) == np.mean(theirs)
        logits, labels = logits_of(ours)
        target = unseen(theirs)
        objective, reached = target.objective(logits, labels)
        assert objective > 0.5 and reached == 0.5
        pushed = slope(target, logits, labels)
        assert (pushed[:2, 0] > 0).all() and (pushed[2:] == 0).all()
        reference = torch.tensor(theirs).double()
        assert target.distance(logits, labels, reference, torch.ones(4).double()) > 1

    def test_follows_what_it_was_refreshed_with(self):
        logits, labels = logits_of([1.0, 1.0])
        target = unseen([0.5])
        assert target.objective(logits, labels)[0] == 0
        target.refresh(torch.tensor([1.5]).double())
        short = math.log(math.expm1(1.5)) - math.log(math.expm1(1.0))
        assert target.objective(logits, labels)[0].item() == pytest.approx(short**2 / 2)

    def test_no_gradient_flows_into_the_goals(self):
        reference = torch.tensor([2.0]).double().requires_grad_()
        target = UnseenTarget(torch.ones(1).double())
        target.refresh(reference.detach())
        logits, labels = logits_of([1.0])
        target.objective(logits.requires_grad_(), labels)[0].backward()
        assert reference.grad is None
