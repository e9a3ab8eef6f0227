"""The protocol: which images, labels and mode each figure reads, row by row of the table of metrics.

Models here are tables from images to logits, so that the outputs on one part can be changed and nothing else: a figure
reads a part if, and only if, it changes with it.
"""

import dataclasses
import functools
import math
from fnmatch import fnmatch

import pytest
import torch
from helpers.method_cases import CPU
from helpers.numbered_images import Table, numbered_sets
from torch.nn import functional as F

from contrastive_discrimination.held_out import Auc, auc
from data.datasets import by_superclass
from data.image_sets import ImageSets
from data.splits import make_splits
from evaluation import judge as judge_module
from evaluation.attacks import residual
from evaluation.attacks.intervals import auc_figures
from evaluation.attacks.lira import Shadows, against_shadows, shadow_targets
from evaluation.attacks.matching import class_matched
from evaluation.gaps import GAP_FIGURES, avg_gap, signed_gaps
from evaluation.judge import judge, judge_all
from evaluation.metrics import activation_distance, js_divergence

CLASSES, SIZE = 5, 1000
PARTS = ("retain", "forget", "unseen", "validation", "test")
# The table: what each figure reads.
READS = {
    "retain_mia_auc*": {"retain", "test"},
    "retain_exposure*": {"retain", "test"},
    "retain_*": {"retain"},
    "forget_*": {"forget"},
    "unseen_*": {"unseen"},
    "validation_*": {"validation"},
    "test_*": {"test"},
    "mia_efficacy": {"forget", "retain", "test"},
    "mia_*": {"forget", "test"},
    "discriminator_auc*": {"forget", "test"},
    "rmia_*": {"forget", "test", "validation"},
    "js_divergence": {"forget"},
    "activation_distance": {"forget"},
    "residual_knowledge": {"forget"},
    "ulira_*": {"forget", "test"},
}
COMPARED = ("rmia_*", "js_*", "activation_*", "residual_*")
FINAL = ("test_*", "mia_*", "retain_mia_*", "retain_exposure*", "discriminator_*", "ulira_*", *COMPARED)
# Figures of a threshold, which may stay as they are while the scores change.
COARSE = ("*_tpr", "*_accuracy", "mia_efficacy", "*_worst_tenth*", "*_top1*", "*_top5", "residual_knowledge")


def read_by(figure: str) -> set[str]:
    return next(parts for pattern, parts in READS.items() if fnmatch(figure, pattern))


def is_any(figure: str, patterns) -> bool:
    return any(fnmatch(figure, pattern) for pattern in patterns)


def image_sets(forget: str | None, size=SIZE, superclasses=None) -> ImageSets:
    return numbered_sets(forget, size, CLASSES, superclasses=superclasses)


def logits_of(sets: ImageSets, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(len(sets.dataset.labels), CLASSES, generator=generator)
    return noise + 1.5 * F.one_hot(sets.dataset.labels, CLASSES)


def judged(sets: ImageSets, tables: dict[str, torch.Tensor]) -> dict[str, dict]:
    """Figures of every kind that one pass gives; U-LiRA by four shadow models whose outputs are noise."""
    judgements = judge_all({name: Table(logits) for name, logits in tables.items()}, sets, CPU)
    targets = shadow_targets(sets)
    count = len(targets.indices)
    confidences = torch.randn(4, count, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    unlearned = (torch.arange(4)[:, None] + torch.arange(count)) % 2 == 0
    shadows = Shadows(targets, confidences, unlearned)
    return {
        name: judgement.figures | against_shadows(sets, shadows, judgement.logits)
        for name, judgement in judgements.items()
    }


def changed(before: dict, after: dict) -> set[str]:
    return {name for name in before if before[name] != after[name]}


@pytest.fixture(autouse=True)
def quick_discriminator(monkeypatch):
    """In the discriminator's place, whose fitting takes most of the time, a sum over all that it is given.

    What changes it is what a discriminator would read.
    """

    def checksum(forget, forget_labels, test, test_labels, seed):
        weights = torch.arange(1.0, 1 + CLASSES)
        parts = [
            (logits @ weights * (labels + 1)).sum().item()
            for logits, labels in ((forget, forget_labels), (test, test_labels))
        ]
        return auc_figures("discriminator_auc", Auc(*(sum(parts) / 1e4 + shift for shift in (0, -1, 1))))

    monkeypatch.setattr(residual, "NOISE", 0.0)  # a noisy image would have another number
    monkeypatch.setattr(judge_module, "discriminator_attack", checksum)


@pytest.fixture(scope="module")
def sets():
    return image_sets("random:0.2")


@pytest.fixture(scope="module")
def tables(sets):
    return tables_of(sets)


def tables_of(sets: ImageSets) -> dict[str, torch.Tensor]:
    return {name: logits_of(sets, seed) for seed, name in enumerate(("original", "unlearned", "retrained"))}


@functools.cache
def judged_once() -> dict[str, dict]:
    sets = image_sets("random:0.2")
    return judged(sets, tables_of(sets))


@pytest.fixture
def before():
    """Figures of the three models; judged in the first test that asks, when the discriminator is exchanged."""
    return judged_once()


class TestImages:
    @pytest.mark.parametrize("model", ["unlearned", "retrained"])
    @pytest.mark.parametrize("part", PARTS)
    def test_a_figure_changes_with_the_parts_it_reads_and_with_no_other(self, part, model, sets, tables, before):
        """Other outputs of the unlearned model change its own figures; a retrained model's only its comparisons."""
        indices = getattr(sets.splits, part)
        other = tables[model].clone()
        other[indices] = logits_of(sets, 9)[indices]
        after = judged(sets, {**tables, model: other})
        found = changed(before["unlearned"], after["unlearned"])
        for name in before["unlearned"]:
            reads = part in read_by(name) and (model == "unlearned" or is_any(name, COMPARED))
            if not reads:
                assert name not in found, name
            elif not is_any(name, COARSE):
                assert name in found, name
        assert model == "retrained" or not changed(before["retrained"], after["retrained"]), "another model's figures"

    def test_every_image_once_in_eval_mode_and_not_augmented(self, sets, tables):
        models = {name: Table(logits).train() for name, logits in tables.items()}
        judge_all(models, sets, CPU)
        every = torch.cat([getattr(sets.splits, part) for part in PARTS]).sort().values.tolist()
        again = residual.DRAWS * sets.splits.forget.tolist()
        for model in models.values():
            # An image that was shifted, turned or blanked would have another number.
            assert sorted(model.asked) == sorted(every + again) and model.modes == {False} and model.training

    def test_attacks_read_test_images_of_the_forgotten_classes_alone(self):
        """Test images beyond as many of each class as the forget set has are read by test accuracy alone."""
        sets = image_sets("class:b")
        splits = sets.splits
        tables = {"unlearned": logits_of(sets, 1), "retrained": logits_of(sets, 2)}
        _, matched = class_matched(sets.dataset.labels, splits.forget, splits.test, splits.seed)
        rest = splits.test[~torch.isin(splits.test, matched)]
        assert len(matched) and len(rest) and set(sets.dataset.labels[matched].tolist()) == {1}
        other = tables["unlearned"].clone()
        other[rest] = logits_of(sets, 9)[rest]
        found = changed(
            *(judged(sets, {**tables, "unlearned": logits})["unlearned"] for logits in (tables["unlearned"], other))
        )
        pairs = ("mia_auc*", "mia_accuracy", "mia_tpr", "mia_worst*", "rmia_*", "ulira_*", "disc*")
        assert found and not is_any_of(found, pairs)

    def test_unseen_and_validation_images_are_no_targets(self, sets):
        """Forgetting was steered to the unseen ones, and chosen by the validation ones."""
        forget, test = class_matched(sets.dataset.labels, sets.splits.forget, sets.splits.test, 0)
        assert torch.isin(forget, sets.splits.forget).all() and torch.isin(test, sets.splits.test).all()


def is_any_of(figures: set[str], patterns) -> bool:
    return any(is_any(figure, patterns) for figure in figures)


class TestLabels:
    def test_given_ones_but_for_what_is_called_true(self):
        """Given labels of the forget set are changed, outputs are not: all that reads them changes."""
        sets = image_sets("mislabelled:0.2")
        splits, true = sets.splits, sets.dataset.labels
        again = splits.labels.clone()
        shift = 1 + torch.arange(len(splits.forget)) % (CLASSES - 1)
        again[splits.forget] = (true[splits.forget] + shift) % CLASSES
        relabelled = ImageSets(sets.dataset, dataclasses.replace(splits, labels=again), None, torch.device("cpu"), 0)
        tables = {"unlearned": logits_of(sets, 1), "retrained": logits_of(sets, 2)}
        found = changed(*(judged(data, tables)["unlearned"] for data in (sets, relabelled)))
        given = {"forget_top1", "forget_loss", "mia_auc", "rmia_auc", "ulira_auc", "mia_efficacy"}
        assert found >= given
        assert not is_any_of(found, ("forget_true_*", "discriminator*", "js_*", "activation*", "test_*", "retain_*"))
        for part in ("validation", "unseen", "test", "retain"):
            assert torch.equal(splits.labels[getattr(splits, part)], true[getattr(splits, part)])


class TestReaders:
    @pytest.mark.parametrize("forget", ["random:0.2", "class:b", "mislabelled:0.2"])
    def test_tuning_sees_no_test_image_and_no_attack(self, forget):
        sets = image_sets(forget)
        models = {
            name: Table(logits_of(sets, seed)) for seed, name in enumerate(("unlearned", "retrained", "retrained-2"))
        }
        found = judge_all(models, sets, CPU, final=False)
        assert list(found) == list(models)
        for name, model in models.items():
            assert not set(model.asked) & set(sets.splits.test.tolist())
            assert not is_any_of(set(found[name].figures), FINAL) and "validation_top1" in found[name].figures
            assert found[name].logits == {}

    def test_a_sample_of_the_retain_set_is_the_same_for_every_model(self):
        sets = image_sets("random:0.2")
        models = {name: Table(logits_of(sets, seed)) for seed, name in enumerate(("original", "unlearned"))}
        found = judge_all(models, sets, CPU, retain_images=30)
        retain = set(sets.splits.retain.tolist())
        looked = [set(model.asked) & retain for model in models.values()]
        assert looked[0] == looked[1] and len(looked[0]) == 30
        for name, model in models.items():
            chosen = torch.tensor(sorted(looked[0]))
            right = model.logits[chosen].argmax(1) == sets.splits.labels[chosen]
            assert torch.equal(found[name].retain_right, right)
            assert found[name].figures["retain_top1"] == pytest.approx(100 * right.float().mean().item())

    def test_final_figures_without_a_forget_set_compare_nothing(self):
        sets = image_sets(None)
        found = judge_all({"original": Table(logits_of(sets, 1)), "retrained": Table(logits_of(sets, 2))}, sets, CPU)
        for judgement in found.values():
            compared = [pattern for pattern in FINAL if pattern != "test_*"]
            assert not is_any_of(set(judgement.figures), compared) and "test_top1" in judgement.figures


class TestRetrained:
    """Figures beside retrained models' outputs."""

    def test_distances_are_means_over_the_retrained_models(self, sets):
        names = ("unlearned", "retrained", "retrained-2", "retrained-3")
        tables = {name: logits_of(sets, seed) for seed, name in enumerate(names)}
        found = judge_all({name: Table(logits) for name, logits in tables.items()}, sets, CPU)
        forget = sets.splits.forget
        for name in names:
            others = [tables[key][forget] for key in names[1:] if key != name]
            for figure, distance in (("js_divergence", js_divergence), ("activation_distance", activation_distance)):
                expected = sum(distance(tables[name][forget], other) for other in others) / len(others)
                assert found[name].figures[figure] == pytest.approx(expected)
            low, value, high = (found[name].figures[f"rmia_auc{end}"] for end in ("_low", "", "_high"))
            assert low < value < high

    def test_one_retrained_model_is_not_compared_with_itself(self, sets):
        found = judge_all({"retrained": Table(logits_of(sets, 0)), "original": Table(logits_of(sets, 1))}, sets, CPU)
        assert "js_divergence" in found["original"].figures and "rmia_auc" in found["original"].figures
        assert not is_any_of(set(found["retrained"].figures), COMPARED)
        assert found["retrained"].figures["retain_exposure"] is not None
        alone = judge_all({"original": Table(logits_of(sets, 1))}, sets, CPU)["original"].figures
        assert alone.items() <= found["original"].figures.items()

    def test_outputs_that_are_no_numbers_have_none_and_spoil_no_other_model(self, sets):
        broken = logits_of(sets, 0)
        broken[sets.splits.forget[0], 0] = math.nan
        models = {"original": broken, "unlearned": logits_of(sets, 1), "retrained": logits_of(sets, 2)}
        found = judge_all({name: Table(logits) for name, logits in models.items()}, sets, CPU)
        for name in ("js_divergence", "activation_distance", "rmia_auc", "rmia_auc_low", "rmia_tpr", "mia_auc"):
            assert found["original"].figures[name] is None and found["unlearned"].figures[name] is not None

    @pytest.mark.parametrize("forget", ["random:0.2", "class:b"])
    def test_a_model_that_never_saw_the_forget_set_is_at_chance(self, forget):
        """All figures at once, on data: forget images are to these models as test images are."""
        sets = image_sets(forget, size=5000)
        names = ("unlearned", "retrained", "retrained-2")
        found = judge_all({name: Table(logits_of(sets, seed)) for seed, name in enumerate(names)}, sets, CPU)
        pairs = len(class_matched(sets.dataset.labels, sets.splits.forget, sets.splits.test, 0)[0])
        for judgement in found.values():
            for name in ("mia_auc", "rmia_auc"):
                assert judgement.figures[name] == pytest.approx(0.5, abs=4.5 / math.sqrt(6 * pairs)), name
            assert judgement.figures["mia_accuracy"] == pytest.approx(50, abs=450 / math.sqrt(8 * pairs))
            for attack in ("mia", "rmia"):
                name = f"{attack}_worst_tenth"
                # A tenth of the pairs is counted on each side.
                assert judgement.figures[name] == pytest.approx(50, abs=400 / math.sqrt(0.8 * pairs)), name
        assert found["unlearned"].figures["residual_knowledge"] == pytest.approx(1, abs=0.15)
        gaps = signed_gaps(found["unlearned"].figures, found["retrained"].figures)
        # Three draws of one kind are as far from one another as any two of them.
        assert abs(gaps["js_divergence"]) < 0.01 and abs(gaps["activation_distance"]) < 0.02


class TestSuperclasses:
    SUPERCLASSES = {"first": ("a", "b", "c"), "second": ("d", "e")}

    def figures(self, forget, superclasses) -> tuple[dict, ImageSets]:
        sets = image_sets(forget, superclasses=superclasses)
        return judge_all({"original": Table(logits_of(sets, 1))}, sets, CPU)["original"].figures, sets

    @pytest.mark.parametrize(
        ("forget", "adjacent", "remote"), [("class:b", {0, 2}, {3, 4}), ("class:b,d", {0, 2, 4}, set())]
    )
    def test_adjacent_and_remote_classes(self, forget, adjacent, remote):
        found, sets = self.figures(forget, self.SUPERCLASSES)
        logits, labels, test = logits_of(sets, 1), sets.dataset.labels, sets.splits.test
        for name, classes in (("adjacent", adjacent), ("remote", remote), ("remaining", adjacent | remote)):
            chosen = test[torch.isin(labels[test], torch.tensor(sorted(classes), dtype=torch.int64))]
            if not classes:
                assert f"test_{name}_top1" not in found
                continue
            expected = 100 * (logits[chosen].argmax(1) == labels[chosen]).double().mean().item()
            assert found[f"test_{name}_top1"] == pytest.approx(expected, abs=1e-4)

    def test_a_subclass_is_compared_with_the_others_of_its_class(self):
        fine = image_sets("class:b", superclasses=self.SUPERCLASSES)
        coarse = by_superclass(fine.dataset)
        splits = make_splits(coarse, "class:b")
        for part in ("train", "validation", "unseen", "forget", "test"):  # the same images as by class
            assert torch.equal(getattr(splits, part), getattr(fine.splits, part))
        sets = ImageSets(coarse, splits, None, torch.device("cpu"), 0)
        judgement = judge(Table(logits_of(fine, 1)), sets, CPU)
        logits, test = logits_of(fine, 1), splits.test
        for name, wanted in (("adjacent", (0, 2)), ("remote", (3, 4)), ("remaining", (0, 2, 3, 4))):
            chosen = test[torch.isin(coarse.sub_labels[test], torch.tensor(wanted))]
            expected = 100 * (logits[chosen].argmax(1) == coarse.labels[chosen]).double().mean().item()
            assert judgement.figures[f"test_{name}_top1"] == pytest.approx(expected, abs=1e-4)
        # Held-out images of the subclass show nothing about what has to stay.
        held_out = torch.cat([splits.unseen, splits.validation])
        kept = held_out[coarse.sub_labels[held_out] != 1]
        assert len(kept) < len(held_out)
        assert judgement.held_out_right.tolist() == (logits[kept].argmax(1) == coarse.labels[kept]).tolist()

    def test_only_where_classes_are_forgotten_and_superclasses_known(self):
        for forget, superclasses in (("random:0.1", self.SUPERCLASSES), ("class:b", {})):
            found, _ = self.figures(forget, superclasses)
            assert "test_adjacent_top1" not in found and "test_remote_top1" not in found
        found, _ = self.figures("superclass:second", self.SUPERCLASSES)
        assert "test_adjacent_top1" not in found and found["test_remote_top1"] == found["test_remaining_top1"]


class TestExposure:
    def test_is_the_difference_of_two_aucs_with_a_paired_interval(self):
        """The unlearned model is surer of the images that stay than the original was."""
        sets = image_sets("random:0.2")
        splits, original = sets.splits, logits_of(sets, 1)
        unlearned = original.clone()
        unlearned[splits.retain] += 1.0 * F.one_hot(splits.labels[splits.retain], CLASSES)
        models = {"original": Table(original), "unlearned": Table(unlearned), "retrained": Table(original)}
        found = judge_all(models, sets, CPU)
        retain, test = class_matched(sets.dataset.labels, splits.retain, splits.test, splits.seed)
        losses = [F.cross_entropy(table, splits.labels, reduction="none") for table in (original, unlearned)]
        before, after = (auc(-each[retain].double(), -each[test].double()).item() for each in losses)
        figures = found["unlearned"].figures
        assert figures["retain_mia_auc"] == pytest.approx(after)
        assert figures["retain_exposure"] == pytest.approx(after - before) and figures["retain_exposure_low"] > 0.05
        assert "retain_exposure" not in found["original"].figures
        assert {found["retrained"].figures[f"retain_exposure{end}"] for end in ("", "_low", "_high")} == {0}


class TestGapIntervals:
    def test_each_gap_lies_in_its_interval_and_equal_models_have_none(self, sets, tables, monkeypatch):
        models = {name: Table(logits) for name, logits in {**tables, "original": tables["retrained"]}.items()}
        judgements = judge_all(models, sets, CPU)
        # The attack of each model is fitted once, when it is judged.
        monkeypatch.setattr(judge_module, "loss_folds", None)
        found = judge_module.intervals_of_gaps(judgements, sets)
        assert set(found) == {"original", "unlearned"} and set(map(tuple, found["original"].values())) == {(0, 0)}
        pair = [judgements[name].figures for name in ("unlearned", "retrained")]
        gaps = {**signed_gaps(*pair), "avg_gap": avg_gap(*pair)}
        assert set(found["unlearned"]) == set(gaps) & {*GAP_FIGURES, "avg_gap"}
        for figure, (low, high) in found["unlearned"].items():
            assert low <= gaps[figure] <= high and low < high, figure

    def test_nothing_without_a_retrained_model_and_no_attack_without_test_images(self, sets, tables):
        models = {name: Table(logits) for name, logits in tables.items()}
        judgements = judge_all({"unlearned": models["unlearned"]}, sets, CPU)
        assert judge_module.intervals_of_gaps(judgements, sets) == {}
        validation = judge_module.intervals_of_gaps(judge_all(models, sets, CPU, final=False), sets)
        assert set(validation["unlearned"]) == {"forget_top1", "retain_top1", "avg_gap"}
