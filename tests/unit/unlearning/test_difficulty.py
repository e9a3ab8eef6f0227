"""How hard the forget images are: ranks by counting, the beta distribution beside SciPy's, random sets left alone."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from unlearning.constrained.difficulty import Difficulty, rank_among
from unlearning.constrained.targets import weighted_quantiles

RANDOM = Difficulty()
# Few values, so that many tie.
losses = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=20)
SHAPES = [(1.0, 3.0), (3.0, 1.0), (4.0, 4.0), (0.5, 0.5), (0.4, 2.0)]


def evenly(count: int) -> torch.Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def ones(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.float64)


def drawn(first: float, second: float, count: int) -> torch.Tensor:
    """Losses whose ranks among `evenly` spread ones are those of a beta distribution, as even as can be."""
    return torch.from_numpy(stats.beta.ppf(evenly(count).numpy(), first, second))


class TestRanks:
    @given(losses, st.data())
    def test_are_what_counting_gives(self, sample, data):
        size = {"min_size": len(sample), "max_size": len(sample)}
        weights = data.draw(st.lists(st.integers(0, 3), **size).filter(any))
        asked = data.draw(losses)
        below, up_to = rank_among(torch.tensor(asked), torch.tensor(sample), torch.tensor(weights).float())
        pairs = list(zip(sample, weights, strict=True))
        for loss, low, high in zip(asked, below.tolist(), up_to.tolist(), strict=True):
            assert low == pytest.approx(sum(w for other, w in pairs if other < loss) / sum(weights))
            assert high == pytest.approx(sum(w for other, w in pairs if other <= loss) / sum(weights))


class TestShapes:
    @pytest.mark.parametrize(("first", "second"), SHAPES)
    def test_are_those_that_the_ranks_were_drawn_from(self, first, second):
        found = Difficulty.of(drawn(first, second, 2000), evenly(20_000), ones(20_000))
        assert (found.first, found.second) == pytest.approx((first, second), rel=0.05)

    @pytest.mark.filterwarnings("ignore:invalid value encountered")
    def test_are_scipys_by_the_method_of_moments(self):
        ranks = np.random.default_rng(0).beta(2, 5, 300)
        found = Difficulty.of(torch.from_numpy(ranks), evenly(100_000), ones(100_000))
        first, second, _, _ = stats.beta.fit(ranks, floc=0, fscale=1, method="MM")
        assert (found.first, found.second) == pytest.approx((first, second), rel=1e-2)

    @settings(max_examples=50)
    @given(st.integers(0, 2**16), st.sampled_from([torch.exp, torch.sqrt, lambda losses: 3 * losses + 1]))
    def test_depend_on_the_order_of_losses_alone(self, seed, rising):
        generator = torch.Generator().manual_seed(seed)
        retain = torch.rand(60, generator=generator, dtype=torch.float64)
        forget = torch.rand(30, generator=generator, dtype=torch.float64).square()
        assert Difficulty.of(rising(forget), rising(retain), ones(60)) == Difficulty.of(forget, retain, ones(60))

    def test_classes_that_weigh_nothing_do_not_count(self):
        retain = torch.cat([evenly(500), 7 + evenly(500)])
        weights = torch.cat([ones(500), 0 * ones(500)])
        forget = drawn(1, 4, 100)
        assert Difficulty.of(forget, retain, weights) == Difficulty.of(forget, evenly(500), ones(500)) != RANDOM

    def test_a_tie_may_stand_in_any_of_its_places(self):
        """A model that knows all images to the last bit says nothing of how hard they are."""
        assert Difficulty.of(torch.zeros(200), torch.zeros(1000), ones(1000)) == RANDOM
        # The lower half of the sample is tied, and the forget set in it: its ranks are even from 0 to 1/2.
        retain = torch.cat([torch.zeros(500), 1 + torch.rand(500, generator=torch.Generator().manual_seed(0))])
        found = Difficulty.of(torch.zeros(200), retain, ones(1000))
        expected = Difficulty.of(evenly(2000) / 2, evenly(100_000), ones(100_000))
        assert (found.first, found.second) == pytest.approx((expected.first, expected.second), rel=1e-2)

    @pytest.mark.parametrize(("level", "mean"), [(-1.0, 0.01), (2.0, 0.99)])
    def test_a_set_beyond_all_others_is_as_easy_or_as_hard_as_can_be(self, level, mean):
        found = Difficulty.of(torch.full((40,), level), evenly(500), ones(500))
        assert found.first / (found.first + found.second) == pytest.approx(mean)
        assert found.first + found.second == pytest.approx(50)


class TestRandomSets:
    @pytest.mark.parametrize(("forget", "retain"), [(14, 1000), (130, 1000), (500, 400)])
    def test_one_of_a_hundred_is_taken_for_another(self, forget, retain):
        generator = torch.Generator().manual_seed(0)
        sets, taken = 3000, 0
        for _ in range(sets):
            losses = torch.rand(forget + retain, generator=generator)
            taken += Difficulty.of(losses[:forget], losses[forget:], ones(retain)) != RANDOM
        assert 0.004 < taken / sets < 0.016

    def test_the_weights_stay_as_they_are(self):
        weights = torch.rand(20, generator=torch.Generator().manual_seed(0))
        assert RANDOM.weigh(evenly(20), weights) is weights

    def test_no_image_and_no_number_say_nothing(self):
        assert Difficulty.of(torch.zeros(0), evenly(10), ones(10)) == RANDOM
        assert Difficulty.of(evenly(50).square(), evenly(100), ones(100) * torch.nan) == RANDOM


class TestWeights:
    @pytest.mark.parametrize(("first", "second"), SHAPES)
    def test_are_the_density_at_each_images_rank(self, first, second):
        generator = torch.Generator().manual_seed(1)
        losses = torch.rand(40, generator=generator, dtype=torch.float64)
        weights = torch.randint(0, 3, (40,), generator=generator).double()
        found = Difficulty(first, second).weigh(losses, weights)
        order = losses.argsort().tolist()
        passed, expected = 0.0, torch.zeros(40, dtype=torch.float64)
        for place in order:
            share = weights[place].item() / weights.sum().item()
            if share:
                expected[place] = share * stats.beta.pdf(passed + share / 2, first, second)
            passed += share
        torch.testing.assert_close(found, expected / expected.sum())

    @pytest.mark.parametrize(("first", "second"), SHAPES)
    def test_unseen_images_are_then_as_hard_as_the_forget_set(self, first, second):
        """Losses of images that were learned and of those that were not differ by more than a factor; ranks do not."""
        learned, unseen = evenly(5000).square() / 100, evenly(5000).sqrt() * 3
        forget = drawn(first, second, 400)
        difficulty = Difficulty.of(forget.square() / 100, learned, ones(5000))
        levels = evenly(20)
        found = weighted_quantiles(unseen, difficulty.weigh(unseen, ones(5000)), levels)
        expected = 3 * np.sqrt(stats.beta.ppf(levels.numpy(), first, second))
        assert found.numpy() == pytest.approx(expected, abs=0.05)

    def test_an_image_of_no_weight_may_stand_at_an_end(self):
        weights = torch.tensor([0.0, 1, 1, 0])
        found = Difficulty(0.1, 5.0).weigh(torch.arange(4.0), weights)
        assert found.isfinite().all() and found[[0, 3]].tolist() == [0, 0] and found[1] > found[2] > 0
        assert found.dtype == weights.dtype and found.sum() == pytest.approx(1)
