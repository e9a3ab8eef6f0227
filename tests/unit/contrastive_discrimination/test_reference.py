"""References and statistics of outputs: which images are drawn, and what of them is seen, one image at a time."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from contrastive_discrimination.reference import Reference, View, output_statistics
from helper_functions.errors import UserError

NOTHING = torch.zeros(0, dtype=torch.int64)


def seeded(seed=0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def teacher(labels, num_classes=5, seed=0) -> torch.Tensor:
    """Logits `[U, K]`, no two of which are equal."""
    return 2 * torch.randn(len(labels), num_classes, generator=seeded(seed))


def reference(labels, match, view="logits", forgotten=NOTHING, num_classes=5, wanted=None, features=None) -> Reference:
    labels = torch.as_tensor(labels)
    return Reference(
        View(view, num_classes, forgotten), match, teacher(labels, num_classes), labels, features, "unseen",
        labels if wanted is None else torch.as_tensor(wanted),
    )  # fmt: skip


def apart(logits, classes) -> list[float]:
    """Of one image, with Python's floats: log P(classes), then the others sorted, nothing below -2 log K."""
    exponentials = [math.exp(value) for value in logits.double().tolist()]
    total, lowest = sum(exponentials), -2 * math.log(len(exponentials))
    inside = math.log(sum(exponentials[k] for k in classes) / total)
    rest = sorted((math.log(value / total) for k, value in enumerate(exponentials) if k not in classes), reverse=True)
    row = [inside, *rest]
    return [max(value, lowest) for value in row + [-math.inf] * (len(exponentials) - len(row))]


class TestView:
    @pytest.mark.parametrize("forgotten", [[], [3], [1, 4]])
    def test_what_has_to_go_is_the_label_and_the_forgotten_classes(self, forgotten):
        view = View("logits", 5, torch.tensor(forgotten, dtype=torch.int64))
        labels = torch.arange(5)
        found = [{k for k in range(5) if row[k]} for row in view.to_go(labels).tolist()]
        assert found == [{label, *forgotten} for label in range(5)]
        assert view.set_apart == max(1, len(forgotten))

    @pytest.mark.parametrize("forgotten", [[], [1, 4]])
    def test_logits_against_one_image_at_a_time(self, forgotten):
        labels = torch.arange(40) % 5
        logits, view = teacher(labels), View("logits", 5, torch.tensor(forgotten, dtype=torch.int64))
        found = view(logits, None, view.to_go(labels))
        expected = [apart(row, {label, *forgotten}) for row, label in zip(logits, labels.tolist(), strict=True)]
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)

    def test_losses_are_cross_entropies_up_to_the_square_of_a_guess(self):
        labels = torch.arange(40) % 5
        logits, view = 3 * teacher(labels), View("losses", 5, NOTHING)
        found = view(logits, None, view.to_go(labels))
        losses = F.cross_entropy(logits, labels, reduction="none").clamp(max=2 * math.log(5))
        assert found.shape == (40, 1) and losses.max() == 2 * math.log(5)
        torch.testing.assert_close(found[:, 0], losses)

    def test_features_are_seen_as_they_are(self):
        view, labels = View("features", 5, NOTHING), torch.arange(4)
        features = torch.randn(4, 7, generator=seeded()).bfloat16().requires_grad_()
        found = view(teacher(labels), features, view.to_go(labels))
        assert found.dtype == torch.float32 and torch.equal(found, features.float())
        found.sum().backward()
        assert torch.equal(features.grad, torch.ones_like(features))


class TestGiven:
    def test_pairs_are_two_images_of_the_wanted_class(self):
        labels, wanted = torch.arange(30) % 5, torch.arange(200) % 5
        first, second = reference(labels, "given").draw(wanted, seeded())
        assert torch.equal(labels[first], wanted) and torch.equal(labels[second], wanted) and (first != second).all()

    @pytest.mark.parametrize("forgotten", [[], [3], [1, 4]])
    def test_an_image_has_its_own_class_set_apart(self, forgotten):
        labels = torch.arange(30) % 5
        seen = reference(labels, "given", forgotten=torch.tensor(forgotten, dtype=torch.int64))
        rows = torch.randint(30, (50,), generator=seeded(1))
        expected = [apart(seen.logits[i], {int(labels[i]), *forgotten}) for i in rows.tolist()]
        found = seen.outputs(rows, seeded())
        torch.testing.assert_close(found, torch.tensor(expected), atol=1e-5, rtol=1e-5)

    @pytest.mark.parametrize("count", [0, 1])
    def test_a_class_that_is_short_is_named(self, count):
        labels = [0, 0, 1, 1, *[3] * count]
        with pytest.raises(UserError, match=rf"class 3 of the forget set has {count} unseen .*--validation"):
            reference(labels, "given", wanted=[0, 3, 1])
        assert reference(labels, "given", wanted=[0, 1]) and reference(labels, "none", wanted=[0, 3, 1])


class TestNone:
    @pytest.mark.parametrize("forgotten", [[], [3], [1, 4], [0, 1, 2, 3]])
    def test_set_apart_are_others_than_the_label_and_as_many_as_have_to_go(self, forgotten):
        """Which classes those were is told by trying all of them."""
        labels = torch.arange(60) % 5
        seen = reference(labels, "none", forgotten=torch.tensor(forgotten, dtype=torch.int64))
        seen.logits = seen.logits / 4  # above the floor, where no two are seen alike
        rows = torch.arange(60).repeat(4)
        count, chosen = max(1, len(forgotten)), set()
        for i, row in zip(rows.tolist(), seen.outputs(rows, seeded()).tolist(), strict=True):
            fitting = [
                classes for classes in itertools.combinations(range(5), count)
                if np.allclose(row, apart(seen.logits[i], classes), atol=1e-5)
            ]  # fmt: skip
            assert len(fitting) == 1 and int(labels[i]) not in fitting[0]
            chosen.add((int(labels[i]), fitting[0]))
        assert len(chosen) == 5 * math.comb(4, count), "each set that there can be is drawn"

    def test_pairs_are_two_images_of_any_class(self):
        drawing = reference([0, 0, 1, 2], "none", wanted=[4])
        first, second = drawing.draw(torch.full((3000,), 4), seeded())
        assert not (first == second).any()
        # Each of the 12 ordered pairs is as likely: 250 each, standard deviation 15.
        counts = torch.bincount(4 * first + second, minlength=16).reshape(4, 4)
        assert counts.diag().sum() == 0 and (counts[~torch.eye(4, dtype=torch.bool)] - 250).abs().max() < 75

    def test_labels_do_not_move_the_draw(self):
        drawing = reference([0, 1, 2, 3, 4], "none")
        found = [drawing.draw(labels, seeded(3)) for labels in (torch.zeros(9).long(), torch.arange(9) % 5)]
        assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1], found[1][1])

    @pytest.mark.parametrize("labels", [[], [2]])
    def test_fewer_than_two_images_are_refused(self, labels):
        with pytest.raises(UserError, match=rf"{len(labels)} unseen image to pair.*--validation"):
            reference(torch.tensor(labels, dtype=torch.int64), "none", wanted=[2])


class TestOutputs:
    @pytest.mark.parametrize("match", ["given", "none"])
    def test_views_share_their_images(self, match):
        """Losses are the first column of logits with its sign turned, for the same draws; features are the rows."""
        labels, rows = torch.arange(20) % 5, torch.tensor([3, 3, 19, 0])
        features = torch.randn(20, 7, generator=seeded(4))
        logits, losses, seen = (
            reference(labels, match, view, features=features if view == "features" else None).outputs(rows, seeded(2))
            for view in ("logits", "losses", "features")
        )
        assert torch.equal(losses, -logits[:, :1]) and torch.equal(seen, features[rows])
        assert logits.shape == (4, 5) and torch.equal(logits[0], logits[1]) == (match == "given")

    @pytest.mark.parametrize("match", ["given", "none"])
    def test_follow_the_generator_alone(self, match):
        seen, rows = reference(torch.arange(20) % 5, match), torch.arange(20)
        before = torch.get_rng_state()
        assert torch.equal(seen.outputs(rows, seeded(7)), seen.outputs(rows, seeded(7)))
        assert torch.equal(torch.get_rng_state(), before)


class TestStatistics:
    @pytest.mark.parametrize("size", [1, 2, 3, 100])
    def test_against_one_row_at_a_time(self, size):
        outputs = torch.randn(25, size, dtype=torch.float64, generator=seeded(size))
        if size == 1:
            outputs = outputs.abs()
        expected = []
        for row in outputs.tolist():
            own = row[0]
            if size == 1:
                # A loss, whose negative is the log-probability.
                expected.append([own, math.exp(-own), own**2])
                continue
            entropy = -sum(math.exp(value) * value for value in row)
            expected.append([own, math.exp(own), own**2, row[1], row[1] ** 2, entropy, *row[2:3]])
        found = output_statistics(outputs)
        assert found.shape == (25, {1: 3, 2: 6}.get(size, 7))
        torch.testing.assert_close(found, torch.tensor(expected, dtype=torch.float64))

    @pytest.mark.parametrize("view", ["logits", "losses"])
    @pytest.mark.parametrize("num_classes", [2, 3, 100])
    @pytest.mark.parametrize("scale", [0.0, 1.0, 1e4, 1e30])
    def test_values_and_gradients_are_finite_however_certain_the_outputs(self, view, num_classes, scale):
        labels = torch.arange(30) % num_classes
        logits = (scale * teacher(labels, num_classes)).requires_grad_()
        seen = View(view, num_classes, NOTHING)
        found = output_statistics(seen(logits, None, seen.to_go(labels)))
        found.sum().backward()
        assert found.isfinite().all() and logits.grad.isfinite().all()

    def test_one_mean_is_met_by_two_laws_and_the_statistics_tell_them_apart(self):
        """Half of the losses at 0 and half at 2 have the mean of losses at 1."""
        split, together = torch.tensor([[0.0], [2.0]]), torch.tensor([[1.0], [1.0]])
        means = [output_statistics(losses).mean(0) for losses in (split, together)]
        assert means[0][0] == means[1][0] and (means[0] - means[1])[1:].abs().min() > 0.1

    def test_gradient_against_finite_differences(self):
        for size in (1, 2, 4):
            outputs = torch.randn(3, size, dtype=torch.float64, generator=seeded(size)).requires_grad_()
            assert torch.autograd.gradcheck(output_statistics, outputs)
