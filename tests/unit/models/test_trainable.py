"""What --trainable lets move: parameters by a head, by layers and by name, and the statistics of what stays."""

import copy
import types

import pytest
import torch
from helpers.method_cases import changed, network, state_of
from helpers.small_models import convnext, vit
from torch import nn

from helper_functions.errors import UserError
from helper_functions.training.batch_norm import FrozenStatistics, no_running_stats_update
from helper_functions.training.spread import SharedBatchNorm, share_batch_norm
from models import get_model
from models.trainable import moves_features, set_trainable
from models.weights import reinitialised
from optimizer.optimizers import OptimizerArgs, build_optimizer
from optimizer.solver import Descent

INPUTS = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def moving(model: nn.Module) -> set[str]:
    return {name for name, parameter in model.named_parameters() if parameter.requires_grad}


def learn(model: nn.Module, **settings) -> set[str]:
    """Names of what three steps of training change."""
    before = state_of(model)
    recipe = types.SimpleNamespace(
        **{**vars(OptimizerArgs()), "learning_rate": 0.1, "weight_decay": 0.1, **settings}
    )
    descent = Descent(build_optimizer(model, recipe), model, 1.0)
    for _ in range(3):
        model.train()
        descent.step(model(INPUTS).square().mean(), lambda: model(INPUTS).square().mean())
    return changed(before, state_of(model))


class TestWhich:
    @pytest.mark.parametrize(
        ("which", "expected"),
        [
            ("head", {"7.weight", "7.bias"}),
            ("last:1", {"7.weight", "7.bias"}),
            ("last:2", {"3.weight", "3.bias", "4.weight", "4.bias", "7.weight", "7.bias"}),
            ("last:9", set(dict(network().named_parameters()))),
            (r"^4\.|bias$", {"0.bias", "1.bias", "3.bias", "4.bias", "4.weight", "7.bias"}),
            (None, set(dict(network().named_parameters()))),
        ],
    )
    def test_parameters(self, which, expected):
        assert moving(set_trainable(network(), which)) == expected

    @pytest.mark.parametrize(
        ("build", "head"),
        [(vit, "heads.head"), (convnext, "classifier.2"), (lambda k: get_model("squeezenet1_1", k, 1), "classifier.1")],
        ids=["vit", "convnext", "squeezenet"],
    )
    def test_heads(self, build, head):
        assert moving(set_trainable(build(10), "head")) == {f"{head}.weight", f"{head}.bias"}

    @pytest.mark.parametrize(
        ("which", "parts"),
        [
            ("layer9", ("layer9", "none of the 10 parameters", "0.weight", "7.bias")),
            ("(", ("no regular expression", "last:N")),
            ("last:0", ("last:2",)), ("last:-1", ("last:2",)), ("last:two", ("last:2",)), ("last:", ("last:2",)),
        ],
    )  # fmt: skip
    def test_mistakes(self, which, parts):
        model = network()
        with pytest.raises(UserError) as info:
            set_trainable(model, which)
        assert all(part in str(info.value) for part in parts)
        assert moving(model) == set(dict(network().named_parameters()))

    def test_a_model_that_nothing_may_move_of(self):
        with pytest.raises(UserError, match="--trainable"):
            set_trainable(network().requires_grad_(False), None)

    def test_a_users_own_choice_stays(self):
        model = network()
        model[3].requires_grad_(False)
        assert moving(set_trainable(model, None)) == set(dict(model.named_parameters())) - {"3.weight", "3.bias"}

    def test_names_that_share_a_parameter(self):
        model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
        model["b"].weight = model["a"].weight
        set_trainable(model, r"^b\.")
        assert moving(model) == {"a.weight", "b.bias"}

    def test_a_model_without_a_layer_for_a_head(self):
        model = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64))
        with pytest.raises(UserError, match="--trainable head"):
            set_trainable(model, "head")
        assert moves_features(set_trainable(model, "weight"))

    def test_features(self):
        assert moves_features(set_trainable(network(), "last:2"))
        assert not moves_features(set_trainable(network(), "head"))


class TestStatistics:
    @pytest.mark.parametrize("settings", [{}, {"use_sam": True}, {"optimizer": "adamw"}])
    def test_what_stays_stays_bit_for_bit(self, settings):
        model = set_trainable(network(), "last:2")
        found = learn(model, **settings)
        assert found == {name for name in state_of(model) if name[0] in "347"}

    def test_of_an_unrestricted_model_all_move(self):
        assert learn(set_trainable(network(), None)) == set(state_of(network()))

    def test_copies_and_modes(self):
        """A frozen copy in training mode normalises as the model does."""
        model = copy.deepcopy(set_trainable(network(), "last:2")).requires_grad_(False).train()
        assert not model[1].training and model[4].training and isinstance(model[1], FrozenStatistics)
        assert not hasattr(model[4], "plain") and isinstance(model[1], nn.BatchNorm2d)
        before = model[1].running_mean.clone()
        with no_running_stats_update(model):
            model(INPUTS)
        assert torch.equal(model[1].running_mean, before) and model[1].track_running_stats

    def test_another_choice_replaces_the_first(self):
        model = set_trainable(set_trainable(network(), "head"), "last:9")
        assert type(model[1]) is type(model[4]) is nn.BatchNorm2d and model.train()[1].training

    def test_without_parameters_they_follow_what_is_around_them(self):
        inner = nn.Sequential(nn.Linear(64, 8), nn.BatchNorm1d(8, affine=False))
        model = nn.Sequential(nn.Flatten(), inner, nn.Linear(8, 3), nn.Sequential(nn.BatchNorm1d(3, affine=False)))
        assert learn(set_trainable(model, "^2")) == {
            "2.weight", "2.bias", "3.0.running_mean", "3.0.running_var", "3.0.num_batches_tracked",
        }  # fmt: skip

    def test_shared_by_ranks(self):
        model = set_trainable(share_batch_norm(network()), "last:2")
        assert isinstance(model[1], SharedBatchNorm) and not model.train()[1].training and model[4].training

    def test_batch_norm_with_an_activation_is_not_shared(self):
        class WithActivation(nn.BatchNorm2d):
            def forward(self, inputs):
                return super().forward(inputs).relu()

        with pytest.raises(UserError, match="--sync_bn: a WithActivation"):
            share_batch_norm(nn.Sequential(WithActivation(3)))


def test_what_may_not_move_is_not_drawn_anew():
    model = set_trainable(network(), "last:2")
    torch.manual_seed(1)
    fresh = reinitialised(model)
    assert changed(state_of(model), state_of(fresh)) == {name for name in state_of(model) if name[0] in "347"}
    assert moving(fresh) == moving(model)


def test_a_parents_own_start_does_not_reach_what_stays():
    """The small ResNets draw all of their convolutions themselves."""
    model = set_trainable(get_model("resnet8", 10, 1, width=4), "layer3|fc")
    fresh = reinitialised(model)
    found = changed(state_of(model), state_of(fresh))
    assert found and all(name.startswith(("layer3", "fc")) for name in found)
