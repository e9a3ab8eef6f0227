"""Relearn time and the linear probe: what is still known, told by learning a little more; the model stays as it was."""

import copy

import numpy as np
import pytest
import scipy.optimize
import torch
from helpers.method_cases import CPU
from helpers.numbered_images import images_read
from torch import nn
from torch.nn import functional as F

from data.datasets import Dataset
from data.image_sets import ImageSets
from data.splits import make_splits
from evaluation.attacks import relearn
from evaluation.attacks.probe import linear_probe_top1, probe_images
from evaluation.attacks.relearn import relearn_steps
from helper_functions.metrics import summarise
from helper_functions.training.inference import predict

CLASSES = 4


def image_sets(forget="random:60", size=600) -> ImageSets:
    """Noise, and in the first row a bright pixel that tells the class."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 120, (size, 1, 4, 4), generator=generator, dtype=torch.uint8)
    labels = torch.arange(size) % CLASSES
    images[:, 0, 0] += 130 * F.one_hot(labels, CLASSES).to(torch.uint8)
    dataset = Dataset("toy", images, labels, tuple("abcd"), size, (0.5,), (0.5,))
    return ImageSets(dataset, make_splits(dataset, forget), None, torch.device("cpu"), 0)


def network(knows: float) -> nn.Sequential:
    """Sees the class as well as `knows` says, from 0, not at all; -1 is wrong about each image."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(16), nn.Linear(16, CLASSES))
    nn.init.zeros_(model[2].bias)
    model[2].weight.data.mul_(0.01)
    model[2].weight.data[:, :CLASSES] += knows * torch.eye(CLASSES)
    return model


def top1(model, sets) -> float:
    return summarise(*predict(model, sets.evaluation(sets.splits.forget), CPU))["top1"]


@pytest.fixture
def touched(monkeypatch) -> set[int]:
    return images_read(monkeypatch)


class TestRelearn:
    def test_a_model_that_still_knows_needs_no_step(self):
        sets = image_sets()
        assert top1(network(2.0), sets) == 100
        assert relearn_steps(network(2.0), sets, CPU, 100.0) == 0
        # Within the margin of one point is near enough, and just beyond it is not.
        model = network(-0.05)
        accuracy = top1(model, sets)
        assert relearn_steps(model, sets, CPU, accuracy + 1) == 0
        assert relearn_steps(model, sets, CPU, accuracy + 1.1) > 0

    def test_counts_the_steps_of_a_plain_loop(self, monkeypatch):
        """An independent loop of SGD on the same batches is there after as many steps, and not a check earlier."""
        monkeypatch.setattr(relearn, "LEARNING_RATE", 0.01)
        monkeypatch.setattr(relearn, "BATCH_SIZE", 16)
        sets = image_sets()
        count = relearn_steps(network(-0.1), sets, CPU, 100.0)
        model = network(-0.1).train()
        loader = sets.training(sets.splits.forget, 16, augment=False, stream=9)
        assert len(loader) == 4, "checked after every step"
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
        steps = 0
        while top1(model, sets) < 99:
            for inputs, labels in loader:
                optimizer.zero_grad()
                F.cross_entropy(model(inputs), labels).backward()
                optimizer.step()
                steps += 1
                if top1(model, sets) >= 99:
                    break
        assert count == steps

    def test_gives_up_after_its_epochs(self, monkeypatch):
        monkeypatch.setattr(relearn, "BATCH_SIZE", 20)
        monkeypatch.setattr(relearn, "LEARNING_RATE", 1e-6)
        assert relearn_steps(network(-3.0), image_sets(), CPU, 100.0) == relearn.MAX_EPOCHS * 3

    def test_given_labels_are_relearned(self):
        sets = image_sets("mislabelled:0.1")
        model = network(2.0)
        assert top1(model, sets) == 0, "the true classes are known, the given ones are not"
        assert relearn_steps(model, sets, CPU, 100.0) > 0

    def test_reads_the_forget_set_alone_and_leaves_the_model(self, touched):
        sets, model = image_sets(), network(-0.1)
        before = copy.deepcopy(model.state_dict())
        state = torch.get_rng_state()
        relearn_steps(model, sets, CPU, 100.0)
        assert touched == set(sets.splits.forget.tolist())
        assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
        assert all(parameter.grad is None for parameter in model.parameters()) and model.training
        assert torch.equal(torch.get_rng_state(), state)


class Features(nn.Module):
    """A head that has forgotten everything, on features that have the class in them, or have not."""

    def __init__(self, informative: bool) -> None:
        super().__init__()
        self.start = 0 if informative else 8
        self.head = nn.Linear(4, CLASSES)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)

    def forward(self, images):
        return self.head(images.flatten(1)[:, self.start : self.start + 4])


class TestLinearProbe:
    @pytest.mark.parametrize("forget", ["random:60", "class:b", "class:b,c"])
    def test_finds_what_features_hold_and_nothing_where_they_hold_nothing(self, forget):
        sets = image_sets(forget)
        assert linear_probe_top1(Features(True), sets, CPU, 0) > 95
        assert linear_probe_top1(Features(False), sets, CPU, 0) < 50

    def test_is_ridge_penalised_logistic_regression_on_standardised_features(self):
        """Minimised by SciPy; two of the four features have a class in them, so that many answers are wrong."""
        sets, model = image_sets(), Features(True)
        model.start = 2
        learned, judged = probe_images(sets, 0, 5000)
        (x, y), (others, wanted) = (
            (sets.dataset.images[part].flatten(1)[:, 2:6].double(), sets.splits.labels[part])
            for part in (learned, judged)
        )
        mean, std = x.mean(0), x.std(0, correction=0)
        x, others = (x - mean) / std, (others - mean) / std

        def value_and_slope(flat):
            weights = torch.tensor(flat).reshape(5, CLASSES).requires_grad_()
            loss = F.cross_entropy(x @ weights[:4] + weights[4], y, reduction="sum") + weights[:4].square().sum() / 2
            loss.backward()
            return loss.item(), weights.grad.flatten().numpy()

        flat = scipy.optimize.minimize(value_and_slope, np.zeros(5 * CLASSES), jac=True, method="L-BFGS-B").x
        weights = torch.tensor(flat).reshape(5, CLASSES)
        expected = ((others @ weights[:4] + weights[4]).argmax(1) == wanted).double().mean().item()
        assert 0.4 < expected < 0.9
        assert linear_probe_top1(model, sets, CPU, 0) == pytest.approx(100 * expected, abs=100 / len(judged))

    def test_wrong_labels_are_not_found_in_features_of_right_ones(self):
        assert linear_probe_top1(Features(True), image_sets("mislabelled:0.1"), CPU, 0) < 5

    def test_the_seed_and_the_model_decide_and_the_model_stays(self, touched):
        sets, model = image_sets(), Features(True).train()
        first, again = (linear_probe_top1(model, sets, CPU, 0) for _ in range(2))
        assert first == again and model.training
        assert set(sets.splits.forget.tolist()) <= touched
        assert touched <= set(sets.splits.forget.tolist()) | set(sets.splits.retain.tolist())

    @pytest.mark.parametrize("forget", ["random:60", "class:b", "mislabelled:0.1"])
    def test_learns_from_no_image_that_it_is_judged_on(self, forget):
        sets = image_sets(forget)
        learned, judged = probe_images(sets, 0, 100)
        splits = sets.splits
        assert not torch.isin(learned, judged).any() and torch.isin(judged, splits.forget).all()
        kept = learned[torch.isin(learned, splits.retain)]
        assert len(kept) == 100
        extra = learned[~torch.isin(learned, splits.retain)]
        if forget == "class:b":
            # As many as of the average of the three classes that are kept.
            assert len(extra) == 34 and torch.isin(extra, splits.forget).all()
            assert len(judged) == len(splits.forget) - 34
        else:
            assert len(extra) == 0 and torch.equal(judged, splits.forget)

    def test_features_that_are_no_numbers_have_none(self):
        model = Features(True)
        model.register_forward_pre_hook(lambda _, images: (images[0] * torch.nan,))
        assert linear_probe_top1(model, image_sets(), CPU, 0) is None
