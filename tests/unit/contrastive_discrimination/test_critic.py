"""Critics and their held-out AUC: learning, judging, restoring, and figures whose true value is known."""

import math

import numpy as np
import pytest
import torch
from scipy.stats import norm
from sklearn.metrics import roc_auc_score
from torch.nn import functional as F

from contrastive_discrimination import held_out
from contrastive_discrimination.critic import Critic
from contrastive_discrimination.discriminators import DISCRIMINATORS
from contrastive_discrimination.held_out import auc, held_out_auc, resampled_auc
from helper_functions.errors import UserError

SMOOTH = ["difference", "scalar_product", "jensen_shannon", "logistic"]
TRAINED = [name for name in DISCRIMINATORS if name != "logistic"]


def randn(*shape, seed=0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def pairs(count, size=6, seed=0, alike=False) -> tuple[torch.Tensor, torch.Tensor]:
    """Outputs of `count` pairs, nearly equal or independent."""
    first, second = 3 * randn(count, size, seed=2 * seed), 3 * randn(count, size, seed=2 * seed + 1)
    return first, first + second / 30 if alike else second


def builder(name, size=6, **kwargs):
    return lambda: Critic(DISCRIMINATORS[name](size), **kwargs)


def bits(critic) -> list[bytes]:
    """The critic's state, to the bit."""
    state = critic.state_dict()
    tensors = list(state["discriminator"].values())
    tensors += [value for slots in state["optimizer"].get("state", {}).values() for value in slots.values()]
    return [tensor.numpy().tobytes() for tensor in tensors]


def learnt(name, steps=3) -> Critic:
    torch.manual_seed(0)
    critic = builder(name, learning_rate=1e-2)()
    for step in range(steps):
        critic.learn(pairs(64, seed=step, alike=True), pairs(64, seed=100 + step))
    return critic


class TestLearn:
    @pytest.mark.parametrize("name", DISCRIMINATORS)
    def test_returns_the_loss_and_accuracy_of_its_pass(self, name):
        critic, same, different = learnt(name), pairs(30, seed=5, alike=True), pairs(90, seed=6)
        # In eval mode, without dropout, `judge` gives the same logits.
        critic.frozen = True
        found = critic.learn(same, different)
        logits = [critic.judge(*kind) for kind in (same, different)]
        loss = (F.softplus(-logits[0]).mean() + F.softplus(logits[1]).mean()) / 2
        right = (logits[0] > 0).sum() + (logits[1] <= 0).sum()
        assert list(found) == ["classifier/loss", "classifier/accuracy"]
        assert all(value.shape == () and not value.requires_grad for value in found.values())
        assert found["classifier/loss"].item() == pytest.approx(loss.item(), rel=1e-5)
        assert found["classifier/accuracy"].item() == pytest.approx(right.item() / 120 * 100)

    def test_one_adam_step_by_hand(self):
        """Adam's first step is the learning rate times the gradient's sign, after decay (Loshchilov and Hutter)."""
        critic = builder("scalar_product", learning_rate=0.1)()
        critic.optimizer.param_groups[0]["weight_decay"] = 0.5
        module = critic.discriminator
        torch.nn.init.constant_(module.bias, 2.0)
        critic.learn(pairs(50, alike=True), pairs(50, seed=1))
        assert module.bias.item() == pytest.approx(2 * (1 - 0.1 * 0.5) - 0.1, rel=1e-4)
        assert module.log_scale.item() == pytest.approx(0.1, rel=1e-4)

    def test_each_kind_weighs_half_whatever_its_count(self):
        """A bias alone learns the log odds of the kinds: 0 where their weights are equal."""
        critic = builder("scalar_product", learning_rate=0.05)()
        zeros = torch.zeros(30, 6), torch.zeros(30, 6)
        torch.nn.init.constant_(critic.discriminator.bias, 1.0)
        for _ in range(200):
            critic.learn(zeros, (torch.zeros(270, 6), torch.zeros(270, 6)))
        assert abs(critic.discriminator.bias.item()) < 0.01

    def test_exact_discriminator_is_refitted_on_the_batch(self):
        critic, same, different = learnt("logistic"), pairs(100, seed=8, alike=True), pairs(40, seed=9)
        critic.learn(same, different)
        fresh = DISCRIMINATORS["logistic"](6)
        first, second = (torch.cat(halves) for halves in zip(same, different, strict=True))
        fresh.fit(first, second, (torch.arange(140) < 100).float())
        assert torch.equal(critic.judge(*same), fresh(*same))

    def test_figures_are_those_before_the_step(self):
        for name in ("logistic", "scalar_product"):
            critic = builder(name)()
            before = critic.judge(*pairs(50, alike=True)), critic.judge(*pairs(50, seed=1))
            loss = (F.softplus(-before[0]).mean() + F.softplus(before[1]).mean()) / 2
            found = critic.learn(pairs(50, alike=True), pairs(50, seed=1))
            assert found["classifier/loss"].item() == pytest.approx(loss.item())

    @pytest.mark.parametrize("name", DISCRIMINATORS)
    def test_no_gradient_flows_into_the_pairs(self, name):
        same, different = ([half.requires_grad_() for half in pairs(20, seed=seed)] for seed in (1, 2))
        critic = learnt(name)
        critic.learn(tuple(same), tuple(different))
        assert all(half.grad is None for half in (*same, *different))
        assert all(parameter.grad is None for parameter in critic.discriminator.parameters())

    @pytest.mark.parametrize("name", DISCRIMINATORS)
    def test_learns_where_gradients_are_off(self, name):
        critic = learnt(name)
        before = bits(critic)
        with torch.no_grad():
            critic.learn(pairs(20, seed=7, alike=True), pairs(20, seed=8))
        assert bits(critic) != before

    @pytest.mark.parametrize("name", DISCRIMINATORS)
    def test_frozen_does_not_change_by_a_bit(self, name):
        critic = learnt(name)
        critic.frozen = True
        before, generator = bits(critic), torch.get_rng_state()
        first, second = (critic.learn(pairs(20, alike=True), pairs(30, seed=1)) for _ in range(2))
        assert bits(critic) == before and not critic.discriminator.training
        assert first == second and torch.equal(torch.get_rng_state(), generator)


class TestJudge:
    @pytest.mark.parametrize("name", DISCRIMINATORS)
    def test_leaves_the_discriminator_unchanged_by_a_bit_and_without_gradients(self, name):
        critic = learnt(name)
        critic.discriminator.train()
        before, generator = bits(critic), torch.get_rng_state()
        first, second = (half.requires_grad_() for half in pairs(20, seed=3))
        critic.judge(first, second).sum().backward()
        assert first.grad.abs().max() > 0 and second.grad.abs().max() > 0
        assert bits(critic) == before and torch.equal(torch.get_rng_state(), generator)
        parameters = list(critic.discriminator.parameters())
        assert all(parameter.grad is None and parameter.requires_grad for parameter in parameters)

    @pytest.mark.parametrize("size", [1, 5])
    @pytest.mark.parametrize("name", SMOOTH)
    def test_gradient_is_that_of_finite_differences(self, name, size):
        if (name, size) == ("jensen_shannon", 1):
            return
        critic = Critic(DISCRIMINATORS[name](size).double(), learning_rate=0.1)
        same, different = pairs(50, size, alike=True), pairs(50, size, seed=1)
        for _ in range(3):
            critic.learn(tuple(half.double() for half in same), tuple(half.double() for half in different))
        first, second = (randn(6, size, seed=seed, dtype=torch.float64).requires_grad_() for seed in (3, 4))
        gradients = torch.autograd.grad(critic.judge(first, second).sum(), (first, second))
        assert min(gradient.abs().max() for gradient in gradients) > 1e-3
        assert torch.autograd.gradcheck(critic.judge, (first, second), eps=1e-6, atol=1e-7)


class TestState:
    @pytest.mark.parametrize("name", DISCRIMINATORS)
    def test_continues_identically_after_a_file(self, name, tmp_path):
        critic = learnt(name)
        torch.save(critic.state_dict(), tmp_path / "critic.pt")
        restored = builder(name, learning_rate=1.0)()
        restored.load_state_dict(torch.load(tmp_path / "critic.pt", weights_only=True))
        assert bits(restored) == bits(critic)
        found = []
        for each in (critic, restored):
            torch.manual_seed(5)
            found.append([each.learn(pairs(20, seed=s, alike=True), pairs(20, seed=9 - s)) for s in range(3)])
        assert found[0] == found[1] and bits(restored) == bits(critic)
        assert torch.equal(critic.judge(*pairs(5)), restored.judge(*pairs(5)))

    @pytest.mark.parametrize("name", DISCRIMINATORS)
    def test_a_kept_state_does_not_move(self, name):
        critic = learnt(name)
        state, before = critic.state_dict(), bits(critic)
        critic.learn(pairs(20, alike=True), pairs(20, seed=1))
        assert bits(critic) != before
        for _ in range(2):  # the second time, after steps from the first
            critic.load_state_dict(state)
            assert bits(critic) == before
            critic.learn(pairs(20, alike=True), pairs(20, seed=1))

    def test_another_discriminators_state_is_refused(self):
        with pytest.raises(RuntimeError, match="Missing key"):
            builder("mlp")().load_state_dict(learnt("comparator").state_dict())


class TestAuc:
    @pytest.mark.parametrize("levels", [3, 20, 10**6])
    @pytest.mark.parametrize(("p", "q"), [(1, 1), (1, 50), (300, 200)])
    def test_against_scikit_learn(self, p, q, levels):
        generator = torch.Generator().manual_seed(p)
        same, different = (torch.randint(levels, (n,), generator=generator).float() for n in (p, q))
        exact = roc_auc_score(np.repeat([1, 0], [p, q]), torch.cat([same, different]))
        assert auc(same, different).item() == pytest.approx(exact, abs=1e-6)
        assert auc(different, same).item() == pytest.approx(1 - exact, abs=1e-6)

    def test_only_ranks_count_and_ties_are_a_half(self):
        assert auc(torch.ones(3), torch.ones(4)) == 0.5 and auc(torch.tensor([2.0]), torch.tensor([1.0, 2.0])) == 0.75
        same, different = randn(50, seed=1), randn(40, seed=2)
        assert auc(same, different) == auc(same.double().exp(), different.double().exp())
        assert auc(same, different).shape == ()

    @pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
    def test_scores_that_are_not_finite_have_none(self, value):
        bad = torch.tensor([0.0, value])
        assert auc(bad, torch.zeros(3)).isnan() and auc(torch.zeros(3), bad).isnan()


class TestBootstrap:
    def test_equals_the_auc_of_repeated_scores(self, monkeypatch):
        """Resamples drawn in small chunks, each compared with scikit-learn's weighted AUC."""
        monkeypatch.setattr("contrastive_discrimination.held_out.CHUNK", 100)
        scores = randn(30, seed=1).round(decimals=1).double(), randn(20, seed=2).round(decimals=1).double()
        ids = np.arange(30) // 3, np.arange(20) // 2
        drawn = []

        def record(ids, count, generator):
            drawn.append(original(ids, count, generator))
            return drawn[-1]

        original = held_out._resample_weights
        monkeypatch.setattr(held_out, "_resample_weights", record)
        found = resampled_auc(scores, ids, 7, torch.Generator().manual_seed(0))
        weights = [torch.cat(drawn[0::2]), torch.cat(drawn[1::2])]
        assert all((kind.sum(1) == kind.shape[1]).all() for kind in weights)
        assert (weights[0].reshape(7, 10, 3).diff(dim=2) == 0).all()
        labels, pooled = np.repeat([1, 0], [30, 20]), torch.cat(scores)
        exact = [roc_auc_score(labels, pooled, sample_weight=torch.cat(pair)) for pair in zip(*weights, strict=True)]
        np.testing.assert_allclose(found, exact, atol=1e-12)

    def test_spread_is_the_standard_error(self):
        scores, ids = (randn(4000).double(), randn(2000, seed=1).double()), (np.arange(4000), np.arange(2000))
        found = resampled_auc(scores, ids, 1000, torch.Generator().manual_seed(0))
        # Hanley and McNeil 1982: the standard error of an AUC of a half is the root of (P + Q + 1) / (12 P Q).
        assert found.std().item() == pytest.approx(math.sqrt(6001 / (12 * 4000 * 2000)), rel=0.1)


class TestHeldOutAuc:
    @pytest.mark.parametrize("name", DISCRIMINATORS)
    def test_separable_pairs_are_told_apart(self, name):
        build = builder(name, learning_rate=1e-2)
        found = held_out_auc(build, pairs(400, alike=True), pairs(400, seed=1), bootstrap=100)
        assert found.value >= 0.99 and 0.97 < found.low <= found.value <= found.high <= 1

    @pytest.mark.parametrize("name", DISCRIMINATORS)
    def test_pairs_of_one_law_are_not(self, name):
        build = builder(name)
        found = held_out_auc(build, pairs(1500), pairs(1500, seed=1), bootstrap=100)
        assert found.value == pytest.approx(0.5, abs=0.05) and found.low < 0.51 and found.high > 0.49

    @pytest.mark.parametrize("name", [name for name in TRAINED if name != "jensen_shannon"])
    def test_single_outputs_are_told_apart(self, name):
        """The second output of a different pair is the first one's negative."""
        value = 1 + randn(400, 1).abs()
        build = builder(name, size=1, learning_rate=1e-2)
        found = held_out_auc(build, (value, value), (value, -value), bootstrap=20)
        assert found.value >= 0.99

    def test_interval_covers_the_known_auc_of_losses(self):
        """Two Gaussians of unit variance, d apart, have the AUC Phi(d / sqrt 2)."""
        shift, covered = 0.7, 0
        truth = norm.cdf(shift / math.sqrt(2))
        for seed in range(10):
            losses = randn(500, 1, seed=2 * seed) - shift, randn(400, 1, seed=2 * seed + 1)
            same, different = ((torch.zeros_like(kind), kind) for kind in losses)
            found = held_out_auc(builder("logistic", size=1), same, different, seed=seed, bootstrap=200)
            assert found.value == pytest.approx(truth, abs=0.06) and 0.03 < found.high - found.low < 0.14
            covered += found.low <= truth <= found.high
        assert covered >= 8

    def test_no_image_is_learned_from_and_judged(self):
        ids = torch.arange(40) % 13, 5 + torch.arange(60) % 17
        same, different = ((kind[:, None].float(), torch.zeros(len(kind), 1)) for kind in ids)
        judged = []

        class Spy(Critic):
            def learn(self, same, different):
                self.seen = torch.cat([same[0], different[0]]).unique()
                return super().learn(same, different)

            def judge(self, first, second):
                assert not torch.isin(first, self.seen).any()
                judged.append(first)
                return super().judge(first, second)

        held_out_auc(lambda: Spy(DISCRIMINATORS["logistic"](1)), same, different, groups=ids, bootstrap=5)
        assert sum(map(len, judged)) == 100
        counts = [[len(kind.unique()) for kind in judged[start::2]] for start in (0, 1)]
        assert [sum(kind) for kind in counts] == [13, 17]
        assert all(max(kind) - min(kind) <= 1 for kind in counts)

    def test_only_groups_keep_repeated_images_from_being_recognised(self):
        """Pairs of one law, each image in eight of them: a discriminator that knows the image knows the kind."""
        repeats, images = 8, 100
        kinds = [[half.repeat_interleave(repeats, 0) for half in pairs(images, 20, seed=seed)] for seed in (1, 2)]
        kinds = [tuple(half + 0.05 * randn(*half.shape, seed=seed) for half in kind) for seed, kind in enumerate(kinds)]
        ids = torch.arange(2 * images).repeat_interleave(repeats).chunk(2)
        build, options = builder("mlp", size=20, learning_rate=1e-2), {"bootstrap": 200}
        grouped = held_out_auc(build, *kinds, groups=ids, **options)
        alone = held_out_auc(build, *kinds, **options)
        assert grouped.value == pytest.approx(0.5, abs=0.07) and grouped.low < 0.5 < grouped.high
        assert alone.low > 0.9

    def test_repetition_does_not_narrow_the_interval_of_images(self):
        losses = randn(100, 1) - 0.5, randn(100, 1, seed=1)
        ids = torch.arange(100), torch.arange(100, 200)
        widths = []
        for repeats in (1, 10):
            same, different = ((torch.zeros(100 * repeats, 1), kind.repeat(repeats, 1)) for kind in losses)
            groups = tuple(kind.repeat(repeats) for kind in ids)
            found = held_out_auc(builder("logistic", size=1), same, different, groups=groups)
            widths.append(found.high - found.low)
        assert widths[1] == pytest.approx(widths[0], rel=0.1)

    @pytest.mark.parametrize("name", ["mlp", "logistic"])
    def test_is_deterministic_in_its_seed_and_leaves_the_generators_alone(self, name, hasty):
        same, different = pairs(60), pairs(50, seed=1)
        found = []
        for before, seed in ((1, 0), (2, 0), (2, 1)):
            torch.manual_seed(before)
            np.random.seed(before)
            states = torch.get_rng_state(), np.random.get_state()[1].copy()
            found.append(held_out_auc(builder(name), same, different, seed=seed, bootstrap=20))
            assert torch.equal(torch.get_rng_state(), states[0])
            assert (np.random.get_state()[1] == states[1]).all()
        assert found[0] == found[1] != found[2]

    @pytest.mark.parametrize("name", ["mlp", "logistic"])
    @pytest.mark.parametrize("value", [math.nan, math.inf])
    def test_scores_that_are_not_finite_have_none(self, name, value, hasty):
        same, different = pairs(30), pairs(30, seed=1)
        same[0][3, 2] = value
        found = held_out_auc(builder(name), same, different, bootstrap=5)
        assert all(math.isnan(figure) for figure in (found.value, found.low, found.high))

    def test_too_few_images_are_refused(self):
        with pytest.raises(UserError, match="4 images in pairs of the kind same"):
            held_out_auc(builder("mlp"), pairs(4), pairs(20))
        with pytest.raises(UserError, match="2 images in pairs of the kind different"):
            held_out_auc(builder("mlp"), pairs(20), pairs(20), groups=(torch.arange(20), torch.arange(20) % 2))
