"""Attacks by scores: against scikit-learn, SciPy, brute force; at chance for a model that never saw the forget set."""

import math

import numpy as np
import pytest
import scipy.optimize
import scipy.stats
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score, roc_curve
from sklearn.model_selection import StratifiedKFold, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch.nn import functional as F

from contrastive_discrimination.held_out import Fold
from evaluation.attacks.discriminator import discriminator_attack
from evaluation.attacks.intervals import (
    FEWEST_FOR_TENTH,
    auc_difference,
    auc_figures,
    auc_with_interval,
    joined_scores,
    share_interval,
    tpr_at_fpr,
    worst_tenth,
)
from evaluation.attacks.lira import OWN_VARIANCE_FROM, VARIANCE_FLOOR, logit_confidence, ulira_figures, ulira_scores
from evaluation.attacks.loss import FOLDS, attack_efficacy, loss_attack, loss_folds
from evaluation.attacks.rmia import OFFLINE_A, rmia_scores
from evaluation.report.tables import FIGURES

CLASSES = 5


def normal(count, seed, mean=0.0) -> torch.Tensor:
    return torch.randn(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + mean


def attacked(members, others, seed=0) -> dict[str, float | None]:
    return loss_attack(loss_folds(members, others, seed), seed)


class TestAucWithInterval:
    @pytest.mark.parametrize("sizes", [(40, 60), (1, 5), (300, 20)])
    def test_the_value_is_scikit_learns(self, sizes):
        # Rounded, so that some scores are tied.
        members, others = (
            normal(size, seed, shift).round(decimals=1)
            for size, seed, shift in zip(sizes, (0, 1), (0.5, 0), strict=True)
        )
        truth = np.repeat([1, 0], sizes)
        expected = roc_auc_score(truth, torch.cat([members, others]).numpy())
        found = auc_with_interval(members, others, resamples=200)
        assert found.value == pytest.approx(expected, abs=1e-6) and found.low <= found.value <= found.high

    def test_the_interval_is_a_brute_force_bootstraps(self):
        members, others = normal(60, 0, 0.7), normal(80, 1)
        found = auc_with_interval(members, others)
        rng = np.random.default_rng(5)
        drawn = [rng.choice(side.numpy(), (2000, len(side))) for side in (members, others)]
        above = drawn[0][:, :, None] - drawn[1][:, None, :]
        resampled = ((above > 0) + (above == 0) / 2).mean((1, 2))
        # Each end is a quantile of 2,000 resamples: its own noise is about 0.002.
        assert [found.low, found.high] == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.008)

    def test_the_seed_decides(self):
        members, others = normal(50, 0), normal(50, 1)
        assert auc_with_interval(members, others, 3) == auc_with_interval(members, others, 3)
        assert auc_with_interval(members, others, 3) != auc_with_interval(members, others, 4)

    def test_scores_that_are_no_numbers_have_none(self):
        found = auc_with_interval(torch.tensor([0.0, math.nan]), torch.tensor([1.0]))
        assert math.isnan(found.value)
        empty = dict.fromkeys(("x", "x_low", "x_high"))
        assert auc_figures("x", found) == empty == auc_figures("x", None)


class TestTprAtFpr:
    @pytest.mark.parametrize("rate", [0.01, 0.1, 0.3])
    @pytest.mark.parametrize("sizes", [(100, 100), (37, 250), (50, 5), (500, 700)])
    def test_is_the_highest_of_scikit_learns_curve(self, sizes, rate):
        for decimals in (1, 8):
            members, others = (
                normal(size, size + rank, 1.0 - rank).round(decimals=decimals) for rank, size in enumerate(sizes)
            )
            false, true, _ = roc_curve(
                np.repeat([1, 0], sizes), torch.cat([members, others]).numpy(), drop_intermediate=False
            )
            assert tpr_at_fpr(members, others, rate) == pytest.approx(100 * true[false <= rate + 1e-12].max())

    def test_separated_is_100_and_all_alike_is_0(self):
        assert tpr_at_fpr(torch.ones(5), torch.zeros(5)) == 100
        assert tpr_at_fpr(torch.ones(5), torch.ones(500)) == 0


class TestAucDifference:
    def test_is_a_brute_force_paired_bootstrap(self):
        members, others = normal(60, 0), normal(80, 1)
        first, second = (members + 1, others), (members + normal(60, 2), others + normal(80, 3))
        found = auc_difference(first, second)

        def area(pair):
            return scipy.stats.mannwhitneyu(*pair).statistic / 60 / 80

        assert found.value == pytest.approx(area(first) - area(second))
        rng, resampled = np.random.default_rng(5), []
        for _ in range(2000):
            rows = rng.integers(60, size=60), rng.integers(80, size=80)
            drawn = [[side.numpy()[row] for side, row in zip(pair, rows, strict=True)] for pair in (first, second)]
            resampled.append(area(drawn[0]) - area(drawn[1]))
        assert [found.low, found.high] == pytest.approx(np.quantile(resampled, [0.025, 0.975]), abs=0.012)

    def test_equal_scores_differ_by_nothing_and_no_numbers_have_none(self):
        scores = (normal(30, 0), normal(30, 1))
        found = auc_difference(scores, scores)
        assert (found.value, found.low, found.high) == (0, 0, 0)
        assert math.isnan(auc_difference(scores, (scores[0] * math.nan, scores[1])).value)


class TestWorstTenth:
    def test_is_the_share_by_brute_force(self):
        """The threshold is the highest score of each half's members, of ten; the other half is counted."""
        members, others = normal(20, 0, 0.5), normal(20, 1)
        first, second = torch.randperm(20, generator=torch.Generator().manual_seed(4)).tensor_split(2)
        hits = alarms = 0
        for chosen, measured in ((first, second), (second, first)):
            threshold = max(members[chosen].tolist())
            hits += sum(score >= threshold for score in members[measured].tolist())
            alarms += sum(score >= threshold for score in others[measured].tolist())
        found = worst_tenth(members, others, 4)
        assert hits + alarms and found.value == pytest.approx(100 * hits / (hits + alarms))
        assert (found.low, found.high) == share_interval(hits, hits + alarms)

    def test_finds_a_few_images_that_the_average_hides(self):
        members, others = normal(1000, 0), normal(1000, 1)
        members[:100] += 5
        assert auc_with_interval(members, others).value < 0.57
        found = worst_tenth(members, others)
        assert found.value > 90 and found.low > 85

    @pytest.mark.parametrize("decimals", [0, 8])
    def test_is_at_chance_where_members_are_as_others_tied_or_not(self, decimals):
        scores = [normal(200, seed).round(decimals=decimals) for seed in range(200)]
        found = [worst_tenth(*pair) for pair in zip(scores[::2], scores[1::2], strict=True)]
        assert np.mean([each.value for each in found]) == pytest.approx(50, abs=4 * 50 / math.sqrt(100 * 36))
        assert sum(each.low <= 50 <= each.high for each in found) > 88

    def test_scores_that_are_all_alike_are_at_chance_and_too_few_have_none(self):
        assert worst_tenth(torch.ones(50), torch.ones(50)).value == 50
        assert worst_tenth(*[torch.ones(FEWEST_FOR_TENTH - 1)] * 2) is None
        assert worst_tenth(torch.full((50,), math.nan), torch.ones(50)) is None

    def test_folds_are_joined_by_ranks(self):
        """Scales differ: the second fold's scores are a thousand times the first one's."""
        folds = [Fold((scale * torch.tensor([3.0, 1.0]), scale * torch.tensor([2.0, 1.0])), ()) for scale in (1, 1000)]
        members, others = joined_scores(folds)
        assert members.tolist() == [0.875, 0.25] * 2 and others.tolist() == [0.625, 0.25] * 2


class TestLossAttack:
    @pytest.mark.parametrize("shift", [0.5, 2.0])
    def test_figures_are_scikit_learns(self, shift):
        members, others = normal(120, 0).exp(), normal(120, 1, shift).exp()
        losses, member = torch.cat([members, others]).numpy()[:, None], np.repeat([1, 0], 120)
        attack = make_pipeline(StandardScaler(), LogisticRegression())
        folds = StratifiedKFold(FOLDS, shuffle=True, random_state=3)
        found = attacked(members, others, 3)
        for name, scoring, scale in (("mia_auc", "roc_auc", 1), ("mia_accuracy", "accuracy", 100)):
            expected = scale * cross_val_score(attack, losses, member, cv=folds, scoring=scoring).mean()
            assert found[name] == pytest.approx(expected, abs=1e-5)
        expected = []
        for learned, left_out in folds.split(losses, member):
            scores = attack.fit(losses[learned], member[learned]).decision_function(losses[left_out])
            false, true, _ = roc_curve(member[left_out], scores, drop_intermediate=False)
            expected.append(100 * true[false <= 0.01].max())
        assert found["mia_tpr"] == pytest.approx(np.mean(expected))
        assert found["mia_auc_low"] < found["mia_auc"] < found["mia_auc_high"]

    @pytest.mark.parametrize("shift", [-1.0, 1.0])
    def test_is_high_whichever_side_is_higher(self, shift):
        """A loss that was driven too far up reveals membership as one that is too low does."""
        members, others = normal(300, 0).exp(), normal(300, 1).exp()
        assert attacked(members + shift, others)["mia_auc"] > 0.7
        assert {attacked(members, others + 100 * shift, seed)["mia_auc"] for seed in (0, 1)} == {1}

    @pytest.mark.parametrize(
        "members", [torch.ones(FOLDS - 1), torch.ones(0), torch.tensor([math.nan] * 50), torch.tensor([math.inf] * 50)]
    )
    def test_too_few_or_non_finite_losses_have_none(self, members):
        for sides in ((members, torch.ones(50)), (torch.ones(50), members)):
            found = attacked(*sides)
            tenth = {"mia_worst_tenth", "mia_worst_tenth_low", "mia_worst_tenth_high"}
            assert set(found) == {"mia_auc", "mia_auc_low", "mia_auc_high", "mia_accuracy", "mia_tpr"} | tenth
            assert set(found.values()) == {None}
        assert attacked(normal(FOLDS, 0), normal(FOLDS, 1))["mia_auc"] is not None


class TestEfficacy:
    def losses(self, count, seed, scale) -> torch.Tensor:
        return scale * normal(count, seed).exp()

    def test_is_the_support_vector_machine_of_its_dual_problem(self):
        """Solved by SciPy: a kernel of width one on confidences, C = 3."""
        retain, test, forget = self.losses(14, 0, 0.3), self.losses(11, 1, 1.0), self.losses(300, 2, 0.6)
        known, side = torch.cat([retain, test]).neg().exp().numpy(), np.repeat([1.0, -1.0], [14, 11])

        def kernel(left, right):
            return np.exp(-((left[:, None] - right) ** 2))

        matrix = np.outer(side, side) * kernel(known, known)
        found = scipy.optimize.minimize(
            lambda a: a @ matrix @ a / 2 - a.sum(), np.full(25, 0.1), jac=lambda a: matrix @ a - 1,
            bounds=[(0, 3)] * 25, constraints={"type": "eq", "fun": lambda a: a @ side, "jac": lambda a: side},
            options={"maxiter": 2000, "ftol": 1e-12},
        )  # fmt: skip
        assert found.success
        alpha = found.x
        free = (alpha > 1e-4) & (alpha < 3 - 1e-4)
        offset = np.mean(side[free] - kernel(known[free], known) @ (alpha * side))
        outside = kernel(forget.neg().exp().numpy(), known) @ (alpha * side) + offset < 0
        assert 10 < 100 * outside.mean() < 90
        assert attack_efficacy(retain, test, forget) == pytest.approx(100 * outside.mean(), abs=1)

    def test_nothing_to_go_by_has_none(self):
        some = torch.ones(5)
        for place in range(3):
            for wrong in (torch.ones(0), torch.tensor([1.0, math.nan]), torch.tensor([math.inf])):
                parts = [some] * 3
                parts[place] = wrong
                assert attack_efficacy(*parts) is None


class TestRmia:
    def brute_force(self, targets, population, target_references, population_references) -> list[float]:
        def ratio(own, references):
            absent = sum(math.exp(value) for value in references) / len(references)
            return math.exp(own) / (0.5 * ((1 + OFFLINE_A) * absent + (1 - OFFLINE_A)))

        below = [ratio(own, population_references[:, z].tolist()) for z, own in enumerate(population.tolist())]
        return [
            sum(ratio(own, target_references[:, x].tolist()) > other for other in below) / len(below)
            for x, own in enumerate(targets.tolist())
        ]

    @pytest.mark.parametrize("references", [1, 3])
    def test_counts_what_the_definition_counts(self, references):
        def logs(*shape):
            return -torch.rand(*shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64) * 4

        parts = (logs(20), logs(13), logs(references, 20), logs(references, 13))
        assert rmia_scores(*parts).tolist() == pytest.approx(self.brute_force(*parts))

    def test_log_probabilities_that_underflow_are_kept_apart(self):
        population = -torch.arange(10.0) * 1000 - 500
        scores = rmia_scores(
            -torch.arange(10.0) * 1000, population, torch.full((1, 10), -2000.0), torch.full((1, 10), -2000.0)
        )
        assert scores.tolist() == pytest.approx([1 - rank / 10 for rank in range(10)])


class TestUlira:
    def test_logit_confidence_is_the_odds_and_finite_where_they_are_not(self):
        logits = torch.randn(30, CLASSES, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(30) % CLASSES
        p = logits.double().softmax(1)[torch.arange(30), labels]
        torch.testing.assert_close(logit_confidence(logits, labels), (p / (1 - p)).log())
        sure = logit_confidence(torch.tensor([[500.0, 0.0, 0.0]]), torch.tensor([0]))
        assert sure.item() == pytest.approx(500 - math.log(2))

    @pytest.mark.parametrize("count", [2 * OWN_VARIANCE_FROM, 4])
    def test_is_the_ratio_of_scipys_gaussians(self, count):
        generator = torch.Generator().manual_seed(1)
        shadows = torch.randn(count, 7, generator=generator, dtype=torch.float64) * 2
        judged = torch.randn(7, generator=generator, dtype=torch.float64)
        unlearned = torch.zeros(count, 7, dtype=torch.bool)
        for target in range(7):
            unlearned[torch.randperm(count, generator=generator)[: count // 2], target] = True
        found = ulira_scores(judged, shadows, unlearned)
        sides = [[shadows[mask[:, target], target].numpy() for target in range(7)] for mask in (unlearned, ~unlearned)]
        for target in range(7):
            logs = []
            for side in sides:
                variance = np.var(side[target], ddof=1)
                if count == 4:
                    variance = np.mean([np.var(values, ddof=1) for values in side])
                logs.append(scipy.stats.norm.logpdf(judged[target].item(), side[target].mean(), math.sqrt(variance)))
            assert found[target].item() == pytest.approx(logs[0] - logs[1])

    def test_shadows_that_all_agree_have_the_floor_for_a_variance(self):
        shadows, unlearned = torch.zeros(4, 3), torch.tensor([[True], [True], [False], [False]]).expand(4, 3)
        shadows = shadows + unlearned
        judged = torch.tensor([0.0, 0.5, 1.0])
        expected = ((judged - 0) ** 2 - (judged - 1) ** 2) / (2 * VARIANCE_FLOOR)
        torch.testing.assert_close(ulira_scores(judged, shadows, unlearned), expected.double())

    def test_figures_by_hand(self):
        scores = torch.tensor([2.0, 1.0, -1.0, 3.0, 0.0, -2.0, -3.0, 0.5], dtype=torch.float64)
        found = ulira_figures(scores, 4)
        assert found["ulira_accuracy"] == pytest.approx(100 * (3 / 4 + 3 / 4) / 2)
        assert found["ulira_tpr"] == 75
        assert found["ulira_auc"] == pytest.approx(roc_auc_score([1] * 4 + [0] * 4, scores.numpy()))

    def test_nothing_to_go_by_has_none(self):
        assert set(ulira_figures(torch.ones(3), 3).values()) == {None}
        assert set(ulira_figures(torch.tensor([1.0, math.nan]), 1).values()) == {None}


# The guard of every attack: a model, as it treats images in general, that was made without the forget set.


def labelled(count, seed, margin) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits `[count, K]` around `margin` for the label, and labels."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    return torch.randn(count, CLASSES, generator=generator) + margin * F.one_hot(labels, CLASSES), labels


def losses_of(count, seed, margin) -> torch.Tensor:
    return F.cross_entropy(*labelled(count, seed, margin), reduction="none")


def by_loss(name, margin, seed) -> tuple[float, float]:
    found = attacked(losses_of(COUNT, 2 * seed, margin), losses_of(COUNT, 2 * seed + 1, 1.5), seed)
    return found[name] / (100 if name == "mia_accuracy" else 1), found["mia_tpr"]


def by_efficacy(name, margin, seed) -> tuple[float, float]:
    """A half, and less for each forget image that is called a member while an image of no part is not."""
    retain, test, nowhere = (
        losses_of(COUNT, 9000 + 10 * seed + place, size) for place, size in enumerate((4, 1.5, 1.5))
    )
    forget = attack_efficacy(retain, test, losses_of(COUNT, 2 * seed, margin))
    return 0.5 + (attack_efficacy(retain, test, nowhere) - forget) / 100, 1.0


def by_rmia(name, margin, seed) -> tuple[float, float]:
    """Hard images are hard for all models: what they share is drawn once."""
    shared = [normal(COUNT, 10 * seed + place) for place in range(3)]

    def logs(place, seed, margin):
        logits = normal(COUNT, seed) / 3 + shared[place] + margin
        return F.logsigmoid(logits)

    members, others, population = (logs(place, 100 * seed + place, m) for place, m in enumerate((margin, 1.5, 1.5)))
    references = [
        torch.stack([logs(place, 7000 + 100 * seed + 10 * r + place, 1.5) for r in range(2)]) for place in range(3)
    ]
    scores = rmia_scores(torch.cat([members, others]), population, torch.cat(references[:2], 1), references[2])
    return auc_with_interval(*scores.split(COUNT), resamples=2).value, tpr_at_fpr(*scores.split(COUNT))


def by_shadows(name, margin, seed, count=8) -> tuple[float, float]:
    """Shadow models that were trained on an image and unlearned it are still as sure of it as the margin says."""
    shared = normal(2 * COUNT, seed)
    unlearned = torch.zeros(count, 2 * COUNT, dtype=torch.bool)
    for pair in range(count // 2):
        half = torch.randperm(2 * COUNT, generator=torch.Generator().manual_seed(seed + pair))[:COUNT]
        unlearned[2 * pair, half] = True
        unlearned[2 * pair + 1] = ~unlearned[2 * pair]
    shadows = torch.stack([normal(2 * COUNT, 300 * seed + 17 + i) for i in range(count)]) + shared + 2.5 * unlearned
    judged = normal(2 * COUNT, 300 * seed + 16) + shared
    judged[:COUNT] += margin - 1.5
    found = ulira_figures(ulira_scores(judged, shadows, unlearned), COUNT)
    return found[name] / (100 if name == "ulira_accuracy" else 1), found["ulira_tpr"]


def by_discriminator(name, margin, seed) -> tuple[float, float]:
    found = discriminator_attack(*labelled(COUNT, 2 * seed, margin), *labelled(COUNT, 2 * seed + 1, 1.5), seed)
    return found[name], 1.0


COUNT, SEEDS = 400, 8
ATTACKS = {
    "mia_auc": by_loss, "mia_accuracy": by_loss, "mia_efficacy": by_efficacy, "rmia_auc": by_rmia,
    "ulira_auc": by_shadows, "ulira_accuracy": by_shadows, "discriminator_auc": by_discriminator,
}  # fmt: skip


def test_every_attack_of_a_report_is_guarded():
    """True positive rates come with their attack's AUC; of the worst tenth, its scores are tested above."""
    attacks = {name for name in FIGURES if name.startswith(("mia_", "rmia_", "ulira_", "discriminator_"))}
    attacks = {name for name in attacks if not name.endswith("_worst_tenth")}
    assert attacks == set(ATTACKS) | {"mia_tpr", "rmia_tpr", "ulira_tpr"}


@pytest.mark.parametrize("name", ATTACKS)
class TestEveryAttack:
    def test_is_at_chance_for_a_model_that_never_saw_the_forget_set(self, name):
        """An AUC of n and n images has a standard error of 1 / sqrt(6 n), an accuracy one of 1 / sqrt(8 n)."""
        seeds = range(3 if name == "discriminator_auc" else SEEDS)
        found, positives = zip(*(ATTACKS[name](name, 1.5, seed) for seed in seeds), strict=True)
        # Wider where an attacker is fitted, which is a matter of chance, too; 3.5 standard errors.
        fitted = name in ("discriminator_auc", "mia_accuracy", "mia_efficacy")
        error = (1.5 if fitted else 1.1) / math.sqrt(6 * COUNT * len(seeds))
        assert np.mean(found) == pytest.approx(0.5, abs=3.5 * error), found
        # Four of 400 others may be called members: so many members are, give or take the threshold's own chance.
        assert np.mean(positives) < 1 + 4 * 0.8 / math.sqrt(len(seeds)), positives

    def test_is_above_chance_for_a_model_that_remembers_it(self, name):
        assert ATTACKS[name](name, 4.0, 0)[0] > 0.65
