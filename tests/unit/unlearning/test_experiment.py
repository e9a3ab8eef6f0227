"""Models of one experiment: a student and a retrained model have the stem that the original's weights show."""

from pathlib import Path

import pytest
import torch

import train_contrastive
from models import get_model
from models.weights import infer_stem
from unlearning.experiment import Experiment


def experiment_of(place: Path, *flags: str) -> Experiment:
    """On the digits, with the original built as a script does first of all."""
    (place / "held_out.txt").write_text("\n".join(map(str, range(0, 400))))
    asked = ["--dataset", "digits", "--data_dir", str(place), "--validation", f"file:{place}/held_out.txt", *flags]
    args = train_contrastive.get_parser().parse(asked)
    experiment = Experiment(args, args.weight_path)
    experiment.model(args.weight_path)
    return experiment


@pytest.fixture(scope="module")
def loose(tmp_path_factory) -> list[str]:
    """Flags for a ResNet-18 of the CIFAR stem, of which there are the weights alone."""
    path = tmp_path_factory.mktemp("loose") / "weights.pt"
    torch.save(get_model("resnet18", 10, 1, "cifar").state_dict(), path)
    return ["--model", "resnet18", "--weight_path", str(path)]


@pytest.fixture(scope="module")
def beside_loose(loose, tmp_path_factory) -> Experiment:
    return experiment_of(tmp_path_factory.mktemp("digits"), *loose)


@pytest.mark.parametrize("name", [None, "resnet18", "resnet34"])
def test_students_and_the_retrained_model_have_the_stem_of_loose_weights(beside_loose, name):
    found = beside_loose.model(name=name)
    assert infer_stem(found.state_dict()) == "cifar" and isinstance(found.maxpool, torch.nn.Identity)


def test_weights_of_its_own_come_first(beside_loose, tmp_path):
    torch.save(get_model("resnet18", 10, 1, "imagenet").state_dict(), tmp_path / "weights.pt")
    assert infer_stem(beside_loose.model(str(tmp_path / "weights.pt")).state_dict()) == "imagenet"


@pytest.mark.parametrize("stated", [[], ["--stem", "cifar"]])
def test_a_student_without_a_choice_of_stems_takes_none(loose, tmp_path, stated):
    found = experiment_of(tmp_path, *loose, *stated).model(name="shufflenet_v2_x0_5")
    assert infer_stem(found.state_dict()) is None


def test_a_student_is_the_same_beside_a_teacher_that_is_trained_here(tmp_path):
    experiment = experiment_of(tmp_path, "--model", "resnet8")
    assert infer_stem(experiment.model(name="resnet18").state_dict()) == "cifar"
