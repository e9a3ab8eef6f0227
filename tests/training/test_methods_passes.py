"""Update rules of the methods of passes: each one's steps against its formula, written out here."""

import copy
import math

import numpy as np
import pytest
import torch
from helpers.method_cases import (
    PLAIN,
    RATE,
    assert_same_weights,
    begin,
    changed,
    descend,
    everything,
    network,
    run,
    state_of,
    streams,
    weights_of,
)
from scipy import special, stats
from torch import nn
from torch.nn import functional as F

from unlearning.context import MethodContext
from unlearning.methods import lotus, random_labels, unsir
from unlearning.methods.boundary_shrink import nearest_wrong_labels
from unlearning.methods.delete import without_own
from unlearning.methods.lotus import tempered
from unlearning.methods.random_labels import other_labels
from unlearning.methods.ugradsl_plus import smoothed_cross_entropy
from unlearning.methods.unsir import NOISE_PENALTY, learn_noise


def cross_entropy(logits, labels):
    return -logits.log_softmax(1)[torch.arange(len(labels)), labels].mean()


def divergence(teacher, student, temperature=1.0):
    """Mean KL(teacher || student) at a temperature, times its square."""
    p, q = (logits / temperature for logits in (teacher, student))
    return temperature**2 * (p.softmax(1) * (p.log_softmax(1) - q.log_softmax(1))).sum(1).mean()


class Steps:
    """Steps of a run with one batch a pass, and the same steps by hand, in a batch-norm mode."""

    def __init__(self, method, folder, bn, num_epochs=1, num_classes=4, **settings) -> None:
        self.bn, self.expected = bn, network(num_classes)
        self.original = copy.deepcopy(self.expected).eval()
        loaders = streams(whole=True, num_classes=num_classes)
        self.forget, self.labels = everything(loaders["forget"])
        self.retain, self.retain_labels = everything(loaders["retain"])
        settings = {**PLAIN, "bn": bn, "num_epochs": num_epochs, **settings}
        self.model, self.outcome = run(method, folder, model=network(num_classes), loaders=loaders, **settings)

    def descend(self, loss) -> None:
        self.expected.train(self.bn == "train")
        descend(self.expected, loss)

    def on_retain(self, model):
        return cross_entropy(model(self.retain), self.retain_labels)

    def on_forget(self, model):
        return cross_entropy(model(self.forget), self.labels)

    def check(self, steps: int) -> None:
        assert_same_weights(self.model, self.expected)
        assert not torch.allclose(self.model[0].weight, self.original[0].weight, atol=1e-5), "nothing was learned"
        assert self.outcome.cost.gradient_steps == steps


@pytest.fixture(params=["frozen", "train"])
def bn(request) -> str:
    return request.param


class TestSteps:
    @pytest.mark.parametrize("method", ["finetune", "cf_k"])
    def test_fine_tuning_descends_the_retain_loss(self, method, bn, tmp_path):
        steps = Steps(method, tmp_path, bn, num_epochs=2, last_layers=99)
        for _ in range(2):
            steps.descend(steps.on_retain)
        steps.check(2)

    def test_gradient_ascent_climbs_the_forget_loss(self, bn, tmp_path):
        steps = Steps("gradient_ascent", tmp_path, bn)
        before = steps.on_forget(steps.original)
        steps.descend(lambda model: -steps.on_forget(model))
        steps.check(1)
        if bn == "frozen":
            assert steps.on_forget(steps.model) > before

    def test_neggrad_plus_is_the_weighted_sum(self, bn, tmp_path):
        steps = Steps("neggrad_plus", tmp_path, bn, retain_weight=0.7)
        steps.descend(lambda model: 0.7 * steps.on_retain(model) - 0.3 * steps.on_forget(model))
        steps.check(1)

    @pytest.mark.parametrize("msteps", [1, 2, 9])
    def test_scrub_maximises_for_msteps_epochs_and_minimises_in_all(self, msteps, bn, tmp_path):
        steps = Steps(
            "scrub", tmp_path, bn, num_epochs=3, msteps=msteps, divergence_weight=0.3, retain_weight=0.6,
            temperature=2.0,
        )  # fmt: skip
        taught = {name: steps.original(inputs).detach() for name, inputs in vars(steps).items() if name in NAMED}

        def obey(model):
            return 0.3 * divergence(taught["retain"], model(steps.retain), 2.0) + 0.6 * steps.on_retain(model)

        for epoch in range(3):
            if epoch < msteps:
                steps.descend(lambda model: -divergence(taught["forget"], model(steps.forget), 2.0))
            steps.descend(obey)
        steps.check(3 + min(msteps, 3))

    @pytest.mark.parametrize("method", ["random_labels", "salun"])
    def test_random_labels_are_learned_and_then_the_retain_set(self, method, bn, tmp_path):
        """With two classes, the other label is the only one that is left; all weights are in the mask."""
        steps = Steps(method, tmp_path, bn, num_classes=2, mask_share=1.0)
        steps.descend(lambda model: cross_entropy(model(steps.forget), 1 - steps.labels))
        steps.descend(steps.on_retain)
        steps.check(2)

    def test_bad_teacher_weighs_every_image_the_same(self, bn, tmp_path, monkeypatch):
        torch.manual_seed(9)
        ignorant = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
        monkeypatch.setattr(MethodContext, "fresh", lambda context: ignorant)
        steps = Steps("bad_teacher", tmp_path, bn, temperature=3.0)
        bad, good = ignorant(steps.forget).detach(), steps.original(steps.retain).detach()

        def loss(model):
            parts = (bad, model(steps.forget)), (good, model(steps.retain))
            return sum(len(taught) * divergence(taught, logits, 3.0) for taught, logits in parts) / (12 + 24)

        steps.descend(loss)
        steps.check(1)

    def test_l1_sparse_adds_a_norm_whose_weight_falls_linearly(self, bn, tmp_path):
        steps = Steps("l1_sparse", tmp_path, bn, num_epochs=4, l1_penalty=0.02)
        for weight in (0.02, 0.015, 0.01, 0.005):
            steps.descend(
                lambda model, weight=weight: (
                    steps.on_retain(model) + weight * sum(value.abs().sum() for value in model.parameters())
                )
            )
        steps.check(4)

    def test_delete_distils_the_original_without_the_own_class(self, bn, tmp_path):
        steps = Steps("delete", tmp_path, bn)
        wanted = steps.original(steps.forget).softmax(1).detach()
        wanted[torch.arange(12), steps.labels] = 0
        wanted /= wanted.sum(1, keepdim=True)
        # The entropy of what is wanted is no part of the gradient.
        steps.descend(lambda model: -(wanted * model(steps.forget).log_softmax(1)).sum(1).mean())
        steps.check(1)

    def test_ugradsl_plus_climbs_with_negatively_smoothed_labels(self, bn, tmp_path):
        steps = Steps("ugradsl_plus", tmp_path, bn, retain_weight=0.6, smoothing=0.4)
        labels = 1.4 * F.one_hot(steps.labels, 4) - 0.4 / 4

        def loss(model):
            climbed = -(labels * model(steps.forget).log_softmax(1)).sum(1).mean()
            return 0.6 * steps.on_retain(model) - 0.4 * climbed

        steps.descend(loss)
        steps.check(1)

    def test_boundary_shrink_learns_the_nearest_wrong_class_of_the_original(self, bn, tmp_path):
        steps = Steps("boundary_shrink", tmp_path, bn, num_epochs=2, fgsm_step=0.5)
        inputs = steps.forget.clone().requires_grad_()
        (slope,) = torch.autograd.grad(F.cross_entropy(steps.original(inputs), steps.labels, reduction="sum"), inputs)
        logits = steps.original(steps.forget + 0.5 * torch.sign(slope)).detach()
        logits[torch.arange(12), steps.labels] = -1e9
        nearest = logits.argmax(1)
        for _ in range(2):
            steps.descend(lambda model: cross_entropy(model(steps.forget), nearest))
        steps.check(2)

    def test_lotus_softens_forget_answers_and_samples_retain_answers(self, bn, tmp_path, monkeypatch):
        """With softmaxes in place of samples, so that the step can be written out."""
        temperatures = []

        def softened(logits, temperature, generator):
            temperatures.append(temperature)
            return (logits / (temperature + 1)).softmax(1)

        monkeypatch.setattr(lotus, "tempered", softened)
        steps = Steps("lotus", tmp_path, bn, num_epochs=2, tempering=3.0)
        unseen, unseen_labels = everything(streams()["unseen"])
        # All four classes are equally many among forget and unseen images: no weights are needed.
        reference = (steps.original(unseen).argmax(1) == unseen_labels).double().mean().item()
        for epoch in range(2):
            right = steps.expected.eval()(steps.forget).argmax(1) == steps.labels
            temperature = math.exp(3 * (right.double().mean().item() - reference))
            assert temperatures[2 * epoch : 2 * epoch + 2] == [pytest.approx(temperature), 0]
            wanted = torch.cat(
                [
                    (steps.original(steps.forget) / (temperature + 1)).softmax(1),
                    steps.original(steps.retain).softmax(1),
                ]
            ).detach()
            steps.descend(
                lambda model, wanted=wanted: (
                    -(wanted * torch.cat([model(steps.forget), model(steps.retain)]).log_softmax(1)).sum(1).mean()
                )
            )
        steps.check(2)

    def test_unsir_impairs_with_noise_once_and_repairs_without(self, bn, tmp_path, monkeypatch):
        noise = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(3))
        labels = torch.tensor([0, 1, 2, 3, 0, 1])
        monkeypatch.setattr(unsir, "learn_noise", lambda context, classes, count: (noise, labels))
        steps = Steps("unsir", tmp_path, bn, num_epochs=3)
        both = torch.cat([steps.retain, noise]), torch.cat([steps.retain_labels, labels])
        steps.descend(lambda model: cross_entropy(model(both[0]), both[1]))
        for _ in range(2):
            steps.descend(steps.on_retain)
        steps.check(3)


NAMED = ("forget", "retain")


class TestOptions:
    def test_sam_takes_the_gradient_at_the_worst_point_nearby(self, tmp_path):
        steps = Steps("neggrad_plus", tmp_path, "frozen", retain_weight=0.7, use_sam=True, rho=0.3)
        parameters = list(steps.expected.parameters())

        def gradients():
            loss = 0.7 * steps.on_retain(steps.expected) - 0.3 * steps.on_forget(steps.expected)
            return torch.autograd.grad(loss, parameters)

        first = gradients()
        norm = torch.cat([gradient.flatten() for gradient in first]).norm()
        start = weights_of(steps.expected)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, first, strict=True):
                parameter += 0.3 * gradient / norm
        second = gradients()
        with torch.no_grad():
            for parameter, value, gradient in zip(parameters, start.values(), second, strict=True):
                parameter.copy_(value - RATE * gradient)
        steps.check(1)

    def test_both_passes_of_sam_have_the_same_labels(self, tmp_path, monkeypatch):
        draws = []

        def counted(labels, num_classes, generator):
            draws.append(len(labels))
            return other_labels(labels, num_classes, generator)

        monkeypatch.setattr(random_labels, "other_labels", counted)
        run("random_labels", tmp_path, use_sam=True, num_epochs=1)
        assert draws == [6, 6], "one draw for each batch of forget images"

    def test_longer_gradients_are_scaled_down(self, tmp_path):
        steps = Steps("gradient_ascent", tmp_path, "frozen", max_grad_norm=0.01)
        moved = [new - old for new, old in zip(steps.model.parameters(), steps.original.parameters(), strict=True)]
        length = torch.cat([part.flatten() for part in moved]).norm().item()
        assert length == pytest.approx(RATE * 0.01, rel=1e-3)


class TestOtherLabels:
    def test_are_never_the_own_one_and_uniform_over_the_others(self):
        labels = torch.arange(5).repeat(4000)
        drawn = other_labels(labels, 5, torch.Generator().manual_seed(0))
        counts = np.zeros((5, 5), dtype=int)
        np.add.at(counts, (labels.numpy(), drawn.numpy()), 1)
        assert drawn.dtype == torch.int64 and (np.diag(counts) == 0).all()
        for label, row in enumerate(counts):
            assert stats.chisquare(np.delete(row, label)).pvalue > 1e-3

    def test_are_drawn_anew_for_every_batch(self, tmp_path, monkeypatch):
        drawn = []

        def kept(labels, num_classes, generator):
            found = other_labels(labels, num_classes, generator)
            drawn.append((found - labels) % num_classes)
            return found

        monkeypatch.setattr(random_labels, "other_labels", kept)
        run("random_labels", tmp_path, num_epochs=2, loaders=streams(whole=True))
        assert len(drawn) == 2 and not torch.equal(*drawn)


class TestNearestWrongLabels:
    @pytest.mark.parametrize("step", [0.0, 0.3, 2.0])
    def test_are_what_a_step_of_fgsm_leads_to_and_never_the_own_ones(self, step):
        torch.manual_seed(1)
        weight, images = torch.randn(5, 7), torch.randn(40, 7)
        # Each image of the class that is named first, and of others.
        labels = (images @ weight.T).argmax(1)
        labels[20:] = torch.arange(20) % 5
        found = nearest_wrong_labels(lambda inputs: inputs @ weight.T, images, labels, step)
        for image, label, other in zip(images.numpy(), labels.tolist(), found.tolist(), strict=True):
            w = weight.numpy()
            slope = w.T @ (special.softmax(w @ image) - np.eye(5)[label])
            logits = w @ (image + step * np.sign(slope))
            assert other != label and other == max(set(range(5)) - {label}, key=lambda k: logits[k])
        assert images.grad is None and not images.requires_grad


class TestWithoutOwn:
    def test_renormalises_the_probabilities_of_the_others(self):
        logits, labels = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)) * 5, torch.arange(9) % 4
        expected = special.softmax(logits.double().numpy(), axis=1)
        expected[np.arange(9), labels] = 0
        expected /= expected.sum(1, keepdims=True)
        np.testing.assert_allclose(without_own(logits, labels).numpy(), expected, rtol=1e-4, atol=1e-7)

    def test_a_certain_answer_is_no_nan(self):
        found = without_own(torch.tensor([[500.0, 0.0, 0.0]]), torch.tensor([0]))
        assert found.tolist() == [[0, 0.5, 0.5]]


class TestSmoothing:
    @pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.7])
    def test_positive_is_torchs_own(self, smoothing):
        logits, labels = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 4
        expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        torch.testing.assert_close(smoothed_cross_entropy(logits, labels, smoothing), expected)

    def test_negative_is_the_sum_over_classes(self):
        logits, labels = torch.randn(9, 4, generator=torch.Generator().manual_seed(0)), torch.arange(9) % 4
        logs, total = special.log_softmax(logits.double().numpy(), axis=1), 0.0
        for image in range(9):
            for label in range(4):
                total -= (1.3 * (label == image % 4) - 0.3 / 4) * logs[image, label]
        assert smoothed_cross_entropy(logits, labels, -0.3).item() == pytest.approx(total / 9, rel=1e-5)


class TestTempered:
    LOGITS = torch.tensor([[2.0, 0.0, -1.0], [0.3, 0.1, 0.2]])

    def draws(self, temperature, count=20_000):
        samples = tempered(self.LOGITS.repeat(count, 1), temperature, torch.Generator().manual_seed(0))
        assert samples.shape == (2 * count, 3)
        torch.testing.assert_close(samples.sum(1), torch.ones(2 * count))
        return samples.view(count, 2, 3)

    def test_at_zero_one_class_is_drawn_by_its_probability(self):
        drawn = self.draws(0)
        assert set(drawn.unique().tolist()) == {0, 1}
        for row, expected in zip(drawn.sum(0).numpy(), special.softmax(self.LOGITS.numpy(), axis=1), strict=True):
            assert stats.chisquare(row, 20_000 * expected / expected.sum()).pvalue > 1e-3

    @pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
    def test_samples_are_of_the_gumbel_softmax_distribution(self, temperature):
        """The most probable entry is the Gumbel maximum; log-ratios of two entries are logistic, scaled."""
        drawn = self.draws(temperature)
        for row in range(2):
            logs = drawn[:, row].double().log()
            difference = (temperature * (logs[:, 0] - logs[:, 1])).numpy()
            located = (self.LOGITS[row, 0] - self.LOGITS[row, 1]).item()
            assert stats.kstest(difference, stats.logistic(loc=located).cdf).pvalue > 1e-3

    def test_draws_come_from_the_generator(self):
        same = [tempered(self.LOGITS, 1.0, torch.Generator().manual_seed(4)) for _ in range(2)]
        assert torch.equal(*same)

    def test_a_draw_of_zero_is_no_nan(self, monkeypatch):
        """However rare it is: one would spoil all weights."""
        exponential = torch.Tensor.exponential_

        def with_zeros(tensor, *args, **options):
            found = exponential(tensor, *args, **options)
            found[:, :2] = 0
            return found

        monkeypatch.setattr(torch.Tensor, "exponential_", with_zeros)
        for temperature in (0, 0.5, 2.0):
            found = tempered(self.LOGITS, temperature, torch.Generator().manual_seed(0))
            assert found.isfinite().all() and found.sum(1).tolist() == pytest.approx([1, 1])



class TestNoise:
    def context(self, tmp_path, **settings):
        unlearning = begin("unsir", tmp_path, **settings)
        return unlearning.context

    def test_maximises_the_originals_error_and_leaves_it_alone(self, tmp_path):
        context = self.context(tmp_path, noise_steps=30)
        before = state_of(context.model)
        context.generator.manual_seed(0)
        noise, labels = learn_noise(context, torch.tensor([1, 3]), 5)
        first = torch.randn(10, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        assert labels.tolist() == [1] * 5 + [3] * 5 and not noise.requires_grad
        with torch.no_grad():
            losses = [F.cross_entropy(context.model(images), labels).item() for images in (first, noise)]
        assert losses[1] > losses[0] + 0.5
        assert not changed(before, state_of(context.model))
        assert all(parameter.grad is None for parameter in context.model.parameters())

    def test_a_step_is_adams_on_loss_and_size(self, tmp_path):
        """Adam's first step has the size of its rate, against the sign of the gradient."""
        context = self.context(tmp_path, noise_steps=1, noise_learning_rate=0.2)
        context.generator.manual_seed(0)
        noise, labels = learn_noise(context, torch.tensor([0, 2]), 3)
        first = torch.randn(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)).requires_grad_()
        loss = -F.cross_entropy(context.model(first), labels) + NOISE_PENALTY * first.square().mean()
        (slope,) = torch.autograd.grad(loss, first)
        # The small number beside the root matters where the gradient is small itself.
        torch.testing.assert_close(noise, (first - 0.2 * slope / (slope.abs() + 1e-8)).detach(), rtol=1e-3, atol=1e-4)

    def test_one_batch_of_noise_for_all_classes_that_go(self, tmp_path, monkeypatch):
        asked = []

        def asking(context, classes, count):
            asked.append((classes.tolist(), count))
            return learn_noise(context, classes, count)

        monkeypatch.setattr(unsir, "learn_noise", asking)
        for batch_size in (128, 3):
            begin("unsir", tmp_path, batch_size=batch_size)
        assert asked == [([0, 1, 2, 3], 32), ([0, 1, 2, 3], 1)]
