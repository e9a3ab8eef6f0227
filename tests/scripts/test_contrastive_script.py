"""train_contrastive.py as a process: its three modes, what each leaves behind, and how each resumes after a kill."""

import math
import re
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from helpers.processes import SMALL, Ran, assert_refused, contents, fork, only, signal_at
from helpers.run_folders import (
    EXPOSURE,
    FIGURES,
    VERDICT,
    assert_same_weights,
    figures_of,
    hparams_of,
    report_of,
    results_of,
    status_of,
    unexplained_tags,
    weights_of,
)

from data.datasets import load_dataset

SCRIPT, UNLEARN = "train_contrastive.py", "train_constrained_unlearning.py"
MODES = ("train", "untrain", "untrain_contrastive")
QUICK = (*SMALL, "--figures", "False")
# 40 images in batches of 16 are 3 steps an epoch; the stop criterion must not end a run before the step that it is
# killed at.
UNTRAIN = ("--num_epochs", 2, "--batch_size", 16, "--stop_criterion", "none", "--discriminator_steps", 1)
UNTRAIN += ("--finetune_num_epochs", 0)
TOO_FEW_OUTPUTS = ("--discriminator", "jensen_shannon", "--discriminate", "losses")
CLASSIFIER = {"classifier/loss", "classifier/accuracy"}


@pytest.fixture(scope="module")
def distillation(tmp_path_factory) -> Ran:
    """Mode train on digits from nothing: first the teacher, then the student; 11 steps an epoch."""
    log_dir = tmp_path_factory.mktemp("lesson")
    done = fork(SCRIPT, *SMALL, "--mode", "train", "--train_num_epochs", 2, "--num_epochs", 2, "--log_dir", log_dir)
    assert done.status == 0, done.err
    return Ran(done, only(log_dir))


@pytest.fixture
def teach(original, tmp_path):
    """Run mode train for an epoch with the small original as the teacher."""

    def run(*flags: object) -> Ran:
        done = fork(
            SCRIPT, *QUICK, "--mode", "train", "--weight_path", original.folder / "model.pt", "--num_epochs", 1,
            *flags, "--log_dir", tmp_path / "lesson",
        )  # fmt: skip
        assert done.status == 0 and done.err == "", done
        return Ran(done, only(tmp_path / "lesson"))

    return run


@pytest.fixture(scope="module")
def flags_of(original):
    """Flags of a small run that forgets: images of the small original, or labels that were wrong in training."""

    def flags(request: str) -> tuple[object, ...]:
        if request == "random":
            return (*QUICK, *UNTRAIN, "--weight_path", original.folder / "model.pt")
        return (*QUICK, *UNTRAIN, "--batch_size", 64, "--forget", request, "--train_num_epochs", 2)

    return flags


@pytest.fixture(scope="module")
def untrained(flags_of, tmp_path_factory):
    """A run of one of the modes that forget, made at the first request."""
    made: dict[tuple[str, str], Ran] = {}

    def get(mode: str, request: str) -> Ran:
        if (mode, request) not in made:
            log_dir = tmp_path_factory.mktemp(mode)
            done = fork(SCRIPT, "--mode", mode, *flags_of(request), "--log_dir", log_dir)
            assert done.status in (0, 3, 4), done.err
            made[mode, request] = Ran(done, only(log_dir))
        return made[mode, request]

    return get


def assert_started_from(
    found: dict[str, torch.Tensor], start: dict[str, torch.Tensor], *, moved: bool, tolerance: float = 0.0
) -> None:
    """Weights are those of a start, within a tolerance, and some have moved or none; running statistics apart."""
    assert found.keys() == start.keys()
    names = [name for name in found if not re.search("running|num_batches", name)]
    changes = [(found[name] - start[name]).abs().max().item() for name in names]
    assert max(changes) <= tolerance
    assert any(changes) is moved


class TestTrain:
    def test_leaves_a_complete_run_folder(self, distillation):
        names = {path.name.split(".1")[0] for path in distillation.folder.iterdir()}
        assert names == {
            "config.yaml", "environment.json", "splits.npz", "metrics.jsonl", "checkpoint.pt", "events.out.tfevents",
            "preprocessing.json",
            "original.pt", "original.json", "model.pt", "classifier.pt", "report.json", "student.png",
        }  # fmt: skip
        assert re.match(r"contrastive-train-\d{8}-\d{6}", distillation.folder.name)
        assert {"dataset", "mode", "num_epochs", "seed"} <= hparams_of(distillation.folder)
        assert not unexplained_tags(distillation.folder)
        assert yaml.safe_load((distillation.folder / "config.yaml").read_text())["mode"] == "train"
        assert weights_of(distillation.folder).keys() == weights_of(distillation.folder, "original.pt").keys()
        assert weights_of(distillation.folder, "classifier.pt")

    def test_prints_the_teacher_then_the_student(self, distillation):
        printed = distillation.done.out
        assert distillation.done.err == ""
        titles = re.findall(r"^ +(\w+) epoch ", printed, re.M)
        assert titles == ["original", "student"]
        assert printed.index("original epoch") < printed.index("student epoch") < printed.index("retain top-1")
        assert re.search(r"^ +teacher +student$", printed, re.M)
        auc = report_of(distillation.folder)["held_out_discriminator_auc"]
        assert f"{auc['before']:.3f} before, {auc['after']:.3f} after" in printed
        assert str(distillation.folder / "report.json") in printed and str(distillation.folder / "model.pt") in printed

    def test_reports_teacher_student_and_cost(self, distillation):
        report = report_of(distillation.folder)
        assert set(report) == {"models", "cost", "held_out_discriminator_auc", "preprocessing"}
        assert list(report["models"]) == list(report["cost"]) == ["teacher", "student"]
        # Nothing is forgotten, so nothing but these three parts has figures.
        names = ("top1", "top5", "loss", "top1_low", "top1_high")
        parts = {f"{part}_{name}" for part in ("retain", "validation", "test") for name in names}
        images = len(np.load(distillation.folder / "splits.npz")["train"])
        agreement = {"validation_agreement", "test_agreement"}
        for name in ("teacher", "student"):
            assert set(report["models"][name]) == parts | (agreement if name == "student" else set())
            cost = report["cost"][name]
            assert cost["images"] == 2 * images and cost["gradient_steps"] == 22
            assert cost["seconds"] > 0 and cost["peak_memory_bytes"] > 0
        auc = report["held_out_discriminator_auc"]
        assert set(auc) == {"before", "after"}
        # A student that has learned nothing is told from its teacher with ease.
        assert auc["before"] > 0.9 and 0 <= auc["after"] <= 1

    def test_records_every_epoch(self, distillation):
        lines = [line for line in figures_of(distillation.folder) if "student/train/loss" in line]
        assert [line["step"] for line in lines] == [11, 22]
        for line in lines:
            assert set(line) >= {
                "student/classifier/loss", "student/classifier/accuracy", "student/discriminator/auc",
                "student/validation/top1", "student/validation/top5", "student/validation/loss", "student/retain/top1",
                "student/retain/top5", "student/retain/loss", "student/gradient/norm", "student/train/learning_rate",
            }  # fmt: skip
            assert all(math.isfinite(value) for value in line.values())
            for name, value in line.items():
                if re.search("top1|top5|accuracy", name):
                    assert 0 <= value <= 100, name
        report = report_of(distillation.folder)
        assert lines[-1]["student/discriminator/auc"] == report["held_out_discriminator_auc"]["after"]
        assert lines[-1]["student/validation/top1"] == pytest.approx(report["models"]["student"]["validation_top1"])


class TestGivenWeights:
    def test_the_teacher_is_used_and_left_alone(self, original, teach):
        earlier = contents(original.folder)
        ran = teach()
        assert contents(original.folder) == earlier
        assert not (ran.folder / "original.pt").exists() and "original epoch" not in ran.done.out
        report = report_of(ran.folder)
        # Its splits are used again, the forget set with them.
        assert report["models"]["teacher"] == report_of(original.folder)["models"]["original"]
        assert set(report["models"]["student"]) - FIGURES == {"validation_agreement", "test_agreement"}
        assert set(report["cost"]) == {"student"}
        assert (ran.folder / "splits.npz").read_bytes() == (original.folder / "splits.npz").read_bytes()
        names = {name for line in figures_of(ran.folder) for name in line}
        parts = ("retain", "forget", "unseen", "validation")
        assert {f"student/{part}/{top}" for part in parts for top in ("top1", "top5")} <= names

    def test_student_and_discriminator_begin_with_theirs(self, distillation, teach):
        """Steps next to nothing away from them, both."""
        tiny = ("--learning_rate", 1e-9, "--weight_decay", 0, "--discriminator_learning_rate", 1e-6)
        paths = ("--weight_path_student", distillation.folder / "model.pt")
        folder = teach(*tiny, *paths, "--weight_path_classifier", distillation.folder / "classifier.pt").folder
        for name in ("model.pt", "classifier.pt"):
            begun, own = weights_of(distillation.folder, name), weights_of(folder, name)
            assert_started_from(own, begun, moved=True, tolerance=1e-4)

    def test_a_student_of_another_architecture(self, original, teach):
        """Its folder brings that architecture along, for the programs that read its weights."""
        ran = teach("--student_model", "resnet20")
        assert len(weights_of(ran.folder)) > len(weights_of(original.folder))
        judged = fork("test.py", "--weight_path", ran.folder / "model.pt")
        assert judged.status == 0 and "resnet20" in judged.out, judged

    def test_a_student_that_is_the_teacher_cannot_be_told_from_it(self, original, teach):
        folder = teach("--weight_path_student", original.folder / "model.pt", "--freeze_student").folder
        report = report_of(folder)
        auc, student = report["held_out_discriminator_auc"], report["models"]["student"]
        assert student["validation_agreement"] == student["test_agreement"] == 100
        assert 0.3 < auc["before"] < 0.7 and auc["after"] == auc["before"]

    @pytest.mark.parametrize("frozen", ["student", "classifier"])
    def test_what_is_frozen_stays_as_it_was(self, distillation, teach, frozen):
        earlier = contents(distillation.folder)
        paths = {"student": distillation.folder / "model.pt", "classifier": distillation.folder / "classifier.pt"}
        given = [part for name, path in paths.items() for part in (f"--weight_path_{name}", path)]
        folder = teach(*given, f"--freeze_{frozen}").folder
        for name, path in paths.items():
            found, start = weights_of(folder, path.name), weights_of(distillation.folder, path.name)
            if name == frozen:
                assert_same_weights(found, start)
            else:
                assert_started_from(found, start, moved=True, tolerance=math.inf)
        assert contents(distillation.folder) == earlier

    def test_a_frozen_student_keeps_its_head(self, distillation, teach):
        given = ("--weight_path_student", distillation.folder / "model.pt", "--freeze_student")
        folder = teach(*given, "--discriminate", "features").folder
        assert_same_weights(weights_of(folder), weights_of(distillation.folder))


@pytest.mark.parametrize("request_", ["random", "mislabelled:0.1"])
@pytest.mark.parametrize("mode", MODES[1:])
class TestUntrain:
    def test_reports_verdict_method_and_discriminator(self, untrained, mode, request_):
        ran = untrained(mode, request_)
        report = report_of(ran.folder)
        assert ran.done.err == "" and ran.done.status == status_of(report["verdict"])
        assert set(report["verdict"]) == VERDICT
        assert set(report["models"]) == {"original", "unlearned"}
        assert set(report["models"]["original"]) == FIGURES
        assert set(report["models"]["unlearned"]) == FIGURES | EXPOSURE
        assert report["forget"]["method"] == mode
        assert report["forget"]["target"] == ("unseen" if request_ == "random" else "chance")
        auc = report["held_out_discriminator_auc"]
        assert set(auc) == {"original", "unlearned"} and all(0 <= value <= 1 for value in auc.values())
        assert f"{auc['original']:.3f} before, {auc['unlearned']:.3f} after" in ran.done.out
        assert set(report["cost"]) == ({"unlearned"} if request_ == "random" else {"original", "unlearned"})
        assert not (ran.folder / "classifier.pt").exists()

    def test_records_both_sides_of_the_game(self, untrained, mode, request_):
        lines = figures_of(untrained(mode, request_).folder)
        steps = [line for line in lines if "constraint/violation" in line]
        epochs = [line for line in lines if "discriminator/auc" in line]
        assert len(epochs) == 2 and len(steps) >= 2
        for line in steps:
            assert CLASSIFIER | {"constraint/multiplier", "forget/objective", "gradient/norm"} <= set(line)
            assert line["classifier/loss"] > 0 and 0 <= line["classifier/accuracy"] <= 100
        parts = ("retain", "forget", "unseen", "validation")
        for line in epochs:
            assert {f"{part}/{top}" for part in parts for top in ("top1", "top5")} <= set(line)
            assert line["discriminator/auc_low"] <= line["discriminator/auc"] <= line["discriminator/auc_high"]


@pytest.mark.parametrize("mode", MODES[1:])
def test_the_main_script_gives_the_same_by_its_method(untrained, flags_of, tmp_path, mode):
    ours = untrained(mode, "random")
    done = fork(UNLEARN, "--method", mode, *flags_of("random"), "--log_dir", tmp_path)
    assert done.status == ours.done.status and done.err == ""
    theirs = only(tmp_path)
    assert theirs.name.startswith("unlearning-")
    assert_same_weights(weights_of(ours.folder), weights_of(theirs))
    assert figures_of(ours.folder) == figures_of(theirs)
    for folder in (ours.folder, theirs):
        assert all(cost["gradient_steps"] == 6 for cost in report_of(folder)["cost"].values())
    assert results_of(ours.folder) == results_of(theirs)


class TestResume:
    # 11 steps an epoch for the teacher and for the student; a finished epoch is not taken again.
    KILLED_AT = {"the teacher's second epoch": 11 + 4, "the student's first epoch": 11 + 3, "the second one": 11 + 7}

    def test_mode_train_ends_as_if_it_had_never_stopped(self, distillation, tmp_path):
        flags = ("--config_file", distillation.folder / "config.yaml", "--log_dir", tmp_path)
        for moment, step in self.KILLED_AT.items():
            done = fork(SCRIPT, *flags, before=partial(signal_at, step))
            assert done.status == -signal.SIGKILL, (moment, done)
            flags = ("--resume", only(tmp_path))
        done = fork(SCRIPT, *flags)
        assert done.status == 0 and done.err == ""
        self.assert_same(only(tmp_path), distillation.folder, ("model.pt", "classifier.pt", "original.pt"))

    def test_a_frozen_student_is_found_again(self, distillation, teach, tmp_path):
        given = ("--weight_path_student", distillation.folder / "model.pt", "--freeze_student")
        whole = teach(*given, "--num_epochs", 2).folder
        flags = ("--config_file", whole / "config.yaml", "--log_dir", tmp_path / "killed")
        assert fork(SCRIPT, *flags, before=partial(kill_at_critic_step, 11 + 5)).status == -signal.SIGKILL
        folder = only(tmp_path / "killed")
        assert fork(SCRIPT, "--resume", folder).status == 0
        self.assert_same(folder, whole, ("model.pt", "classifier.pt"))

    @staticmethod
    def assert_same(one: Path, other: Path, weights: tuple[str | None, ...]) -> None:
        for name in weights:
            assert_same_weights(weights_of(one, name), weights_of(other, name))
        assert figures_of(one) == figures_of(other)
        assert results_of(one) == results_of(other)
        costs = [report_of(folder)["cost"] for folder in (one, other)]
        assert [{name: cost["gradient_steps"] for name, cost in found.items()} for found in costs][0] == {
            name: cost["gradient_steps"] for name, cost in costs[1].items()
        }


class TestEdges:
    @pytest.mark.parametrize("mode", MODES)
    def test_features_in_every_mode(self, original, flags_of, tmp_path, mode):
        flags = (*flags_of("random"), "--discriminate", "features", "--num_epochs", 1, "--batch_size", 64)
        done = fork(SCRIPT, "--mode", mode, *flags, "--log_dir", tmp_path)
        assert done.status in (0, 3, 4) and done.err == ""
        auc = report_of(only(tmp_path))["held_out_discriminator_auc"]
        assert all(0 <= value <= 1 for value in auc.values())
        if mode == "train":  # what is learned ends at the features: the head is the teacher's
            student, teacher = weights_of(only(tmp_path)), weights_of(original.folder)
            same = {name for name in student if torch.equal(student[name], teacher[name])}
            assert {"fc.weight", "fc.bias"} <= same and "conv1.weight" not in same

    def test_a_group_larger_than_the_forget_set(self, flags_of, tmp_path):
        flags = (*flags_of("random"), "--num_epochs", 1, "--group_size", 1000)
        done = fork(SCRIPT, "--mode", "untrain_contrastive", *flags, "--log_dir", tmp_path)
        assert done.status in (0, 3, 4) and done.err == ""
        assert report_of(only(tmp_path))["forget"]["images"] == 40
        (line,) = [line for line in figures_of(only(tmp_path)) if "classifier/loss" in line]
        assert math.isfinite(line["classifier/loss"])

    @pytest.mark.parametrize("mode", MODES)
    def test_batches_of_one(self, tmp_path, mode):
        """An image has no other one in its batch to be shuffled with."""
        forget = () if mode == "train" else ("--forget", "random:6images", "--finetune_num_epochs", 0)
        done = fork(
            SCRIPT, *QUICK, "--mode", mode, *forget, "--validation", 0.97, "--train_num_epochs", 1, "--num_epochs", 1,
            "--batch_size", 1, "--log_dir", tmp_path,
        )  # fmt: skip
        assert done.status in (0, 3, 4) and done.err == ""
        name = "student" if mode == "train" else "unlearned"
        cost = report_of(only(tmp_path))["cost"][name]
        splits = np.load(only(tmp_path) / "splits.npz")
        assert cost["gradient_steps"] == len(splits["train" if mode == "train" else "forget"])

    def test_the_command_of_the_readme_works_word_for_word(self, tmp_path):
        """ResNet-18 and 30 epochs of the teacher, on 100 of the digits."""
        done = fork(
            SCRIPT, "--num_epochs", 1, "--batch_size", 32, "--learning_rate", 0.01, "--data_dir", tmp_path / "digits",
            "--log_dir", tmp_path / "runs", "--mode", "train", before=take_few_digits,
        )  # fmt: skip
        assert done.status == 0 and done.err == ""
        folder = only(tmp_path / "runs")
        report = report_of(folder)
        assert list(report["models"]) == ["teacher", "student"] and report["cost"]["teacher"]["gradient_steps"] == 30
        images = len(np.load(folder / "splits.npz")["train"])
        assert report["cost"]["student"]["gradient_steps"] == math.ceil(images / 32)
        assert weights_of(folder)["layer4.1.conv2.weight"].shape == (512, 512, 3, 3)


CASES = {
    "damaged classifier": ["damaged.pt", "classifier.pt of a run"],
    "student of another model": ["student.pt", "[8, 1, 3, 3]"],
    "classifier of another kind": ["classifier.pt", "does not fit", "same --discriminator"],
    "classifier of other outputs": ["classifier.pt", "does not fit", "same --discriminator"],
    "student of other features": ["--student_model resnet18", "512 features", "the teacher 16"],
    "no mates": ["--match given", "class 0", "unseen", "--validation"],
    "classifier of numbered tensors": ["numbered.pt"],
    "too small a forget set": ["4 forget images", "5 or more"],
    "too small a validation set": ["4 validation images", "5 or more"],
}


@pytest.fixture(scope="module")
def refused(original, distillation, tmp_path_factory):
    """What became of a case, and where its run folder would be; each of them runs once."""
    place, made = tmp_path_factory.mktemp("refused"), {}
    torch.save({1: torch.zeros(3)}, place / "numbered.pt")
    (place / "damaged.pt").write_bytes((distillation.folder / "classifier.pt").read_bytes()[:500])
    weights = weights_of(original.folder)
    torch.save({**weights, "conv1.weight": torch.zeros(8, 1, 3, 3)}, place / "student.pt")
    labels = load_dataset("digits", place).labels
    held_out = [torch.nonzero(labels == label).flatten()[: 2 + 4 * (label > 0)] for label in range(10)]
    (place / "list.txt").write_text("\n".join(map(str, torch.cat(held_out).tolist())))
    (place / "few.txt").write_text("\n".join(map(str, torch.nonzero(labels == 3).flatten()[:4].tolist())))
    teacher, classifier = ("--weight_path", original.folder / "model.pt"), distillation.folder / "classifier.pt"
    train, untrain = ("--mode", "train", *teacher), ("--mode", "untrain")
    given = (*train, "--weight_path_classifier")
    flags = {
        "damaged classifier": (*given, place / "damaged.pt"),
        "student of another model": (*train, "--weight_path_student", place / "student.pt"),
        "student of other features": (*train, "--student_model", "resnet18", "--discriminate", "features"),
        "classifier of another kind": (*given, classifier, "--discriminator", "comparator"),
        "classifier of other outputs": (*given, classifier, "--discriminate", "features"),
        "classifier of numbered tensors": (*given, place / "numbered.pt"),
        "no mates": (
            *untrain, "--validation", f"file:{place}/list.txt", "--forget", "class:0", "--match", "given",
            "--train_num_epochs", 1,
        ),
        "too small a forget set": (*untrain, *teacher, "--forget", "random:4images"),
        "too small a validation set": ("--validation", f"file:{place}/few.txt", "--train_num_epochs", 1),
    }  # fmt: skip

    def get(case: str) -> tuple[object, Path]:
        if case not in made:
            log_dir = place / case
            made[case] = fork(SCRIPT, *QUICK, "--num_epochs", 1, *flags[case], "--log_dir", log_dir), log_dir
        return made[case]

    return get


class TestRefusals:
    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            (["--mode", "nonsense"], ["--mode", "nonsense", *MODES]),
            (["--mode", "untrain", "--freeze_student"], ["--freeze_student", "--mode train"]),
            (["--mode", "untrain_contrastive", "--freeze_classifier"], ["--freeze_classifier", "--mode train"]),
            (["--mode", "untrain", "--student_model", "resnet20"], ["--student_model", "--mode train"]),
            (["--mode", "untrain", "--weight_path_student", "README.md"], ["--weight_path_student", "--mode train"]),
            (
                ["--mode", "untrain", "--weight_path_classifier", "README.md"],
                ["--weight_path_classifier", "--mode train"],
            ),
            (["--mode", "train", "--discriminate", "losses"], ["--discriminate losses", "labels"]),
            (["--freeze_student", "--freeze_classifier"], ["--freeze_student --freeze_classifier", "nothing is left"]),
            (["--weight_path_student", "absent.pt"], ["--weight_path_student absent.pt", "no such file"]),
            (["--weight_path_classifier", "absent.pt"], ["--weight_path_classifier absent.pt", "no such file"]),
            (["--freeze_classifier"], ["--freeze_classifier", "give --weight_path_classifier"]),
            (["--noise", 0], ["--noise", "a number above 0"]),
            (["--discriminator", "nonsense"], ["--discriminator", "nonsense", "scalar_product"]),
            (["--mode", "untrain_contrastive", "--discriminator", "mlp"], ["--discriminator mlp", "logistic"]),
            (["--mode", "untrain", *TOO_FEW_OUTPUTS], [" ".join(TOO_FEW_OUTPUTS)]),
        ],
        ids=lambda part: " ".join(map(str, part)),
    )
    def test_flags(self, tmp_path, flags, says):
        done = fork(SCRIPT, *QUICK, *flags, "--log_dir", tmp_path / "runs")
        assert_refused(done, SCRIPT, *says)
        assert done.out == "" and not list(tmp_path.iterdir())

    @pytest.mark.parametrize("case", CASES)
    def test_one_line_comes_before_any_folder(self, refused, case):
        done, log_dir = refused(case)
        assert_refused(done, SCRIPT, *CASES[case])
        assert not log_dir.exists()


def kill_at_critic_step(number: int) -> None:
    """This process ends at the step of this number in which the discriminator alone learns."""
    from contrastive_discrimination.teaching import CriticSteps

    step, taken = CriticSteps.__call__, []

    def counted(steps: CriticSteps, batch: dict) -> dict:
        taken.append(batch)
        if len(taken) == number:
            signal.raise_signal(signal.SIGKILL)
        return step(steps, batch)

    CriticSteps.__call__ = counted


def take_few_digits() -> None:
    """In this process the digits are 100; checkpoints are left out, as they take more time than everything else."""
    import dataclasses

    import data.arguments
    from helper_functions.record import RunRecord

    load = data.arguments.load_dataset

    def load_few(*args: object, **options: object):
        dataset = load(*args, **options)
        return dataclasses.replace(dataset, images=dataset.images[:100], labels=dataset.labels[:100], num_train=100)

    data.arguments.load_dataset = load_few
    RunRecord.save_checkpoint = lambda *_: None
