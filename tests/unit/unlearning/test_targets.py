"""Forget targets: gradients against finite differences, quantiles against brute force, distances against formulas."""

import collections
import math
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.stats
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from helper_functions.errors import UserError
from unlearning.constrained.targets import (
    ChanceTarget,
    UnseenTarget,
    ZeroTarget,
    chance_displacements,
    log_odds,
    log_probability_of_others,
    other_labels,
    own_target,
    weighted_quantiles,
)

GENERATOR = torch.Generator().manual_seed(0)
LOGITS = torch.randn(12, 5, dtype=torch.float64, generator=GENERATOR) * 2
LABELS = torch.randint(0, 5, (12,), generator=GENERATOR)
LOSSES = F.cross_entropy(LOGITS, LABELS, reduction="none")
NOTHING = torch.zeros(0, dtype=torch.int64)
numbers = st.floats(-100, 100, width=32)


def logits_of(losses) -> tuple[torch.Tensor, torch.Tensor]:
    """Two-class logits whose cross-entropy on label 0 are these losses, and the labels."""
    losses = torch.as_tensor(losses, dtype=torch.float64)
    own = -losses - torch.log(-torch.expm1(-losses))
    return torch.stack([own, torch.zeros_like(own)], dim=1), torch.zeros(len(losses), dtype=torch.int64)


def unseen(losses, forget=(1.0,), weights=None, floor=-1.0, dtype=torch.float64) -> UnseenTarget:
    """Refreshed with these losses of unseen and of forget images; always pulls, unless a floor is given."""
    losses, forget = (torch.as_tensor(each, dtype=dtype) for each in (losses, forget))
    target = UnseenTarget(torch.ones_like(losses) if weights is None else torch.as_tensor(weights, dtype=dtype), floor)
    target.refresh(losses, forget)
    return target


def slope(target, logits, labels) -> torch.Tensor:
    logits = logits.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(target.objective(logits, labels)[0], logits)
    return gradient


def targets() -> dict:
    spread = torch.tensor([0.5, 1.5]).repeat(6)
    return {
        "zero, none reached": ZeroTarget(NOTHING, bound=0.0),
        "zero, own labels": ZeroTarget(NOTHING, bound=0.2),
        "zero, classes": ZeroTarget(torch.tensor([1, 3]), bound=0.2),
        "unseen": unseen(LOSSES.sort().values * spread, 0.9 * LOSSES),
        "unseen, weighted": unseen([0.2, 1.0, 3.0, 9.0], 0.9 * LOSSES, [1.0, 2.0, 0.0, 4.0]),
    }


one_sided = [name for name in targets() if not name.startswith("unseen")]


class TestObjectives:
    @pytest.mark.parametrize("name", targets())
    def test_gradient_is_that_of_finite_differences(self, name):
        logits = LOGITS.clone().requires_grad_()
        target = targets()[name]
        assert slope(target, LOGITS, LABELS).abs().max() > 1e-3
        assert torch.autograd.gradcheck(lambda z: target.objective(z, LABELS)[0], logits, eps=1e-6, atol=1e-8)

    @pytest.mark.parametrize("name", one_sided)
    def test_images_that_have_arrived_are_not_pushed(self, name):
        target = targets()[name]
        pushed = slope(target, LOGITS, LABELS).abs().sum(1) > 0
        _, reached = target.objective(LOGITS, LABELS)
        probability = LOGITS.softmax(1)
        rows = torch.arange(len(LABELS))
        forgotten = torch.zeros_like(probability, dtype=torch.bool)
        forgotten[rows, LABELS] = True
        if name == "zero, classes":
            forgotten[:, [1, 3]] = True
        arrived = (probability * forgotten).sum(1) <= target.bound
        assert torch.equal(pushed, ~arrived)
        assert reached.item() == pytest.approx(arrived.double().mean().item())
        assert name == "zero, none reached" or 0 < reached < 1

    @pytest.mark.parametrize("name", one_sided)
    def test_descent_raises_the_losses_that_are_too_low(self, name):
        target, logits, values = targets()[name], LOGITS.clone(), []
        for _ in range(200):
            values.append(target.objective(logits, LABELS)[0].item())
            logits -= 2 * slope(target, logits, LABELS)
        pushed = slope(target, LOGITS, LABELS).abs().sum(1) > 0
        after = F.cross_entropy(logits, LABELS, reduction="none")
        assert torch.equal(logits[~pushed], LOGITS[~pushed])
        assert (after[pushed] > LOSSES[pushed]).all() or name == "zero, classes"
        assert values[-1] < values[0] and min(values) >= 0

    def test_zero_has_the_closed_form(self):
        target = ZeroTarget(NOTHING, bound=0.0)
        p = LOGITS.softmax(1)
        own = p.gather(1, LABELS[:, None])
        objective, _ = target.objective(LOGITS, LABELS)
        assert objective.item() == pytest.approx(-(1 - own).log().mean().item())
        expected = torch.where(F.one_hot(LABELS, 5).bool(), own, -own * p / (1 - own)) / len(LABELS)
        torch.testing.assert_close(slope(target, LOGITS, LABELS), expected)

    def test_objective_is_zero_when_everything_has_arrived(self):
        certain = torch.tensor([[-50.0, 50.0, 0.0], [50.0, -50.0, 0.0]])
        labels = torch.tensor([0, 1])
        objective, reached = ZeroTarget(NOTHING).objective(certain, labels)
        assert objective == 0 and reached == 1
        assert slope(ZeroTarget(NOTHING), certain, labels).abs().max() == 0

    def test_certain_images_have_finite_gradients(self):
        certain = torch.tensor([[1e4, -1e4, 0.0], [0.0, 1e4, -1e4]])
        for target in (ZeroTarget(NOTHING), unseen([1.0, 2.0], dtype=torch.float32)):
            objective, _ = target.objective(certain, torch.tensor([0, 1]))
            gradient = slope(target, certain, torch.tensor([0, 1]))
            assert objective.isfinite() and gradient.isfinite().all()
            # The cross-entropy of a certain image is flat; what looks at log(1 - p) still pushes it fully.
            assert gradient.abs().max().item() == pytest.approx(1 / 2)


class TestLogOdds:
    @settings(max_examples=60)
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


class TestLogProbabilityOfOthers:
    @settings(max_examples=60)
    @given(st.lists(st.lists(st.floats(-8, 8), min_size=4, max_size=4), min_size=1, max_size=5), st.integers(1, 14))
    def test_against_the_plain_formula_in_float64(self, rows, mask):
        logits = torch.tensor(rows, dtype=torch.float64)
        classes = torch.tensor([bool(mask >> k & 1) for k in range(4)]).expand(len(rows), 4)
        naive = (1 - (logits.softmax(1) * classes).sum(1)).log()
        torch.testing.assert_close(log_probability_of_others(logits, classes), naive, atol=1e-9, rtol=1e-6)
        single = log_probability_of_others(logits.float(), classes)
        torch.testing.assert_close(single.double(), naive, atol=5e-6, rtol=1e-5)

    @given(st.floats(-1e4, 1e4), st.floats(-1e4, 1e4))
    def test_extreme_logits(self, own, other):
        """With two classes it is the log-sigmoid of their difference."""
        logits = torch.tensor([[own, other]])
        found = log_probability_of_others(logits, torch.tensor([[True, False]]))
        exact = F.logsigmoid((logits[:, 1] - logits[:, 0]).double())
        torch.testing.assert_close(found.double(), exact, atol=2e-6 * max(1, abs(own), abs(other)), rtol=1e-5)
        assert found <= 0


class TestWeightedQuantiles:
    @settings(max_examples=100)
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
            reaching = [v for v, _ in sample if Fraction(sum(weight for u, weight in sample if u <= v), total) >= level]
            assert value == min(reaching)

    @settings(max_examples=100)
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
    @settings(max_examples=60)
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

    @settings(max_examples=30)
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


def odds_of(losses) -> np.ndarray:
    return np.log(np.expm1(losses))


class TestUnseenObjective:
    @settings(max_examples=100)
    @given(
        forget=st.lists(st.integers(-6, 6), min_size=1, max_size=12),
        sample=st.lists(st.tuples(st.integers(-6, 6), st.integers(0, 4)), min_size=1, max_size=12),
        batch=st.lists(st.integers(-14, 14), min_size=1, max_size=6),
    )
    def test_goals_against_brute_force(self, forget, sample, batch):
        """Ranks among the whole set, not within the batch; ties share the mean of theirs. Halves lie between images."""
        assume(sum(weight for _, weight in sample))
        values, weights = (np.array(column, dtype=float) for column in zip(*sample, strict=True))
        target = unseen(np.log1p(np.exp(values)), np.log1p(np.exp(forget)), weights)
        target.window, target.reference = target.window.round(), target.reference.round()  # exact integers again
        found = target.goals(torch.tensor(batch, dtype=torch.float64) / 2)
        for odds, goal in zip(batch, found.tolist(), strict=True):
            below, ties = sum(2 * value < odds for value in forget), sum(2 * value == odds for value in forget)
            level = min(max(2 * below + ties, 1), 2 * len(forget) - 1) / (2 * len(forget))
            reaching = [
                min(v for v, _ in sample if sum(w for u, w in sample if u <= v) >= (level + nudge) * weights.sum())
                for nudge in (-1e-9, 1e-9)
            ]
            assert goal in reaching

    def test_is_half_the_mean_squared_distance_of_ranked_log_odds_up_to_one(self):
        """Ranked 0.2, 0.4, 2.5 against 0.3, 0.6, 2, as log(e^L - 1), whatever the order: two too low, one too high."""
        ours, theirs = np.array([0.2, 0.4, 2.5]), [2.0, 0.3, 0.6]
        apart = odds_of(ours) - odds_of(sorted(theirs))
        assert (abs(apart) < 1).all()
        for order in ([0, 1, 2], [2, 0, 1], [1]):
            logits, labels = logits_of(ours[order])
            target = unseen(theirs, ours)
            objective, reached = target.objective(logits, labels)
            assert objective.item() == pytest.approx((apart[order] ** 2).mean() / 2)
            assert reached.item() == pytest.approx(order.count(2) / len(order))
            pulled = torch.from_numpy(apart[order])[:, None] * torch.tensor([-1.0, 1.0]) / len(order)
            torch.testing.assert_close(slope(target, logits, labels), pulled.double())

    @pytest.mark.parametrize("sign", [-1, 1])
    def test_beyond_one_it_grows_in_proportion_on_both_sides(self, sign):
        """A few quantiles far away must not rule the gradient (Huber 1964)."""
        for apart in (1.0, 2.0, 5.0):
            logits, labels = logits_of([0.5])
            target = unseen([math.log1p(math.exp(odds_of(0.5) + sign * apart))])
            assert target.objective(logits, labels)[0].item() == pytest.approx(apart - 0.5)
            torch.testing.assert_close(slope(target, logits, labels), sign * torch.tensor([[1.0, -1.0]]).double())

    @given(st.floats(1e-5, 6.0))
    def test_images_that_are_known_well_are_pushed_as_hard_as_others(self, loss):
        """Of two classes the log-odds are the difference of the logits, whose slope is 1 at any probability."""
        logits, labels = logits_of([loss])
        torch.testing.assert_close(slope(unseen([10.0]), logits, labels), torch.tensor([[1.0, -1.0]]).double())

    def test_equal_means_are_no_loophole(self):
        """Half of the images far up and half of them back at zero have the unseen losses' mean, and not their law."""
        ours, theirs = [0.01, 0.01, 3.99, 3.99], [1.5, 2.0, 2.0, 2.5]
        assert np.mean(ours) == np.mean(theirs)
        logits, labels = logits_of(ours)
        target = unseen(theirs, ours)
        objective, reached = target.objective(logits, labels)
        assert objective > 0.5 and reached == 0.5
        pulled = slope(target, logits, labels)[:, 0]
        assert (pulled[:2] > 0).all() and (pulled[2:] < 0).all()
        reference = torch.tensor(theirs).double()
        assert target.distance(logits, labels, reference, torch.ones(4).double()) > 1

    def test_nothing_moves_a_set_that_is_where_unseen_images_are_in_batches_of_any_size(self):
        """Ranks within a batch that push in one direction alone, as they once did, never come to rest."""
        losses = np.random.default_rng(0).exponential(1, 64) + 0.01
        logits, labels = logits_of(losses)
        target = unseen(losses[::-1].copy(), losses)
        target.objective(logits, labels)
        target.commit()  # the window holds what the objective itself finds, to the last bit
        odds, pushes = np.sort(odds_of(losses)), np.zeros(64)
        draw = np.random.default_rng(1)
        for size in (1, 8, 64) * 20:
            batch = draw.permutation(64)[:size]
            assert slope(target, logits[batch], labels[batch]).abs().max() < 1e-9
            ranked, levels = np.sort(batch), (np.arange(size) + 0.5) / size
            goals = np.quantile(odds, levels, method="inverted_cdf")
            pushes[ranked] += np.clip(goals - odds[ranked], 0, 1) / size
        assert pushes.min() >= 0 and pushes.sum() / 60 > 0.1

    @pytest.mark.parametrize(("shift", "width"), [(-4.0, 1.0), (4.0, 1.0), (0.0, 5.0), (0.0, 0.1)])
    def test_descent_by_batches_ends_at_the_unseen_distribution(self, shift, width):
        """From either side, whatever the batches: within the distance that chance explains."""
        draw = np.random.default_rng(0)
        reference = torch.from_numpy(np.log1p(np.exp(draw.normal(size=256))))
        odds = torch.from_numpy(shift + width * draw.normal(size=64))
        chance = chance_displacements(64, reference, torch.ones(256), 0)
        floor = F.huber_loss(chance, torch.zeros_like(chance)).item()
        logits, labels = logits_of(F.softplus(odds))
        target = unseen(reference, F.softplus(odds), floor=floor)
        assert target.pending
        for _ in range(150):
            for batch in torch.from_numpy(draw.permutation(64)).split(8):
                logits[batch] -= slope(target, logits[batch], labels[batch])
                target.commit()
            target.refresh(reference, F.cross_entropy(logits, labels, reduction="none"))
        assert not target.pending
        assert target.distance(logits, labels, reference, torch.ones(256)) < 1.5 * chance.abs().mean()

    def test_follows_what_it_was_refreshed_with(self):
        logits, labels = logits_of([1.0, 1.0])
        target = unseen([1.0])
        assert target.objective(logits, labels)[0].item() == pytest.approx(0)
        target.refresh(torch.tensor([1.5]).double(), torch.tensor([1.0]).double())
        assert target.objective(logits, labels)[0].item() == pytest.approx((odds_of(1.5) - odds_of(1.0)) ** 2 / 2)

    def test_no_gradient_flows_into_the_goals(self):
        logits, labels = logits_of([1.0, 0.2])
        logits.requires_grad_()
        target = unseen([2.0])
        target.objective(logits, labels)[0].backward()
        target.commit()
        assert not target.window.requires_grad


class TestChanceTarget:
    """Wrong labels, as likely as other labels are on unseen images."""

    @settings(max_examples=40)
    @given(st.integers(0, 10_000), st.integers(2, 5), st.integers(1, 9))
    def test_other_labels_are_those_of_the_forget_set_and_never_an_images_own(self, seed, classes, count):
        draw = torch.Generator().manual_seed(seed)
        logits = torch.randn(count, classes, generator=draw)
        labels, given = (torch.randint(classes, (size,), generator=draw) for size in (count, 3))
        assume((given[:, None] != labels).any())
        losses, weights = other_labels(logits, labels, given, seed)
        table = -logits.log_softmax(1)
        for image, (found, weight) in enumerate(zip(losses.view(-1, count).T, weights.view(-1, count).T, strict=True)):
            others = [label for label in given.tolist() if label != labels[image]]
            assert (weight == (1 if others else 0)).all()
            allowed = [pytest.approx(table[image, label].item(), rel=1e-5) for label in others]
            assert all(any(loss == value for value in allowed) for loss in found.tolist()) or not others

    def test_they_are_drawn_as_often_as_the_forget_set_has_them(self):
        """Of three in four labels the loss is 1, else 2; the images' own label is neither."""
        logits = torch.tensor([[0.0, -1.0, -2.0]]).expand(4000, 3)
        losses, weights = other_labels(logits, torch.zeros(4000, dtype=torch.int64), torch.tensor([1, 1, 2, 1]), 0)
        base = logits[0].logsumexp(0)
        assert weights.all() and (losses - base).mean().item() == pytest.approx(1.25, abs=0.02)

    def test_a_label_that_all_unseen_images_have_is_an_error(self):
        with pytest.raises(UserError, match="--forget_target chance: held-out images have"):
            other_labels(torch.zeros(3, 2), torch.ones(3, dtype=torch.int64), torch.ones(2, dtype=torch.int64), 0)

    def test_goals_and_distance_are_the_originals_whatever_the_model_gives_now(self):
        """As `unseen` with these references, which later measurements do not move."""
        unseen_losses, held_out = torch.tensor([3.0, 5.0, 8.0]).double(), torch.tensor([2.0, 6.0]).double()
        weights, even = torch.tensor([1.0, 0.0, 2.0]).double(), torch.ones(2).double()
        target = ChanceTarget({"unseen": (unseen_losses, weights), "validation": (held_out, even)})
        forget = torch.tensor([0.1, 4.0, 9.0]).double()
        logits, labels = logits_of(forget)
        other = unseen(unseen_losses, forget, weights, floor=0.0)
        target.refresh(torch.zeros(7), forget)
        target.refresh_beside(lambda see: pytest.fail("unseen images are not looked at again"))
        assert torch.equal(slope(target, logits, labels), slope(other, logits, labels))
        assert target.distance(logits, labels, None, None) == other.distance(logits, labels, held_out, even)

    def test_a_run_builds_it_from_the_originals_outputs(self):
        draw = torch.Generator().manual_seed(0)
        outputs = {
            name: (3 * torch.randn(200, 4, generator=draw), torch.randint(4, (200,), generator=draw))
            for name in ("unseen", "validation")
        }
        given = torch.randint(4, (50,), generator=draw)
        evaluator = SimpleNamespace(forget_images=50, original_outputs=outputs, forget_labels=given)
        target = own_target(SimpleNamespace(target="chance", evaluator=evaluator, seed=3))
        assert target.name == "chance" and target.floor > 0
        # A set that is labelled as unseen images are here is as far as chance explains, one with right labels far off.
        logits, labels = outputs["validation"]
        drawn = given[torch.randint(50, (200,), generator=draw)]
        other = drawn != labels
        assert target.distance(logits[other], drawn[other], None, None) < 2 * target.tolerance
        assert target.distance(logits, logits.argmax(1), None, None) > 4 * target.tolerance


class TestWindow:
    @settings(max_examples=50)
    @given(
        size=st.integers(1, 12), shares=st.lists(st.floats(0, 1), max_size=8), looks=st.integers(1, 2),
        cut=st.integers(0, 8),
    )  # fmt: skip
    def test_holds_the_latest_log_odds_of_as_many_images_as_there_are(self, size, shares, looks, cut):
        """Of SAM's two passes the first; also across a checkpoint, and after going back to an earlier state."""
        draw = np.random.default_rng(size)
        losses, latest = draw.exponential(1, size) + 0.01, collections.deque(maxlen=size)
        target = unseen([1.0, 2.0], losses)
        latest.extend(odds_of(losses))
        for number, share in enumerate(shares):
            if number == cut:
                other = unseen([7.0, 8.0], [1.0])
                other.load_state_dict(target.state_dict())
                for _ in range(2):
                    target.objective(*logits_of([9.0]))
                    target.commit()
                target = other
            batch = draw.exponential(1, 1 + round(2 * share * size)) + 0.01
            target.objective(*logits_of(batch))
            if looks == 2:
                target.objective(*logits_of(batch + 1))
            target.commit()
            latest.extend(odds_of(batch))
            np.testing.assert_allclose(np.sort(target.window.numpy()), np.sort(latest), atol=1e-9)
        assert torch.equal(target.reference, unseen([1.0, 2.0]).reference)


class TestChance:
    """What two samples of one distribution differ by: floor and tolerance of the target."""

    @settings(max_examples=10)
    @given(st.integers(0, 1000), st.integers(5, 40))
    def test_is_wasserstein_1_of_two_samples(self, seed, count):
        draw = np.random.default_rng(seed)
        losses, weights = draw.exponential(1, count) + 0.01, draw.integers(0, 3, count) + (np.arange(count) == 0)
        found = chance_displacements(count, torch.from_numpy(losses), torch.from_numpy(weights), seed)
        generator = torch.Generator().manual_seed(seed)
        for row in found:
            ours, theirs = (
                odds_of(losses)[torch.multinomial(torch.from_numpy(weights).double(), count, True, generator=generator)]
                for _ in range(2)
            )
            assert row.abs().mean().item() == pytest.approx(scipy.stats.wasserstein_distance(ours, theirs), abs=1e-8)

    def test_samples_of_other_sizes(self):
        draw = np.random.default_rng(0)
        losses = draw.exponential(1, 300) + 0.01
        found = chance_displacements(50, torch.from_numpy(losses), torch.ones(300), 0).abs().mean().item()
        sizes = 50, 300
        pairs = [[draw.choice(odds_of(losses), size) for size in sizes] for _ in range(200)]
        assert found == pytest.approx(np.mean([scipy.stats.wasserstein_distance(*pair) for pair in pairs]), rel=0.15)

    @staticmethod
    def target(losses, count) -> UnseenTarget:
        """As a run builds it, from unseen and validation images with these losses under the original."""
        parts = {name: torch.from_numpy(losses) for name in ("unseen", "validation")}
        ones = {name: torch.ones(len(losses)) for name in parts}
        evaluator = SimpleNamespace(forget_images=count, original_losses=parts, difficulty_weights=ones)
        return own_target(SimpleNamespace(target="unseen", evaluator=evaluator, seed=0))

    def test_a_set_like_unseen_images_is_pending_in_half_of_all_cases_and_a_shifted_one_always(self):
        draw, pending = np.random.default_rng(0), [0, 0]
        for _ in range(60):
            odds, other = draw.normal(size=200), draw.normal(size=100)
            target = self.target(np.log1p(np.exp(odds)), 100)
            for number, shift in enumerate((0.0, 1.0)):
                ours = torch.from_numpy(np.log1p(np.exp(other - shift)))
                target.refresh(torch.from_numpy(np.log1p(np.exp(odds))), ours)
                objective, _ = target.objective(*logits_of(ours))
                assert (objective > 0) == target.pending
                pending[number] += target.pending
        assert 15 <= pending[0] <= 45 and pending[1] == 60

    def test_several_looks_at_an_image_are_no_further_images(self):
        losses = torch.from_numpy(np.random.default_rng(0).exponential(1, 400) + 0.01)
        plain = chance_displacements(100, losses, torch.ones(400), 0).abs().mean()
        again = chance_displacements(100, losses.repeat(4), torch.ones(1600), 0, looks=4).abs().mean()
        assert again.item() == pytest.approx(plain.item(), rel=0.2)

    def test_more_images_are_told_apart_better(self):
        losses = np.random.default_rng(0).exponential(1, 1000) + 0.01
        few, many = self.target(losses, 20), self.target(losses, 1000)
        assert few.tolerance > 2 * many.tolerance > 2 * UnseenTarget.tolerance and few.floor > 4 * many.floor > 0
        # Small differences between large samples are noise of the training all the same.
        large = self.target(np.full(5000, 1.0), 1000)
        assert large.tolerance == UnseenTarget.tolerance and large.floor == 0
