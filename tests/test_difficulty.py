"""How hard the forget images are: ranks by counting, the beta distribution beside SciPy's, random sets left alone."""

import math

import numpy as np
import pytest
import torch
from conftest import SMALL
from hypothesis import given, settings
from hypothesis import strategies as st
from processes import fork
from scipy import stats
from torch.nn import functional as F

import train
from helper_functions.inference import predict
from unlearning.difficulty import Difficulty, rank_among
from unlearning.targets import weighted_quantiles
from unlearning.workspace import Workspace

RANDOM = Difficulty()
# Few values, so that many tie.
losses = st.lists(st.integers(0, 6).map(float), min_size=1, max_size=20)
SHAPES = [(1.0, 3.0), (3.0, 1.0), (4.0, 4.0), (0.5, 0.5), (0.4, 2.0)]


def evenly(count: int) -> torch.Tensor:
    return (torch.arange(count, dtype=torch.float64) + 0.5) / count


def ones(count: int) -> torch.Tensor:
    return torch.ones(count, dtype=torch.float64)


def of(forget: torch.Tensor, retain: torch.Tensor, retain_images: int = 10**9) -> Difficulty:
    """Of images of one class. Among so many retain images the forget set itself does not count."""
    pair = [(losses, torch.zeros(len(losses), dtype=torch.int64)) for losses in (forget, retain)]
    return Difficulty.of(*pair, retain_images)


def drawn(first: float, second: float, count: int) -> torch.Tensor:
    """Losses whose ranks among `evenly` spread ones are those of a beta distribution, as even as can be."""
    return torch.from_numpy(stats.beta.ppf(evenly(count).numpy(), first, second))


class TestRanks:
    @settings(deadline=None)
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
        found = of(drawn(first, second, 2000), evenly(20_000))
        assert (found.first, found.second) == pytest.approx((first, second), rel=0.05)

    @pytest.mark.filterwarnings("ignore:invalid value encountered")
    def test_are_scipys_by_the_method_of_moments(self):
        ranks = np.random.default_rng(0).beta(2, 5, 300)
        found = of(torch.from_numpy(ranks), evenly(100_000))
        first, second, _, _ = stats.beta.fit(ranks, floc=0, fscale=1, method="MM")
        assert (found.first, found.second) == pytest.approx((first, second), rel=1e-2)

    @pytest.mark.parametrize("share", [0.05, 0.1, 0.3])
    @pytest.mark.parametrize("sample", [1.0, 0.2])
    def test_ranks_are_those_among_all_training_images(self, share, sample):
        """However large a part of the hardest third is forgotten: the ones that are left are easier than all were."""
        generator = torch.Generator().manual_seed(0)
        losses = evenly(9000)
        hardest = 6000 + torch.randperm(3000, generator=generator)[: int(share * 9000)]
        rest = torch.ones(9000, dtype=torch.bool)
        rest[hardest] = False
        retain = losses[rest]
        seen = retain[torch.randperm(len(retain), generator=generator)[: int(sample * len(retain))]]
        found = of(losses[hardest], seen, len(retain))
        # Of a uniform variable from 2/3 to 1.
        assert stats.beta.mean(found.first, found.second) == pytest.approx(5 / 6, abs=0.01)
        assert stats.beta.std(found.first, found.second) == pytest.approx(1 / (3 * math.sqrt(12)), abs=0.005)

    @settings(deadline=None, max_examples=50)
    @given(st.integers(0, 2**16), st.sampled_from([torch.exp, torch.sqrt, lambda losses: 3 * losses + 1]))
    def test_depend_on_the_order_of_losses_alone(self, seed, rising):
        generator = torch.Generator().manual_seed(seed)
        retain = torch.rand(60, generator=generator, dtype=torch.float64)
        forget = torch.rand(30, generator=generator, dtype=torch.float64).square()
        assert of(rising(forget), rising(retain), 60) == of(forget, retain, 60)

    def test_other_classes_do_not_count(self):
        """A class of harder images, of which none is forgotten, and one of which all are."""
        forget, retain = drawn(1, 4, 100), evenly(500)
        plain = of(forget, retain, 500)
        labels = torch.cat([torch.zeros(500), torch.ones(500)]).long()
        more = torch.cat([retain, 7 + retain])
        assert Difficulty.of((forget, torch.zeros(100).long()), (more, labels), 1000) == plain != RANDOM
        assert Difficulty.of((forget, torch.full((100,), 2)), (more, labels), 1000) == RANDOM

    def test_a_tie_may_stand_in_any_of_its_places(self):
        """A model that knows all images to the last bit says nothing of how hard they are."""
        assert of(torch.zeros(200), torch.zeros(1000)) == RANDOM
        # The lower half of the sample is tied, and the forget set in it: its ranks are even from 0 to 1/2.
        retain = torch.cat([torch.zeros(500), 1 + torch.rand(500, generator=torch.Generator().manual_seed(0))])
        found, expected = of(torch.zeros(200), retain), of(evenly(2000) / 2, evenly(100_000))
        assert (found.first, found.second) == pytest.approx((expected.first, expected.second), rel=1e-2)

    @pytest.mark.parametrize(("level", "mean"), [(-1.0, 0.01), (2.0, 0.99)])
    def test_a_set_beyond_all_others_is_as_easy_or_as_hard_as_can_be(self, level, mean):
        found = of(torch.full((40,), level), evenly(500))
        assert found.first / (found.first + found.second) == pytest.approx(mean)
        assert found.first + found.second == pytest.approx(50)


class TestRandomSets:
    @pytest.mark.parametrize("apart", [0.0, 1 / 3])
    @pytest.mark.parametrize(
        ("forget", "retain", "images"), [(14, 1000, 1000), (130, 1000, 1000), (500, 400, 400), (500, 500, 2000)]
    )
    def test_one_of_a_hundred_is_taken_for_another(self, forget, retain, images, apart):
        """Of three classes; where these differ, ranks vary less than chance would have it, and fewer sets are."""
        generator = torch.Generator().manual_seed(0)
        sets, taken = 2000, 0
        for _ in range(sets):
            labels = torch.randint(3, (forget + retain,), generator=generator)
            losses = torch.rand(forget + retain, generator=generator) + apart * labels
            parts = [(losses[part], labels[part]) for part in (slice(forget), slice(forget, None))]
            taken += Difficulty.of(*parts, images) != RANDOM
        assert (0.0 if apart else 0.004) <= taken / sets < 0.016

    def test_the_weights_stay_as_they_are(self):
        weights = torch.rand(20, generator=torch.Generator().manual_seed(0))
        assert RANDOM.weigh(evenly(20), weights) is weights

    def test_no_image_says_nothing(self):
        assert of(torch.zeros(0), evenly(10)) == RANDOM


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
        difficulty = of(forget.square() / 100, learned)
        levels = evenly(20)
        found = weighted_quantiles(unseen, difficulty.weigh(unseen, ones(5000)), levels)
        expected = 3 * np.sqrt(stats.beta.ppf(levels.numpy(), first, second))
        assert found.numpy() == pytest.approx(expected, abs=0.05)

    def test_an_image_of_no_weight_may_stand_at_an_end(self):
        weights = torch.tensor([0.0, 1, 1, 0])
        found = Difficulty(0.1, 5.0).weigh(torch.arange(4.0), weights)
        assert found.isfinite().all() and found[[0, 3]].tolist() == [0, 0] and found[1] > found[2] > 0
        assert found.dtype == weights.dtype and found.sum() == pytest.approx(1)


@pytest.mark.parametrize("part", ["easy", "even", "hard"])
def test_a_run_says_so_where_its_forget_set_is_no_random_one(part, original, tmp_path):
    flags = [*map(str, SMALL), "--splits", str(original.folder / "splits.npz")]
    workspace = Workspace(train.get_parser().parse(flags))
    images = workspace.splits.train
    model = workspace.model(str(original.folder / "model.pt"))
    logits, labels = predict(model, workspace.sets.evaluation(images), workspace.precision)
    order = F.cross_entropy(logits, labels, reduction="none").argsort(descending=part == "hard")
    chosen = order[:: len(order) // 100 + 1] if part == "even" else order[:100]
    (tmp_path / "list.txt").write_text("\n".join(map(str, images[chosen].tolist())) + "\n")
    done = fork(
        "train_constrained_unlearning.py", *SMALL, "--weight_path", original.folder / "model.pt", "--num_epochs", 1,
        "--forget", f"file:{tmp_path / 'list.txt'}", "--judge", "validation", "--figures", "False",
        "--log_dir", tmp_path / "runs",
    )  # fmt: skip
    assert done.status in (0, 3) and done.err == ""
    said = [line for line in done.out.splitlines() if line.startswith("ranks    ")]
    if part == "even":
        assert said == []
    else:
        (line,) = said
        mean = float(line.partition("losses: ")[2].split()[0])
        assert mean < 0.4 if part == "easy" else mean > 0.6
