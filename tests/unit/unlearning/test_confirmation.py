"""Whether the model sees what it saw in its training: accuracies, the rules, and what the search for another finds."""

import dataclasses
import json
import types

import pytest
import torch
from helpers.method_cases import CPU
from torch import Tensor, nn

from data.datasets import Dataset
from data.image_sets import ImageSets
from data.preprocessing import Preprocessing
from data.splits import make_splits
from helper_functions.errors import UserError
from unlearning.confirmation import FILE, Confirmation, accuracies, confirm
from unlearning.preprocessing_search import _gains as gains
from unlearning.preprocessing_search import at_chance, find_better

SIZE, CLASSES = 300, 3
MEAN, STD = (0.5,), (0.25,)


class Brightness(nn.Module):
    """Names the class by the mean of its input, of images that shine with it; `thresholds` are in the input's units."""

    def __init__(self, thresholds: tuple[float, float], order: tuple[int, ...] = (0, 1, 2)) -> None:
        super().__init__()
        self.thresholds, self.order = thresholds, order

    def forward(self, inputs: Tensor) -> Tensor:
        level = torch.bucketize(inputs.mean((1, 2, 3)), torch.tensor(self.thresholds))
        return torch.eye(CLASSES)[torch.tensor(self.order)[level]]


def experiment(wrong: float = 0.0, wrong_held_out: float = 0.0, **changes: object) -> types.SimpleNamespace:
    """Grey pictures of 30, 120 and 210, of which a share has another label, in training and in held-out images."""
    labels = torch.arange(SIZE) % CLASSES
    images = (30 + 90 * labels).to(torch.uint8).view(-1, 1, 1, 1).repeat(1, 1, 2, 2)
    images[:, 0, 0, 0] = images[:, 0, 0, 0] + torch.arange(SIZE) % 7  # no copies
    stated = Preprocessing(mean=list(MEAN), std=list(STD))
    names = ("a", "b", "c")
    dataset = Dataset("digits", images, labels, names, SIZE, MEAN, STD, preprocessing=stated)
    splits = make_splits(dataset, "random:30", validation="0.2")
    given, held_out = splits.labels.clone(), torch.cat([splits.validation, splits.unseen])
    for part, share in ((splits.train, wrong), (held_out, wrong_held_out)):
        images_of = part[: round(share * len(part))]
        given[images_of] = (given[images_of] + 1) % CLASSES
    splits = dataclasses.replace(splits, labels=given)
    sets = ImageSets(dataset, splits, None, torch.device("cpu"), 0)
    seen = {"model": "mine", "data_dir": "photos", **dataclasses.asdict(stated)}
    content = {"dataset": dataset, "splits": splits, "sets": sets, "precision": CPU, "size_stated": True}
    content |= {"args": types.SimpleNamespace(stem="auto"), "seen": lambda: seen}
    return types.SimpleNamespace(**content | changes)


def thresholds(mean: float = MEAN[0], std: float = STD[0]) -> tuple[float, float]:
    """Between the classes' levels, as inputs that are normalised so."""
    return tuple((level / 255 - mean) / std for level in (75, 165))


RIGHT = Brightness(thresholds())


def test_accuracies_are_those_of_a_count():
    case = experiment(wrong=0.25, wrong_held_out=0.5)
    found = accuracies(case, RIGHT)
    right = case.splits.labels == case.dataset.labels
    parts = {"retain": case.splits.retain, "forget": case.splits.forget, "train": case.splits.train,
             "held_out": torch.cat([case.splits.validation, case.splits.unseen])}  # fmt: skip
    assert found == pytest.approx({name: 100 * right[part].double().mean().item() for name, part in parts.items()})


class TestRules:
    def test_nearly_all_right_needs_no_search(self):
        assert confirm(experiment(), RIGHT, "x.pt", None).confirmed_by == "accuracy"

    def test_no_other_is_better(self):
        found = confirm(experiment(wrong=0.1, wrong_held_out=0.3), RIGHT, "x.pt", None)
        assert (found.confirmed_by, found.warning) == ("comparison", None)

    def test_hardly_better_than_on_held_out_images(self):
        found = confirm(experiment(wrong=0.1, wrong_held_out=0.1), RIGHT, "x.pt", None)
        assert found.confirmed_by is None and "hardly more than of held-out ones" in found.warning
        causes = ["--mean 0.5 --std 0.25", "--class_order", "--stem auto", "--expected_accuracy"]
        assert sorted(causes, key=found.warning.index) == causes
        assert found.lines()[1] == f"warning  preprocessing unconfirmed: {found.warning}"

    def test_what_the_owner_expects(self):
        case = experiment(wrong=0.1, wrong_held_out=0.1)
        train = accuracies(case, RIGHT)["train"]
        for expected in (train - 0.99, train + 0.99):
            assert confirm(case, RIGHT, "x.pt", expected).confirmed_by == "expected_accuracy"
        for expected in (train - 1.01, train + 1.01):
            with pytest.raises(UserError, match=f"--expected_accuracy {expected:g}: {train:.2f} % .* check --mean"):
                confirm(case, RIGHT, "x.pt", expected)

    def test_trained_in_this_run(self):
        assert confirm(experiment(wrong=0.9), RIGHT, None, None).confirmed_by == "training"

    @pytest.mark.parametrize(("told", "confirmed"), [("training", "run"), (None, None)])
    def test_the_run_of_the_weights_states_it(self, told, confirmed, tmp_path):
        case = experiment(wrong=0.2, wrong_held_out=0.1)
        entry = {**case.seen(), "data_dir": "moved", "confirmed_by": told}
        (tmp_path / FILE).write_text(json.dumps(entry))
        found = confirm(case, RIGHT, str(tmp_path / "model.pt"), None)
        assert found.confirmed_by == confirmed and bool(found.warning) == (told is None)
        for content in (json.dumps({**entry, "std": [0.3]}), "[]", "{", "[" * 10**5):
            (tmp_path / FILE).write_text(content)
            assert "hardly" in confirm(case, RIGHT, str(tmp_path / "model.pt"), None).warning

    def test_weights_at_chance_are_refused_unless_they_are_only_judged(self):
        guesser = Brightness((9, 9))
        with pytest.raises(UserError, match=r"--weight_path bad\.pth: .* little more than by guessing; check") as info:
            confirm(experiment(), guesser, "bad.pth", None)
        assert "\n" not in str(info.value)
        assert confirm(experiment(), guesser, "bad.pth", None, refuse=False).confirmed_by is None

    @pytest.mark.parametrize(("classes", "most"), [(2, 60), (10, 20), (100, 2)])
    def test_at_chance(self, classes, most):
        assert at_chance(most, classes) and not at_chance(most + 0.01, classes)

    def test_gains(self):
        """Against the exact two-sided binomial test of the pictures that differ, and a point at least."""
        before = torch.zeros(500, dtype=torch.bool)
        before[:400] = True
        for won, lost, expected in [(5, 0, False), (8, 0, True), (4, 0, False), (30, 20, False), (40, 10, True)]:
            after = before.clone()
            after[400 : 400 + won] = True
            after[:lost] = False
            assert gains(before, after) == expected
            assert not gains(after, before)


class TestSearch:
    @pytest.mark.parametrize("normalisation", [([0.1307], [0.3081]), ([0.0], [1.0])])
    def test_another_normalisation(self, normalisation):
        (mean,), (std,) = normalisation
        found = find_better(experiment(wrong=0.05), Brightness(thresholds(mean, std)))
        assert found.startswith(f"set --mean {mean} --std {std} (")
        assert confirm(experiment(wrong=0.05), Brightness(thresholds(mean, std)), "x.pt", None, refuse=False).warning

    def test_another_order_of_the_classes(self):
        found = find_better(experiment(wrong=0.05), Brightness(thresholds(), (2, 0, 1)))
        assert found.startswith("set another --class_order (9")

    def test_both(self):
        found = find_better(experiment(wrong=0.05), Brightness(thresholds(0.0, 1.0), (2, 0, 1)))
        assert found.startswith("set --mean 0.0 --std 1.0 and another --class_order (9")

    def test_what_is_right_stays(self):
        assert find_better(experiment(wrong=0.3), RIGHT) is None

    def test_a_model_that_takes_no_such_input_is_wrong_everywhere(self):
        class Picky(nn.Module):
            def forward(self, inputs: Tensor) -> Tensor:
                raise RuntimeError("Output size is too small")

        assert find_better(experiment(), Picky()) is None


def test_lines_of_a_model_without_a_part():
    accuracy = {"retain": 50.0, "forget": None, "train": 50.0, "held_out": 25.0}
    assert Confirmation(accuracy, "run").lines() == ["original 50.00 % of retain, 25.00 % of held-out images right"]
