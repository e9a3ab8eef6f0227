"""Update rules of RELOAD, MU-Mis, HAMU, FaLW, UAM and POUR-P, each against its formula or brute force."""

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
    everything,
    network,
    run,
    state_of,
    streams,
    weights_of,
)
from torch import nn
from torch.nn import functional as F

from helper_functions.errors import UserError
from helper_functions.record import RunRecord
from unlearning.methods import check_classes, random_labels
from unlearning.methods.falw import class_statistics, forgetting_weights
from unlearning.methods.hamu import direction
from unlearning.methods.method import ClassCounts
from unlearning.methods.mu_mis import sensitivities

WHOLE = streams(whole=True)
FORGET, LABELS = everything(WHOLE["forget"])
RETAIN, RETAIN_LABELS = everything(WHOLE["retain"])


def once(method: str, folder, loaders=None, **settings) -> nn.Module:
    """The model after epochs of plain descent with one batch a pass, in eval mode."""
    settings = {**PLAIN, "bn": "frozen", "num_epochs": 1, **settings}
    return run(method, folder, loaders=loaders or streams(whole=True), **settings)[0]


def gradients_of(model: nn.Module, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    named = dict(model.named_parameters())
    found = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
    return {name: torch.zeros_like(named[name]) if g is None else g for name, g in zip(named, found, strict=True)}


def step(model: nn.Module, gradients: dict[str, torch.Tensor], rate: float = RATE) -> None:
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter -= rate * gradients[name]


def test_the_rate_is_a_tenth_after_each_of_the_epochs_asked_for(tmp_path):
    """SCRUB's first max step has no gradient: student and teacher are the same."""
    expected = network()
    for rate in (RATE, RATE, RATE / 10):
        step(expected, gradients_of(expected, F.cross_entropy(expected(RETAIN), RETAIN_LABELS)), rate)
    weights = {"divergence_weight": 0.0, "retain_weight": 1.0, "msteps": 1}
    assert_same_weights(once("scrub", tmp_path, num_epochs=3, decay_epochs=[2, 3, 9], **weights), expected)


class TestReload:
    @pytest.mark.parametrize("share", [0.0, 0.2, 1.0])
    def test_climbs_and_draws_the_weights_with_the_lowest_share_of_the_forget_set_anew(self, share, tmp_path):
        start = network()
        both = torch.cat([FORGET, RETAIN]), torch.cat([LABELS, RETAIN_LABELS])
        whole = gradients_of(start, F.cross_entropy(start(both[0]), both[1]))
        retain = gradients_of(start, F.cross_entropy(start(RETAIN), RETAIN_LABELS))
        ratios = {name: ((whole[name] - retain[name]).abs() + 1e-10) / (whole[name].abs() + 1e-10) for name in whole}
        order = torch.cat([ratio.flatten() for ratio in ratios.values()]).sort().values
        count = round(share * len(order))
        unlearning = begin("reload", tmp_path, model=network(), reset_share=share, ascent_step=0.3)
        fresh = dict(unlearning.context.fresh().named_parameters())
        unlearning.trainer.spec.begin()
        drawn, close = 0, 0
        for name, value in unlearning.model.named_parameters():
            climbed = start.get_parameter(name) + 0.3 * (whole[name] - retain[name])
            lowest = ratios[name] <= order[count - 1] if count else torch.zeros_like(value, dtype=torch.bool)
            expected = torch.where(lowest, fresh[name], climbed)
            # Rounding decides between nearly equal shares.
            close += (~torch.isclose(value, expected, rtol=1e-3, atol=1e-5)).sum().item()
            drawn += lowest.sum().item()
        assert drawn == count and close <= 0.01 * len(order)

    def test_then_descends_the_retain_loss(self, tmp_path):
        unlearning = begin("reload", tmp_path / "begun", loaders=streams(whole=True))
        unlearning.trainer.spec.begin()
        expected = unlearning.model
        step(expected, gradients_of(expected, F.cross_entropy(expected(RETAIN), RETAIN_LABELS)))
        assert_same_weights(once("reload", tmp_path), expected)


def next_labels(labels, num_classes, generator):
    return (labels + 1) % num_classes


class TestMuMis:
    def others(self, monkeypatch) -> torch.Tensor:
        monkeypatch.setattr(random_labels, "other_labels", next_labels)
        return (LABELS + 1) % 4

    def test_sensitivities_are_squared_gradients_of_single_images(self, tmp_path):
        context = begin("mu_mis", tmp_path).context
        found = sensitivities(context, FORGET, LABELS, (LABELS + 1) % 4)
        for number, image in enumerate(FORGET):
            rows = torch.autograd.functional.jacobian(lambda x: context.model(x[None])[0], image).flatten(1)
            for values, label in zip(found, (LABELS[number], (LABELS[number] + 1) % 4), strict=True):
                assert values[number].item() == pytest.approx(rows[label].square().sum().item(), rel=1e-4)

    def test_a_step_lowers_the_labels_sensitivity_and_raises_anothers(self, tmp_path, monkeypatch):
        others, expected = self.others(monkeypatch), network()

        def loss(model):
            found = 0.0
            for image, label, other in zip(FORGET, LABELS, others, strict=True):
                image = image[None].clone().requires_grad_()
                logits = model(image)[0]
                own, wrong = (
                    torch.autograd.grad(logits[place], image, create_graph=True)[0].square().sum()
                    for place in (label, other)
                )
                found = found + (own - wrong) / len(LABELS)
            return found

        step(expected, gradients_of(expected, loss(expected)))
        assert_same_weights(once("mu_mis", tmp_path), expected)

    def test_ends_once_the_other_classes_sensitivity_has_recovered(self, tmp_path, monkeypatch):
        others = self.others(monkeypatch)
        settings = {"learning_rate": 0.05, "num_epochs": 3, "momentum": 0.0, "weight_decay": 0.0}

        def measured(model):
            context = begin("mu_mis", tmp_path, model=copy.deepcopy(model)).context
            return sensitivities(context, FORGET, others)[0].mean().item()

        ratio = measured(run("mu_mis", tmp_path, recovery=1e-9, **settings)[0]) / measured(network())
        epochs = [
            len(run("mu_mis", tmp_path, recovery=scale * ratio, **settings)[1].epochs) for scale in (0.999, 1e6)
        ]
        assert epochs == [1, 3]

    def test_a_run_that_had_ended_does_not_go_on_when_resumed(self, tmp_path):
        settings = {"recovery": 1e-9, "num_epochs": 3}
        model, outcome = run("mu_mis", tmp_path, **settings)
        resumed = begin("mu_mis", tmp_path, **settings)
        assert len(resumed.run(RunRecord(tmp_path).load_checkpoint()).epochs) == len(outcome.epochs) == 1
        assert not changed(state_of(model), state_of(resumed.model))


class TestHamu:
    @pytest.mark.parametrize("seed", range(12))
    def test_the_direction_meets_the_conditions_of_an_optimum(self, seed):
        """Karush, Kuhn and Tucker's, which are sufficient here; the radius is the retain gradient's length."""
        generator = torch.Generator().manual_seed(seed)
        retain, forget = (torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(2))
        gain = torch.rand((), generator=generator, dtype=torch.float64) * 0.9 * retain.norm() * forget.norm()
        r, f, q, d = retain.numpy(), forget.numpy(), gain.item(), -direction(retain, forget, gain).numpy()
        assert f @ d >= q - 1e-9 and d @ d <= r @ r + 1e-9
        multipliers, *_ = np.linalg.lstsq(np.stack([f, -d], 1), r, rcond=None)
        np.testing.assert_allclose(np.stack([f, -d], 1) @ multipliers, r, atol=1e-8)
        assert (multipliers >= -1e-9).all()
        slack = np.array([f @ d - q, r @ r - d @ d])
        np.testing.assert_allclose(multipliers * slack, 0, atol=1e-7)

    def test_where_nothing_is_in_the_way_it_is_descent(self):
        retain = torch.tensor([1.0, -2.0, 0.5])
        assert torch.equal(direction(retain, -retain, torch.tensor(0.1)), retain)
        assert torch.equal(direction(retain, torch.zeros(3), torch.tensor(0.0)), retain)

    def test_an_amount_out_of_reach_is_met_by_the_shortest_step(self):
        retain, forget = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.5])
        np.testing.assert_allclose(-direction(retain, forget, torch.tensor(4.0)).numpy(), [0.0, 8.0], atol=1e-6)

    def test_a_step_turns_each_tensor_by_its_part_of_the_gain(self, tmp_path):
        expected = network()
        retain = gradients_of(expected, F.cross_entropy(expected(RETAIN), RETAIN_LABELS))
        forget = gradients_of(expected, F.cross_entropy(expected(FORGET), LABELS))
        lengths = {name: retain[name].norm() * forget[name].norm() for name in retain}
        total = sum(lengths.values())
        gains = {name: 0.3 * length / total for name, length in lengths.items()}
        step(expected, {name: direction(retain[name], forget[name], gains[name]) for name in retain})
        assert_same_weights(once("hamu", tmp_path, forget_gain=0.3), expected)


class TestFalw:
    def test_weights_are_those_of_the_formula(self):
        scores, balance = torch.tensor([2.0, -0.5, 0.0, -9.0, 30.0]), torch.tensor([1.0, 0.8, 1.3, 1.0, 2.0])
        pairs = zip(scores.tolist(), balance.tolist(), strict=True)
        expected = [1 + np.sign(z) * math.tanh(abs(z)) ** (1 / b) for z, b in pairs]
        np.testing.assert_allclose(forgetting_weights(scores, balance).numpy(), expected, rtol=1e-6, atol=1e-7)

    def test_statistics_by_class(self):
        values, labels = torch.tensor([0.1, 0.4, 0.9, 0.3]), torch.tensor([0, 0, 2, 0])
        mean, deviation = class_statistics(values, labels, 4)
        np.testing.assert_allclose(mean.numpy(), [0.8 / 3, 0, 0.9, 0], rtol=1e-6)
        assert deviation[0].item() == pytest.approx(np.std([0.1, 0.4, 0.3]), rel=1e-5)
        assert 0 < deviation[2] < 1e-7 and deviation[1] == deviation[3] == math.inf

    def test_a_step_weighs_each_image_by_its_distance_from_unseen_ones(self, tmp_path, monkeypatch):
        monkeypatch.setattr(random_labels, "other_labels", next_labels)
        expected, (unseen, unseen_labels) = network(), everything(streams()["unseen"])
        loaders = streams(whole=True)
        loaders["forget"].labels[:5] = 0
        labels = loaders["forget"].labels[:12]
        counts = np.bincount(labels.numpy(), minlength=4)
        with torch.no_grad():
            known, own = (
                expected(inputs).softmax(1)[torch.arange(len(given)), given].double().numpy()
                for inputs, given in ((unseen, unseen_labels), (FORGET, labels))
            )
        weights = []
        for probability, label in zip(own, labels.tolist(), strict=True):
            same = known[unseen_labels.numpy() == label]
            score = (probability - same.mean()) / same.std()
            balance = (12 / (4 * counts[label])) ** 0.5
            weights.append(1 + np.sign(score) * math.tanh(abs(score)) ** (1 / balance))
        losses = F.cross_entropy(expected(FORGET), (labels + 1) % 4, reduction="none")
        step(expected, gradients_of(expected, (torch.tensor(weights) * losses).mean()))
        step(expected, gradients_of(expected, F.cross_entropy(expected(RETAIN), RETAIN_LABELS)))
        assert_same_weights(once("falw", tmp_path, loaders, balance=0.5), expected)
        assert np.ptp(weights) > 0.1

    def test_refuses_wrong_labels_and_classes_without_unseen_images(self, tmp_path):
        with pytest.raises(UserError, match="^--method falw: .* labels are right; take salun"):
            begin("falw", tmp_path, target="chance")
        loaders = streams()
        loaders["forget"].labels[:] = 3
        loaders["unseen"].labels[:] = 2
        with pytest.raises(UserError, match="^--method falw: it needs unseen images"):
            begin("falw", tmp_path, loaders=loaders)


class TestUam:
    def test_takes_the_retain_gradient_up_the_forget_loss_at_a_radius_that_falls(self, tmp_path):
        expected = network()
        for radius in (0.2, 0.1):
            upwards = gradients_of(expected, F.cross_entropy(expected(FORGET), LABELS))
            length = torch.cat([gradient.flatten() for gradient in upwards.values()]).norm()
            start = weights_of(expected)
            with torch.no_grad():
                for name, parameter in expected.named_parameters():
                    parameter += radius * upwards[name] / length
            downwards = gradients_of(expected, F.cross_entropy(expected(RETAIN), RETAIN_LABELS))
            with torch.no_grad():
                for name, parameter in expected.named_parameters():
                    parameter.copy_(start[name])
            step(expected, downwards)
        # Half of a cosine over two steps: the whole radius, then half of it.
        assert_same_weights(once("uam", tmp_path, ascent_radius=0.2, num_epochs=2), expected)


class TestPour:
    @pytest.mark.parametrize("classes", [[0], [0, 2]])
    def test_is_the_projection_of_the_features_off_the_classes_weights(self, classes, tmp_path):
        start, loaders = network(), streams()
        for name in ("forget", "retain"):
            gone = torch.isin(loaders[name].labels[loaders[name].indices], torch.tensor(classes))
            loaders[name].indices = loaders[name].indices[gone == (name == "forget")]
        model, outcome = run("pour", tmp_path, loaders=loaders)
        features, head = start[:7](RETAIN).detach().double().numpy(), start[7]
        weight, bias = head.weight.detach().double().numpy(), head.bias.detach().double().numpy()
        basis, _ = np.linalg.qr(weight[classes].T)
        expected = (features - features @ basis @ basis.T) @ weight.T + bias
        np.testing.assert_allclose(model(RETAIN).detach().numpy(), expected, rtol=1e-4, atol=1e-4)
        assert changed(state_of(start), state_of(model)) == {"7.weight"}
        assert outcome.cost.images == outcome.cost.gradient_steps == 0

    def test_refuses_a_part_of_a_class(self):
        forget, retain = torch.tensor([3, 0, 2]), torch.tensor([0, 9, 0])
        check_classes("pour", "zero", ClassCounts(forget, retain, forget))
        with pytest.raises(UserError, match="^--method pour: it forgets whole classes, and 1 of the forget set's have"):
            check_classes("pour", "zero", ClassCounts(forget, retain + torch.tensor([0, 0, 1]), forget))

    def test_refuses_a_head_that_may_not_move(self, tmp_path):
        with pytest.raises(UserError, match="method pour .* take another"):
            begin("pour", tmp_path, trainable=r"^0\.")
