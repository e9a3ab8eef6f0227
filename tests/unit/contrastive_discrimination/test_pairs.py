"""Pairs: shuffles without fixed points, class mates, random other classes, and outputs with a class set apart."""

import math
from collections import Counter

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from contrastive_discrimination.pairs import ClassMates, derangement, other_classes, set_apart, shuffled
from helper_functions.errors import UserError

# A smaller p-value is not chance: the seeds are fixed, and there are few draws.
IMPLAUSIBLE = 1e-4


def generator(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def cycle_length(order: torch.Tensor) -> int:
    """Steps from 0 back to 0."""
    place, steps = order[0].item(), 1
    while place != 0:
        place, steps = order[place].item(), steps + 1
    return steps


class TestDerangement:
    @settings(max_examples=60)
    @given(st.integers(2, 300), st.integers(0, 2**32 - 1))
    def test_is_one_cycle_through_all(self, count, seed):
        order = derangement(count, generator(seed))
        assert order.dtype == torch.int64 and order.shape == (count,)
        assert order.sort().values.tolist() == list(range(count))
        assert (order != torch.arange(count)).all()
        assert cycle_length(order) == count
        assert torch.equal(order, derangement(count, generator(seed)))

    def test_each_cycle_is_as_likely(self):
        source = generator()
        counts = Counter(tuple(derangement(4, source).tolist()) for _ in range(1200))
        assert len(counts) == math.factorial(3)
        assert chisquare(list(counts.values())).pvalue > IMPLAUSIBLE

    def test_advances_its_generator_and_no_other(self):
        torch.manual_seed(0)
        before, source = torch.get_rng_state(), generator()
        assert not torch.equal(derangement(100, source), derangement(100, source))
        assert torch.equal(torch.get_rng_state(), before)


class TestPairsOfOutputs:
    # The first column says whose output it is, the second of which image.
    STUDENT = torch.stack([torch.zeros(50), torch.arange(50.0)], dim=1)
    TEACHER = torch.stack([torch.ones(50), torch.arange(50.0)], dim=1)

    def test_different_are_never_of_one_image(self):
        first, second = shuffled(self.STUDENT, self.TEACHER, generator())
        assert first is self.STUDENT and (second[:, 0] == 1).all()
        assert (first[:, 1] != second[:, 1]).all()
        assert set(second[:, 1].tolist()) == set(range(50)), "each of the teacher's outputs is used once"

    def test_gradients_reach_the_images_that_they_belong_to(self):
        student, teacher = torch.randn(2, 6, 3, generator=generator()).requires_grad_().unbind()
        first, second = shuffled(student, teacher, generator(1))
        order = derangement(6, generator(1))
        (gradient,) = torch.autograd.grad((second * torch.arange(6.0)[:, None]).sum(), teacher)
        torch.testing.assert_close(gradient[order], torch.arange(6.0)[:, None].expand(6, 3))
        assert first is student


class TestClassMates:
    @settings(max_examples=60)
    @given(st.lists(st.integers(2, 6), min_size=1, max_size=6), st.integers(0, 2**32 - 1))
    def test_are_two_different_images_of_the_wanted_class(self, counts, seed):
        labels = torch.repeat_interleave(torch.tensor(counts))
        labels = labels[torch.randperm(len(labels), generator=generator(seed))]
        wanted = torch.randint(len(counts), (200,), generator=generator(seed + 1))
        first, second = ClassMates(labels, len(counts)).draw(wanted, generator(seed))
        assert first.dtype == second.dtype == torch.int64 and first.shape == second.shape == wanted.shape
        assert torch.equal(labels[first], wanted) and torch.equal(labels[second], wanted)
        assert (first != second).all()

    def test_each_ordered_pair_of_a_class_is_as_likely(self):
        labels = torch.tensor([1, 0, 1, 1, 2, 0, 1])
        wanted = torch.tensor([0, 1]).repeat(6000)
        pairs = torch.stack(ClassMates(labels, 3).draw(wanted, generator()), dim=1)
        for label, ordered_pairs in ((0, 2 * 1), (1, 4 * 3)):
            counts = Counter(map(tuple, pairs[wanted == label].tolist()))
            assert len(counts) == ordered_pairs
            assert chisquare(list(counts.values())).pvalue > IMPLAUSIBLE

    def test_pairs_are_drawn_in_proportion_to_weights_without_replacement(self):
        labels, weights = torch.tensor([1, 0, 1, 0, 1, 0]), torch.tensor([0.1, 0.0, 0.3, 0.0, 0.2, 0.0])
        pairs = torch.stack(ClassMates(labels, 2, weights).draw(torch.ones(9000).long(), generator()), dim=1)
        counts = Counter(map(tuple, pairs.tolist()))
        shares = {0: 1 / 6, 2: 1 / 2, 4: 1 / 3}
        expected = {(i, j): shares[i] * shares[j] / (1 - shares[i]) for i in shares for j in shares if i != j}
        assert counts.keys() == expected.keys()
        found = chisquare([counts[pair] for pair in expected], [9000 * share for share in expected.values()])
        assert found.pvalue > IMPLAUSIBLE

    @pytest.mark.parametrize(("weights", "drawn"), [([0, 0, 0, 0.1], {1, 2, 3}), ([0, 0, 0.2, 0.1], {2, 3})])
    def test_images_without_a_weight_are_drawn_where_a_pair_needs_them(self, weights, drawn):
        mates = ClassMates(torch.tensor([1, 0, 0, 0]), 2, torch.tensor(weights))
        first, second = mates.draw(torch.zeros(500).long(), generator())
        assert set(first.tolist()) | set(second.tolist()) == drawn and (first != second).all()
        assert set(first.tolist()) == {image for image in drawn if weights[image] > 0}

    @pytest.mark.parametrize("weights", [None, torch.arange(60.0)])
    def test_draws_follow_the_generator_alone(self, weights):
        mates, wanted = ClassMates(torch.arange(60) % 3, 3, weights), torch.arange(90) % 3
        torch.manual_seed(0)
        before, source = torch.get_rng_state(), generator(3)
        found, later = mates.draw(wanted, source), mates.draw(wanted, source)
        again = mates.draw(wanted, generator(3))
        assert all(torch.equal(one, other) for one, other in zip(found, again, strict=True))
        assert not torch.equal(found[0], later[0]) and torch.equal(torch.get_rng_state(), before)

    def test_none_wanted_gives_none(self):
        first, second = ClassMates(torch.tensor([0, 0]), 1).draw(torch.zeros(0, dtype=torch.int64), generator())
        assert len(first) == len(second) == 0

    @pytest.mark.parametrize(("wanted", "label", "count"), [([0, 1, 2], 1, 1), ([0, 3, 2], 3, 0), ([4, 3, 1], 1, 1)])
    def test_the_first_class_with_too_few_images_is_named_with_its_count(self, wanted, label, count):
        mates = ClassMates(torch.tensor([2, 0, 2, 1, 0]), 5)
        with pytest.raises(UserError, match=f"class {label} of the forget set has {count} reference images"):
            mates.require(torch.tensor(wanted), "reference")

    def test_classes_that_nobody_wants_may_be_short(self):
        mates = ClassMates(torch.tensor([2, 0, 2, 1, 0]), 5)
        for wanted in ([0, 2, 2, 0], [2], []):
            mates.require(torch.tensor(wanted, dtype=torch.int64), "reference")


class TestOtherClasses:
    @settings(max_examples=60)
    @given(st.integers(2, 12), st.data(), st.integers(0, 2**32 - 1))
    def test_are_as_many_as_asked_and_never_the_label(self, num_classes, data, seed):
        count = data.draw(st.integers(1, num_classes - 1))
        labels = torch.randint(num_classes, (40,), generator=generator(seed))
        chosen = other_classes(labels, num_classes, count, generator(seed))
        assert chosen.dtype == torch.bool and chosen.shape == (40, num_classes)
        assert (chosen.sum(1) == count).all()
        assert not chosen.gather(1, labels[:, None]).any()
        assert torch.equal(chosen, other_classes(labels, num_classes, count, generator(seed)))

    @pytest.mark.parametrize("count", [1, 2, 3])
    def test_each_set_of_others_is_as_likely(self, count):
        labels = torch.full((4000,), 2)
        chosen = other_classes(labels, 5, count, generator(1))
        counts = Counter(tuple(row.nonzero().flatten().tolist()) for row in chosen)
        assert len(counts) == math.comb(4, count)
        assert chisquare(list(counts.values())).pvalue > IMPLAUSIBLE


def by_hand(logits, classes, lowest) -> list[list[float]]:
    """`set_apart` of lists of numbers, a row at a time."""
    rows = []
    for row, apart in zip(logits, classes, strict=True):
        total = sum(math.exp(value) for value in row)
        probabilities = [math.exp(value) / total for value in row]
        inside = sum(value for value, flag in zip(probabilities, apart, strict=True) if flag)
        outside = sorted((value for value, flag in zip(probabilities, apart, strict=True) if not flag), reverse=True)
        logs = [math.log(value) for value in (inside, *outside)]
        rows.append([max(value, lowest) for value in logs] + [lowest] * (len(row) - len(logs)))
    return rows


@st.composite
def rows_and_classes(draw) -> tuple[torch.Tensor, torch.Tensor]:
    """Float64 logits `[B, K]`, and classes `[B, K]` of which each row has from 1 to K − 1."""
    num_classes, size = draw(st.integers(2, 7)), draw(st.integers(1, 5))
    logits = draw(st.lists(st.lists(st.floats(-20, 20), min_size=num_classes, max_size=num_classes),
                           min_size=size, max_size=size))  # fmt: skip
    order = draw(st.permutations(range(num_classes)))
    counts = draw(st.lists(st.integers(1, num_classes - 1), min_size=size, max_size=size))
    classes = torch.zeros(size, num_classes, dtype=torch.bool)
    for row, count in zip(classes, counts, strict=True):
        row[list(order[:count])] = True
    return torch.tensor(logits, dtype=torch.float64), classes


class TestSetApart:
    @settings(max_examples=100)
    @given(rows_and_classes(), st.sampled_from([None, -1.0, -6.0, math.log(1e-6), -60.0]))
    def test_against_a_row_at_a_time(self, drawn, lowest):
        logits, classes = drawn
        found = set_apart(logits, classes, lowest)
        floor = -2 * math.log(logits.shape[1]) if lowest is None else lowest
        assert found.shape == logits.shape and (found >= floor).all()
        expected = torch.tensor(by_hand(logits.tolist(), classes.tolist(), floor), dtype=torch.float64)
        torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)

    @settings(max_examples=60)
    @given(rows_and_classes(), st.randoms(use_true_random=False))
    def test_does_not_know_what_the_classes_are_called(self, drawn, random):
        logits, classes = drawn
        order = list(range(logits.shape[1]))
        random.shuffle(order)
        found = set_apart(logits[:, order], classes[:, order], -60.0)
        torch.testing.assert_close(found, set_apart(logits, classes, -60.0), rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("num_classes", [2, 10, 100])
    def test_the_floor_is_by_default_the_square_of_a_uniform_guess(self, num_classes):
        logits = torch.zeros(1, num_classes)
        logits[0, 0] = 1000
        label = torch.zeros(1, num_classes, dtype=torch.bool)
        label[0, 1] = True
        found = set_apart(logits, label)[0]
        assert found[0].exp().item() == pytest.approx(num_classes**-2) and found.isfinite().all()
        assert found[1] == 0 and (found[2:] == found[0]).all()

    @pytest.mark.parametrize("count", [1, 3])
    def test_gradient_against_finite_differences(self, count):
        logits = 2 * torch.randn(6, 5, generator=generator(2), dtype=torch.float64)
        classes = other_classes(torch.arange(6) % 5, 5, count, generator(3))
        assert torch.autograd.gradcheck(lambda x: set_apart(x, classes, -50.0), logits.requires_grad_())

    def test_nothing_is_pushed_beyond_the_floor(self):
        """The class at the floor has no gradient of its own; what is above has one, and all are finite."""
        logits = torch.tensor([[0.0, 0.0, -50.0]], dtype=torch.float64, requires_grad=True)
        label = torch.tensor([[False, False, True]])
        (gradient,) = torch.autograd.grad(set_apart(logits, label)[0, 0], logits, retain_graph=True)
        assert (gradient == 0).all()
        (gradient,) = torch.autograd.grad(set_apart(logits, label).sum(), logits)
        assert gradient.isfinite().all() and torch.equal(gradient[0, :2], torch.zeros(2, dtype=torch.float64))
        (gradient,) = torch.autograd.grad(set_apart(logits, label)[0, 1], logits)
        assert gradient[0, :2].abs().sum() == pytest.approx(1)
