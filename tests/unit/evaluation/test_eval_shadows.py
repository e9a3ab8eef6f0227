"""Shadow models of U-LiRA: who learns and forgets what, and that a finished one is not made again."""

import dataclasses
import math
from collections import Counter

import numpy as np
import pytest
import torch
from helpers.method_cases import CPU
from helpers.numbered_images import Table, numbered_sets
from torch import nn
from torch.nn import functional as F

from data.image_sets import ImageSets
from data.split_record import Splits
from data.splits import make_splits
from evaluation.attacks.lira import (
    against_shadows,
    logit_confidence,
    run_shadows,
    shadow_folder,
    shadow_splits,
    shadow_targets,
)
from helper_functions.errors import UserError
from helper_functions.training.inference import predict

CLASSES = 4
FORGET = ("random:0.1", "class:b", "mislabelled:0.1", "random:0.6")


def image_sets(forget="random:0.1", size=800, **splits) -> ImageSets:
    return numbered_sets(forget, size, CLASSES, **splits)


class Maker:
    """Trains and unlearns: the model is still surer of what it unlearned, on the label it was given; counts calls."""

    def __init__(self, sets: ImageSets, left: float) -> None:
        self.sets, self.left, self.calls = sets, left, []

    def __call__(self, path, seed, folder) -> nn.Module:
        splits = Splits.load(path, self.sets.dataset)
        self.calls.append((folder.name, seed))
        return Table(self.logits(splits, seed))

    def logits(self, splits: Splits, seed: int) -> torch.Tensor:
        draw = torch.randn(len(splits.labels), CLASSES, generator=torch.Generator().manual_seed(seed))
        logits = draw + F.one_hot(self.sets.dataset.labels, CLASSES)
        logits[splits.forget] += self.left * F.one_hot(splits.labels[splits.forget], CLASSES)
        return logits


def outputs(sets: ImageSets, logits: torch.Tensor) -> dict[str, torch.Tensor]:
    return {part: logits[getattr(sets.splits, part)] for part in ("forget", "test")}


class TestTargets:
    @pytest.mark.parametrize("forget", FORGET)
    def test_forget_images_then_as_many_test_images_of_each_true_class(self, forget):
        sets = image_sets(forget)
        targets, true = shadow_targets(sets), sets.dataset.labels
        members, others = targets.indices.split(targets.forget)
        assert torch.isin(members, sets.splits.forget).all() and torch.isin(others, sets.splits.test).all()
        assert Counter(true[members].tolist()) == Counter(true[others].tolist())
        every = torch.cat([members, targets.always]).sort().values
        assert torch.equal(every, sets.splits.forget)
        assert (len(targets.always) > 0) == (forget in ("class:b", "random:0.6"))
        assert torch.equal(targets.labels, true[targets.indices]) == (forget != "mislabelled:0.1")

    @pytest.mark.parametrize("confusion", ["uniform", "pairwise"])
    def test_test_images_beside_mislabelled_ones_are_mislabelled_likewise(self, confusion):
        sets = image_sets("mislabelled:0.1", confusion=confusion)
        targets, true = shadow_targets(sets), sets.dataset.labels
        members, _ = targets.indices.split(targets.forget)
        assert torch.equal(targets.labels[: targets.forget], sets.splits.labels[members])
        assert (targets.labels != true[targets.indices]).all()
        if confusion == "pairwise":
            assert torch.equal(targets.labels, (true[targets.indices] + 1) % CLASSES)

    def test_half_right_labels_are_refused(self):
        sets = image_sets("mislabelled:0.1")
        labels = sets.splits.labels.clone()
        first = sets.splits.forget[0]
        labels[first] = sets.dataset.labels[first]
        mixed = ImageSets(sets.dataset, dataclasses.replace(sets.splits, labels=labels), None, torch.device("cpu"), 0)
        with pytest.raises(UserError, match="wrong and others right"):
            shadow_targets(mixed)


@pytest.mark.parametrize("forget", FORGET)
class TestSplits:
    def test_a_half_of_the_targets_takes_the_forget_sets_place(self, forget, tmp_path):
        sets = image_sets(forget)
        targets, own, true = shadow_targets(sets), sets.splits, sets.dataset.labels
        for number in range(4):
            splits = shadow_splits(sets, targets, number)
            splits.save(tmp_path / f"{number}.npz")
            # What is written can be read, and is used as it is.
            read = Splits.load(tmp_path / f"{number}.npz", sets.dataset)
            assert read.sha256 == splits.sha256
            assert make_splits(sets.dataset, None, previous=read) is read
            assert torch.equal(splits.retain, own.retain) and torch.equal(splits.unseen, own.unseen)
            assert torch.equal(splits.validation, own.validation) and splits.forget_request == own.forget_request
            assert torch.equal(splits.train, torch.cat([splits.retain, splits.forget]).sort().values)
            assert not torch.isin(splits.test, splits.train).any() and torch.isin(splits.test, own.test).all()
            # The forget set is as large as it was, and as large in each class.
            assert Counter(true[splits.forget].tolist()) == Counter(true[own.forget].tolist())
            assert torch.isin(targets.always, splits.forget).all()

    def test_each_target_is_unlearned_by_every_second_shadow(self, forget):
        sets = image_sets(forget)
        targets = shadow_targets(sets)
        found = torch.stack([torch.isin(targets.indices, shadow_splits(sets, targets, i).forget) for i in range(6)])
        assert torch.equal(found[::2], ~found[1::2])
        assert not torch.equal(found[0], found[2]) and not torch.equal(found[0], found[3])

    def test_what_is_learned_has_its_label_and_nothing_else_a_wrong_one(self, forget):
        sets = image_sets(forget)
        targets, true = shadow_targets(sets), sets.dataset.labels
        for number in range(2):
            splits = shadow_splits(sets, targets, number)
            chosen = torch.isin(targets.indices, splits.forget)
            assert torch.equal(splits.labels[targets.indices[chosen]], targets.labels[chosen])
            elsewhere = torch.ones(len(true), dtype=torch.bool)
            elsewhere[splits.forget] = False
            assert torch.equal(splits.labels[elsewhere], true[elsewhere])


class TestRunShadows:
    def test_outputs_are_the_shadows_on_the_targets_labels(self, tmp_path):
        sets = image_sets("mislabelled:0.1")
        make = Maker(sets, 3.0)
        shadows = run_shadows(sets, CPU, 4, tmp_path, make)
        targets = shadow_targets(sets)
        for number, (name, seed) in enumerate(make.calls):
            assert name == f"shadow-{number:03d}"
            splits = shadow_splits(sets, targets, number)
            logits = make.logits(splits, seed)[targets.indices]
            torch.testing.assert_close(shadows.confidences[number], logit_confidence(logits, targets.labels))
            assert torch.equal(shadows.unlearned[number], torch.isin(targets.indices, splits.forget))
        assert len({seed for _, seed in make.calls}) == 4

    def test_finished_ones_are_not_made_again_and_more_can_be_added(self, tmp_path, capsys):
        sets = image_sets()
        first, second = Maker(sets, 1.0), Maker(sets, 1.0)
        before = run_shadows(sets, CPU, 4, tmp_path, first)
        assert capsys.readouterr().out.count("made") == 4
        # As after an interruption.
        (tmp_path / "shadow-002" / "outputs.pt").unlink()
        after = run_shadows(sets, CPU, 6, tmp_path, second)
        assert [name for name, _ in second.calls] == ["shadow-002", "shadow-004", "shadow-005"]
        assert torch.equal(after.confidences[:4], before.confidences)
        assert capsys.readouterr().out.count("reused") == 3

    @pytest.mark.parametrize("content", [b"", {"confidences": torch.zeros(3)}, {"confidences": 1, "unlearned": 2}])
    def test_damaged_outputs_are_told_in_one_line(self, content, tmp_path):
        sets = image_sets()
        run_shadows(sets, CPU, 4, tmp_path, Maker(sets, 1.0))
        path = tmp_path / "shadow-001" / "outputs.pt"
        if isinstance(content, bytes):
            path.write_bytes(content)
        else:
            torch.save(content, path)
        with pytest.raises(UserError, match=r"outputs\.pt.*remove the file") as info:
            run_shadows(sets, CPU, 4, tmp_path, Maker(sets, 1.0))
        assert "\n" not in str(info.value)

    def test_a_folder_for_each_configuration_and_each_splits(self, tmp_path):
        splits = image_sets().splits
        folders = [
            shadow_folder(tmp_path, configuration, part)
            for configuration, part in (
                ({"a": 1, "b": 2}, splits), ({"b": 2, "a": 1}, splits), ({"a": 1, "b": 3}, splits),
                ({"a": 1, "b": 2}, image_sets("random:0.2").splits), ({"a": 1, "b": 2}, image_sets(seed=1).splits),
            )
        ]  # fmt: skip
        assert folders[0] == folders[1] and len(set(folders)) == 4
        assert all(folder.is_dir() and (folder / "shadows.yaml").is_file() for folder in folders)

    def test_a_folder_that_cannot_be_made_is_refused(self, tmp_path):
        (tmp_path / "file").write_text("")
        with pytest.raises(UserError, match="--shadow_dir"):
            shadow_folder(tmp_path / "file", {}, image_sets().splits)


class TestAgainstShadows:
    @pytest.mark.parametrize("forget", FORGET)
    @pytest.mark.parametrize("count", [4, 8])
    def test_at_chance_for_a_model_that_never_saw_the_forget_set_and_above_for_one_that_remembers(
        self, forget, count, tmp_path
    ):
        sets = image_sets(forget, size=3000)
        make = Maker(sets, 3.0)
        shadows = run_shadows(sets, CPU, count, tmp_path, make)
        pairs = shadows.targets.forget
        nothing = dataclasses.replace(sets.splits, forget=sets.splits.forget[:0])
        found = [
            against_shadows(sets, shadows, outputs(sets, make.logits(nothing, seed)))["ulira_auc"]
            for seed in range(5000, 5010)
        ]
        # One set of shadow models judges all of them, so that their errors go together: that of one, not of ten.
        assert np.mean(found) == pytest.approx(0.5, abs=4 / math.sqrt(6 * pairs))
        remembers = against_shadows(sets, shadows, outputs(sets, make.logits(sets.splits, 5000)))
        assert remembers["ulira_auc"] > 0.8 and remembers["ulira_accuracy"] > 65
        assert remembers["ulira_auc_low"] < remembers["ulira_auc"] < remembers["ulira_auc_high"]

    def test_reads_the_judged_models_outputs_on_the_targets_labels(self, tmp_path):
        sets = image_sets("mislabelled:0.1")
        shadows = run_shadows(sets, CPU, 4, tmp_path, Maker(sets, 1.0))
        logits = Maker(sets, 1.0).logits(sets.splits, 1)
        by_parts = against_shadows(sets, shadows, outputs(sets, logits))
        passes = {
            part: predict(Table(logits), sets.evaluation(getattr(sets.splits, part)), CPU)[0]
            for part in ("forget", "test")
        }
        assert against_shadows(sets, shadows, passes) == by_parts
