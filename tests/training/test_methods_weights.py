"""What methods do to chosen weights: gradients and Fisher information, masks, frozen layers, resets, one-shot steps."""

import copy

import numpy as np
import pytest
import torch
from helpers.method_cases import (
    PLAIN,
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
from torch import nn
from torch.nn import functional as F

from helper_functions.errors import UserError
from models.trainable import split_layers
from unlearning.methods import fisher, influence
from unlearning.methods.fisher import LEAST_INFORMATION
from unlearning.methods.gradients import diagonal_fisher, mean_gradient
from unlearning.methods.influence import woodbury_solve
from unlearning.methods.reset import smallest
from unlearning.methods.salun import largest

SGD = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.1}


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10), nn.ReLU(), nn.Linear(10, 4))


class Aside(nn.Module):
    """A network with weights that its answers do not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.aside = network(), nn.Linear(2, 2)

    def forward(self, inputs):
        return self.used(inputs)


def gradients_of(model, inputs, labels) -> dict[str, torch.Tensor]:
    """Of the mean cross-entropy, by plain autograd."""
    loss = F.cross_entropy(model(inputs), labels)
    parameters = dict(model.named_parameters())
    return dict(zip(parameters, torch.autograd.grad(loss, list(parameters.values())), strict=True))


def fisher_of(model, inputs, labels) -> dict[str, torch.Tensor]:
    """Mean squared gradient, image by image."""
    rows = [gradients_of(model, inputs[i : i + 1], labels[i : i + 1]) for i in range(len(labels))]
    return {name: torch.stack([row[name].square() for row in rows]).mean(0) for name in rows[0]}


class TestMeanGradient:
    def test_is_the_gradient_of_the_mean_over_all_images_in_eval_mode(self, tmp_path):
        case = begin("salun", tmp_path).context
        case.model.train()
        before, images = state_of(case.model), case.cost.images
        found = mean_gradient(case, "forget")
        expected = gradients_of(copy.deepcopy(case.model).eval(), *everything(case.loaders["forget"]))
        assert list(found) == list(expected)
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-4, atol=1e-6)
        assert case.model.training and not changed(before, state_of(case.model)) and case.cost.images == images + 12

    @pytest.mark.parametrize("method", ["salun", "influence", "ssd", "fisher", "msg"])
    def test_weights_that_play_no_part_have_none(self, method, tmp_path):
        model, _ = run(method, tmp_path, model=Aside(), num_epochs=1)
        assert all(value.isfinite().all() for value in model.state_dict().values())


class TestDiagonalFisher:
    @pytest.mark.parametrize("size", [1, 5, 19])
    def test_on_given_labels_is_the_mean_over_single_images(self, size):
        model = network().train()
        inputs = torch.randn(size, 1, 8, 8, generator=torch.Generator().manual_seed(1))
        labels, before = torch.arange(size) % 4, state_of(model)
        batches = [(inputs[:5], labels[:5]), (inputs[5:], labels[5:])] if size > 5 else [(inputs, labels)]
        found, count = diagonal_fisher(model, batches)
        expected = fisher_of(copy.deepcopy(model).eval(), inputs, labels)
        assert count == size and list(found) == list(expected)
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-7)
        assert model.training and not changed(before, state_of(model))
        assert all(parameter.grad is None and parameter.requires_grad for parameter in model.parameters())

    def test_on_sampled_labels_is_the_expectation_over_classes(self):
        torch.manual_seed(3)
        model = nn.Sequential(nn.Linear(3, 4))
        inputs, repeats = torch.randn(3, 3), 1000
        given = torch.zeros(3 * repeats, dtype=torch.int64)
        batches = [(inputs.repeat(repeats, 1), given)]
        found, _ = diagonal_fisher(model, batches, torch.Generator().manual_seed(0))
        expected = {name: torch.zeros_like(value) for name, value in found.items()}
        for image in inputs:
            for label, probability in enumerate(model(image[None]).softmax(1)[0].tolist()):
                for name, value in fisher_of(model, image[None], torch.tensor([label])).items():
                    expected[name] += probability * value / 3
        for name, value in found.items():
            torch.testing.assert_close(value, expected[name], rtol=0.08, atol=3e-3)

    def test_frozen_weights_have_no_information(self):
        model = network()
        model[0].weight.requires_grad_(False)
        found, _ = diagonal_fisher(model, [everything(streams()["forget"])])
        assert set(found) == {name for name, _ in model.named_parameters()} - {"0.weight"}


class TestSalun:
    def mask_by_hand(self, share) -> dict[str, torch.Tensor]:
        model = network()
        gradients = gradients_of(model, *everything(streams()["forget"]))
        magnitudes = np.sort(np.concatenate([g.abs().flatten().numpy() for g in gradients.values()]))[::-1]
        threshold = magnitudes[round(share * len(magnitudes)) - 1] if share else np.inf
        return {name: g.abs() >= float(threshold) * (1 - 1e-5) for name, g in gradients.items()}

    @pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
    @pytest.mark.parametrize(
        "options",
        [SGD, SGD | {"use_sam": True, "rho": 0.5}, SGD | {"optimizer": "adamw", "learning_rate": 0.01}],
        ids=["sgd", "sam", "adamw"],
    )
    def test_weights_outside_of_the_mask_do_not_move(self, share, options, tmp_path):
        start = weights_of(network())
        model, _ = run("salun", tmp_path, mask_share=share, num_epochs=2, bn="train", **options)
        for name, moves in self.mask_by_hand(share).items():
            moved = model.get_parameter(name) != start[name]
            assert not moved[~moves].any(), name
            # A weight behind a rectifier that is shut has no gradient; decay moves it all the same.
            assert moved[moves].float().mean() > 0.98 if moves.any() else not moved.any(), name

    def test_the_mask_is_the_share_with_the_largest_gradient(self, tmp_path):
        mask = begin("salun", tmp_path, mask_share=0.3).trainer.spec.mask
        for name, moves in self.mask_by_hand(0.3).items():
            assert torch.equal(mask[name], moves), name

    @pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.001, 0), (0.25, 5), (0.999, 20), (1.0, 20)])
    def test_largest_takes_as_many_as_asked_for_of_all_tensors_together(self, share, count):
        generator = torch.Generator().manual_seed(0)
        values = {"a": torch.randn(3, 4, generator=generator), "b": torch.randn(8, generator=generator) * 10}
        found = largest(values, share)
        flat = np.concatenate([value.flatten().abs().numpy() for value in values.values()])
        expected = set(np.argsort(-flat)[:count].tolist())
        mask = np.concatenate([value.flatten().numpy() for value in found.values()])
        assert set(np.flatnonzero(mask).tolist()) == expected
        assert {name: value.shape for name, value in found.items()} == {"a": (3, 4), "b": (8,)}

    def test_without_images_in_common_equal_gradients_are_still_counted(self):
        assert sum(mask.sum() for mask in largest({"a": torch.ones(10)}, 0.5).values()) == 5


class Rooted(nn.Module):
    """A network whose outermost module owns a weight itself, as vision transformers do."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.shift = nn.Parameter(torch.randn(1, 1, 8, 8))
        self.body = nn.Sequential(
            nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4, affine=False), nn.ReLU(), nn.Flatten(), nn.Linear(144, 4)
        )
        with torch.no_grad():
            self.body(torch.randn(50, 1, 8, 8))

    def forward(self, inputs):
        return self.body(inputs + self.shift)


class TestLastLayers:
    @pytest.mark.parametrize("options", [SGD, SGD | {"use_sam": True}, SGD | {"optimizer": "adamw"}])
    @pytest.mark.parametrize(("count", "learning"), [(1, {"7"}), (2, {"3", "4", "7"}), (3, None), (9, None)])
    @pytest.mark.parametrize("method", ["cf_k", "eu_k"])
    def test_all_before_them_stays_as_it_is(self, method, count, learning, options, tmp_path):
        """Weights and running statistics, with batch norm in training mode, momentum and decay."""
        before, model = state_of(network()), network()
        run(method, tmp_path, model=model, last_layers=count, num_epochs=2, bn="train", **options)
        moved = {name.split(".")[0] for name in changed(before, state_of(model))}
        assert moved == (learning or {"0", "1", "3", "4", "7"})
        assert all(parameter.requires_grad for parameter in model.parameters())

    @pytest.mark.parametrize("method", ["cf_k", "eu_k"])
    def test_weights_that_were_frozen_before_are_frozen_after(self, method, tmp_path):
        model = network()
        model[0].weight.requires_grad_(False)
        run(method, tmp_path, model=model, last_layers=2, num_epochs=1)
        frozen = [name for name, parameter in model.named_parameters() if not parameter.requires_grad]
        assert frozen == ["0.weight"]

    def test_flags_come_back_after_a_failure(self, tmp_path, monkeypatch):
        unlearning = begin("cf_k", tmp_path, last_layers=1, num_epochs=1)
        monkeypatch.setattr(unlearning, "measure", lambda: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            unlearning.run()
        assert all(parameter.requires_grad for parameter in unlearning.model.parameters())

    @pytest.mark.parametrize(("count", "drawn"), [(1, {"7"}), (2, {"3", "4", "7"}), (9, {"0", "1", "3", "4", "7"})])
    def test_eu_k_draws_every_one_of_them_anew(self, count, drawn, tmp_path):
        unlearning = begin("eu_k", tmp_path, last_layers=count)
        before = state_of(unlearning.model)
        unlearning.trainer.spec.begin()
        after = state_of(unlearning.model)
        assert changed(before, after) == {name for name in before if name.split(".")[0] in drawn}
        for place in (1, 4):
            if str(place) in drawn:
                layer = unlearning.model[place]
                assert (layer.weight == 1).all() and (layer.bias == 0).all() and layer.num_batches_tracked == 0
                assert (layer.running_mean == 0).all() and (layer.running_var == 1).all()

    def test_eu_k_then_learns_the_retain_set_in_them(self, tmp_path):
        loaders = streams(whole=True)
        drawn = begin("eu_k", tmp_path, loaders=loaders, last_layers=1)
        drawn.trainer.spec.begin()
        expected, (inputs, labels) = drawn.model, everything(loaders["retain"])
        for parameter in expected[:7].parameters():
            parameter.requires_grad_(False)
        descend(expected[7], lambda head: F.cross_entropy(head(expected[:7](inputs)), labels))
        settings = {**PLAIN, "bn": "frozen", "num_epochs": 1, "last_layers": 1}
        found, _ = run("eu_k", tmp_path, loaders=streams(whole=True), **settings)
        assert_same_weights(found, expected)

    @pytest.mark.parametrize("method", ["cf_k", "eu_k"])
    def test_a_weight_of_the_outermost_module_does_not_stand_for_all(self, method, tmp_path):
        model = Rooted()
        before = state_of(model)
        run(method, tmp_path, model=model, last_layers=1, num_epochs=1, bn="train", **SGD)
        assert changed(before, state_of(model)) == {"body.4.weight", "body.4.bias"}

    def test_layers_of_a_perceptron_are_its_linear_maps(self):
        model = mlp()
        assert split_layers(model, 1) == ([model[1]], [model[3]])
        assert split_layers(model, 2) == ([], [model[1], model[3]])


class TestRetrain:
    def test_starts_from_fresh_weights_and_statistics(self, tmp_path):
        unlearning = begin("retrain", tmp_path)
        before = state_of(unlearning.model)
        unlearning.trainer.spec.begin()
        assert changed(before, state_of(unlearning.model)) == set(before)
        assert unlearning.model[1].num_batches_tracked == 0 and (unlearning.model[1].running_var == 1).all()

    def test_then_descends_the_retain_loss(self, tmp_path):
        loaders = streams(whole=True)
        fresh = begin("retrain", tmp_path, loaders=loaders)
        fresh.trainer.spec.begin()
        expected, (inputs, labels) = fresh.model, everything(loaders["retain"])
        descend(expected, lambda model: F.cross_entropy(model(inputs), labels))
        found, _ = run("retrain", tmp_path, loaders=streams(whole=True), **PLAIN, bn="frozen", num_epochs=1)
        assert_same_weights(found, expected)

    def test_what_is_drawn_is_of_the_seed_and_leaves_the_global_generator_alone(self, tmp_path):
        drawn = []
        for seed, state in ((0, 1), (0, 2), (1, 1)):
            unlearning = begin("retrain", tmp_path, seed=seed)
            torch.manual_seed(state)
            before = torch.get_rng_state()
            drawn.append(state_of(unlearning.context.fresh()))
            assert torch.equal(torch.get_rng_state(), before)
        assert not changed(drawn[0], drawn[1]) and "0.weight" in changed(drawn[0], drawn[2])


class TestTranspose:
    def test_every_kernel_and_nothing_else(self, tmp_path):
        unlearning = begin("ct", tmp_path)
        before, model = state_of(unlearning.model), unlearning.model
        unlearning.trainer.spec.begin()
        after = state_of(model)
        assert changed(before, after) == {"0.weight", "3.weight"}
        for name in ("0.weight", "3.weight"):
            np.testing.assert_array_equal(after[name].numpy(), before[name].numpy().transpose(0, 1, 3, 2))
        unlearning.trainer.spec.begin()
        assert not changed(before, state_of(model)), "twice is not at all"

    def test_a_kernel_that_is_not_square_stays(self, tmp_path):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 2, (1, 3)), nn.Conv2d(2, 2, 3), nn.Flatten(), nn.Linear(48, 4))
        unlearning = begin("ct", tmp_path, model=model)
        before = state_of(model)
        unlearning.trainer.spec.begin()
        assert changed(before, state_of(model)) == {"1.weight"}


class TestSmallGradients:
    @pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
    def test_the_share_of_each_convolution_with_the_smallest_difference_is_drawn_anew(self, share, tmp_path):
        unlearning = begin("msg", tmp_path, reset_share=share)
        model, fresh = unlearning.model, unlearning.context.fresh()
        before, loaders = state_of(model), unlearning.context.loaders
        retain, forget = (gradients_of(model, *everything(loaders[name])) for name in ("retain", "forget"))
        unlearning.trainer.spec.begin()
        after = state_of(model)
        assert changed(before, after) == ({"0.weight", "3.weight"} if share else set())
        for name in ("0.weight", "3.weight"):
            difference = (retain[name] - forget[name]).abs().flatten().numpy()
            count = round(share * len(difference))
            chosen = np.zeros(len(difference), dtype=bool)
            chosen[np.argsort(difference)[:count]] = True
            moved = (after[name] != before[name]).flatten().numpy()
            np.testing.assert_array_equal(moved, chosen)
            expected = np.where(chosen, fresh.get_parameter(name).detach().flatten(), before[name].flatten())
            np.testing.assert_array_equal(after[name].flatten(), expected)

    def test_smallest_counts_ties_once(self):
        assert smallest(torch.zeros(4, 5), 0.3).sum() == 6 and not smallest(torch.zeros(4, 5), 0.0).any()

    def test_a_frozen_convolution_stays(self, tmp_path):
        for method in ("msg", "ct"):
            model = network()
            model[0].weight.requires_grad_(False)
            unlearning = begin(method, tmp_path, model=model, reset_share=1.0)
            before = state_of(model)
            unlearning.trainer.spec.begin()
            assert changed(before, state_of(model)) == {"3.weight"}

    @pytest.mark.parametrize("method", ["msg", "ct"])
    def test_a_network_without_convolutions_is_refused(self, method, tmp_path):
        with pytest.raises(UserError, match=f"method {method} .* none"):
            begin(method, tmp_path, model=mlp())


class TestDampening:
    @pytest.mark.parametrize(("threshold", "dampening"), [(1.0, 0.5), (1.3, 1.0), (1.0, 1.1), (1e9, 1.0)])
    def test_is_as_brute_force_says(self, threshold, dampening, tmp_path):
        start, loaders = network(), streams()
        forget, retain = (fisher_of(start, *everything(loaders[name])) for name in ("forget", "retain"))
        model, outcome = run("ssd", tmp_path, ssd_threshold=threshold, ssd_dampening=dampening)
        damped = 0
        for name, value in weights_of(start).items():
            f, r = forget[name].double().numpy(), retain[name].double().numpy()
            whole = (12 * f + 24 * r) / 36
            with np.errstate(divide="ignore", invalid="ignore"):
                factor = np.where(f > threshold * whole, np.minimum(dampening * whole / f, 1), 1)
            # Where the two are equal up to rounding, either is right.
            clear = np.abs(f - threshold * whole) > 1e-4 * f
            found, expected = model.get_parameter(name).detach().numpy(), factor * value.numpy()
            np.testing.assert_allclose(found[clear], expected[clear], rtol=1e-3, atol=1e-7)
            damped += (factor < 1).sum()
        assert (damped > 50) == (threshold < 1e9) and outcome.cost.images == 36 and len(outcome.epochs) == 1

    def test_a_weight_without_information_stays_a_number(self, tmp_path):
        model = network()
        with torch.no_grad():
            model[7].weight.zero_()
            model[7].bias.copy_(torch.tensor([500.0, 0.0, 0.0, 0.0]))
        run("ssd", tmp_path, model=model)
        assert all(value.isfinite().all() for value in model.state_dict().values())

    def test_running_statistics_stay(self, tmp_path):
        model = network()
        before = state_of(model)
        run("ssd", tmp_path, model=model, ssd_threshold=1.0)
        assert changed(before, state_of(model)) <= {name for name, _ in model.named_parameters()}


class TestFisherNoise:
    def test_has_the_variance_of_scale_over_information(self, tmp_path, monkeypatch):
        generator, start = torch.Generator().manual_seed(5), network()
        information = {
            name: 10 ** (4 * torch.rand(value.shape, generator=generator) - 5)
            for name, value in weights_of(start).items()
        }
        information["7.bias"][:] = 0
        monkeypatch.setattr(fisher, "diagonal_fisher", lambda model, batches, sample: (information, 24))
        model, _ = run("fisher", tmp_path, noise_scale=0.01)
        scaled = []
        for name, value in weights_of(start).items():
            variance = 0.01 / np.maximum(information[name].numpy(), LEAST_INFORMATION)
            scaled.append(((model.get_parameter(name).detach() - value).numpy() / np.sqrt(variance)).flatten())
        scaled = np.concatenate(scaled)
        assert len(scaled) > 600 and min(value.min() for value in information.values()) < LEAST_INFORMATION
        assert abs(scaled.mean()) < 4 / np.sqrt(len(scaled))
        assert abs(scaled.std() - 1) < 4 / np.sqrt(2 * len(scaled))

    def test_information_is_of_retain_images_and_of_labels_that_the_model_draws(self, tmp_path, monkeypatch):
        asked = []

        def spy(model, batches, sample):
            batches = list(batches)
            asked.append((sum(len(labels) for _, labels in batches), sample))
            return diagonal_fisher(model, batches, sample)

        monkeypatch.setattr(fisher, "diagonal_fisher", spy)
        unlearning = begin("fisher", tmp_path)
        unlearning.run()
        assert asked == [(24, unlearning.context.generator)]


class TestInfluence:
    @pytest.mark.parametrize(("rows", "size"), [(1, 6), (4, 6), (9, 3)])
    def test_woodbury_is_the_inverse_of_the_dense_matrix(self, rows, size):
        generator = torch.Generator().manual_seed(rows)
        gradients = torch.randn(rows, size, generator=generator, dtype=torch.float64)
        vector = torch.randn(size, generator=generator, dtype=torch.float64)
        dense = 0.05 * np.eye(size) + gradients.T.numpy() @ gradients.numpy() / rows
        found = woodbury_solve(gradients, 0.05, vector)
        np.testing.assert_allclose(found.numpy(), np.linalg.solve(dense, vector.numpy()), rtol=1e-9)

    @pytest.mark.parametrize("count", [24, 6, 5])
    def test_the_whole_step_by_a_dense_matrix(self, count, tmp_path, monkeypatch):
        monkeypatch.setattr(influence, "GRADIENTS", count)
        start, loaders = network(), streams()
        inputs, labels = everything(loaders["retain"])

        def flat(images, wanted):
            return np.concatenate([g.flatten().double().numpy() for g in gradients_of(start, images, wanted).values()])

        places = np.array_split(np.arange(24), count)
        # As if each were one image's: m images' mean has an outer product m times smaller than theirs.
        rows = np.stack([np.sqrt(len(part)) * flat(inputs[part], labels[part]) for part in places])
        dense = 0.1 * np.eye(rows.shape[1]) + rows.T @ rows / count
        step = 0.7 * 12 / 24 * np.linalg.solve(dense, flat(*everything(loaders["forget"])))
        model, outcome = run("influence", tmp_path, newton_step=0.7, damping=0.1)
        moved = [model.get_parameter(name).detach() - value for name, value in weights_of(start).items()]
        found = np.concatenate([part.flatten().numpy() for part in moved])
        np.testing.assert_allclose(found, step, rtol=2e-3, atol=2e-6)
        assert outcome.cost.images == 36

    def test_forget_loss_rises(self, tmp_path):
        start, (inputs, labels) = network(), everything(streams()["forget"])
        model, _ = run("influence", tmp_path, newton_step=0.1, damping=1.0)
        with torch.no_grad():
            assert F.cross_entropy(model(inputs), labels) > F.cross_entropy(start(inputs), labels)
