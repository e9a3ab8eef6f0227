"""Classifiers, loading of their weights, and their reinitialisation."""

import contextlib
import copy
from collections.abc import Iterator

import pytest
import torch
from torch import nn

from helper_functions.errors import UserError
from helper_functions.training.batch_norm import lent_statistics, no_running_stats_update
from models import get_model
from models.classifiers import list_models
from models.weight_files import read_weight_file
from models.weights import infer_stem, load_state, reinitialised


@contextlib.contextmanager
def refused(*parts: object) -> Iterator[None]:
    """A UserError whose message is one line with every part."""
    with pytest.raises(UserError) as info:
        yield
    message = str(info.value)
    assert "\n" not in message and all(str(part) in message for part in parts), message


def buffers_of(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.named_buffers()}


def assert_same(before: dict[str, torch.Tensor], after: dict[str, torch.Tensor]) -> None:
    assert before.keys() == after.keys()
    for name, value in before.items():
        assert torch.equal(value, after[name]), name


@pytest.fixture
def weights(tmp_path):
    """A ResNet-8 with 10 classes, and the file of its weights."""
    torch.manual_seed(0)
    model = get_model("resnet8", 10, in_channels=1, width=4)
    path = tmp_path / "weights.pth"
    torch.save(model.state_dict(), path)
    return model, path


class TestSmallResNets:
    @pytest.mark.parametrize(("name", "layers"), [("resnet8", 8), ("resnet20", 20)])
    def test_has_6n_plus_2_weighted_layers(self, name, layers):
        model = get_model(name, 10)
        assert sum(isinstance(module, nn.Conv2d | nn.Linear) for module in model.modules()) == layers

    def test_resnet20_has_the_papers_parameter_count(self):
        # He et al. 2016, table 6: 0.27 M parameters.
        assert sum(p.numel() for p in get_model("resnet20", 10).parameters()) == pytest.approx(0.27e6, rel=0.02)

    def test_width_sets_the_three_stages(self):
        model = get_model("resnet8", 10, width=6)
        widths = [stage[-1].conv2.out_channels for stage in (model.layer1, model.layer2, model.layer3)]
        assert widths == [6, 12, 24]

    @pytest.mark.parametrize(("size", "channels"), [(8, 1), (9, 3), (32, 3), (33, 4)])
    def test_takes_any_small_image(self, size, channels):
        assert get_model("resnet8", 7, channels, width=4)(torch.randn(2, channels, size, size)).shape == (2, 7)

    def test_shortcut_subsamples_and_pads_with_zeros(self):
        block = get_model("resnet8", 10, width=4).layer2[0]
        inputs = torch.randn(2, 4, 7, 7)
        shortcut = block.shortcut(inputs)
        assert torch.equal(shortcut[:, :4], inputs[:, :, ::2, ::2])
        assert shortcut.shape == (2, 8, 4, 4) and not shortcut[:, 4:].any()

    def test_starts_as_he_et_al(self):
        weight = get_model("resnet8", 10, width=32).layer3[0].conv2.weight
        assert weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)

    def test_both_stem_words_build_the_same(self):
        assert str(get_model("resnet8", 10, stem="cifar")) == str(get_model("resnet8", 10, stem="imagenet"))


class TestTorchvision:
    @pytest.mark.parametrize(
        ("name", "options"),
        [
            ("resnet18", {}),
            ("resnet18", {"stem": "cifar"}),
            ("resnet18", {"stem": "cifar", "in_channels": 1}),
            ("efficientnet_b0", {}),
            ("mobilenet_v3_small", {"in_channels": 1}),
        ],
    )
    def test_builds_and_runs_on_small_images(self, name, options):
        with torch.device("meta"):
            model = get_model(name, 100, **options).eval()
            assert model(torch.empty(2, options.get("in_channels", 3), 32, 32)).shape == (2, 100)

    @pytest.mark.parametrize(
        ("name", "in_channels"),
        [
            ("wide_resnet50_2", 1),
            ("densenet121", 1),
            ("vgg11_bn", 4),
            ("squeezenet1_1", 1),
            ("convnext_tiny", 1),
            ("swin_t", 1),
            ("mnasnet0_5", 2),
            ("shufflenet_v2_x0_5", 1),
        ],
    )
    def test_every_family_has_its_head_and_stem_replaced(self, name, in_channels):
        with torch.device("meta"):
            model = get_model(name, 12, in_channels).eval()
            assert model(torch.empty(2, in_channels, 64, 64)).shape == (2, 12)

    @pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
    def test_auxiliary_heads_are_off(self, name, recwarn):
        with torch.device("meta"):
            # Its truncated-normal start draws real numbers, which takes seconds and which meta tensors do not need.
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(nn.init, "trunc_normal_", lambda tensor, *_, **__: tensor)
                model = get_model(name, 5)
            assert model.train()(torch.empty(2, 3, 96, 96)).shape == (2, 5)
        assert not [warning for warning in recwarn if "init" in str(warning.message)]

    def test_vit_takes_an_image_size(self):
        with torch.device("meta"):
            model = get_model("vit_b_16", 10, image_size=(32, 32))
            assert model(torch.empty(2, 3, 32, 32)).shape == (2, 10)
        with refused("40", "16 x 16"):
            get_model("vit_b_16", 10, image_size=(40, 40))

    def test_cifar_stem_keeps_the_resolution(self):
        model = get_model("resnet18", 10, stem="cifar")
        assert model.maxpool(model.conv1(torch.randn(1, 3, 32, 32))).shape == (1, 64, 32, 32)

    def test_lists_classifiers_only(self):
        names = list_models()
        assert {"resnet8", "resnet18", "wide_resnet50_2", "vit_b_16"} <= set(names)
        assert not [name for name in names if "rcnn" in name or "quantized" in name or "raft" in name]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ({"name": "resnet81"}, ("resnet81", "did you mean", "resnet18")),
        ({"name": "zzzzzz"}, ("zzzzzz", "torchvision")),
        ({"name": "efficientnet_b0", "stem": "cifar"}, ("efficientnet_b0", "stem")),
        ({"stem": "mnist"}, ("mnist", "imagenet", "cifar")),
    ],
)
def test_a_bad_request_is_one_line(arguments, parts):
    with refused(*parts):
        get_model(**({"name": "resnet8", "num_classes": 10} | arguments))


class TestLoadWeights:

    def test_a_whole_pickled_model(self, weights):
        model, path = weights
        torch.save(model, path)
        with refused(str(path), "state_dict()"):
            read_weight_file(path)[0]

    @pytest.mark.parametrize(
        ("content", "part"),
        [
            ([torch.zeros(2)], "list"),
            (torch.zeros(2), "Tensor"),
            ({}, "empty"),
            ({"state_dict": {}}, "empty"),
            ({"epoch": 3, "tensors": {"a": torch.zeros(2)}}, "'epoch'"),
            ({0: torch.zeros(2)}, "of type int"),
        ],
    )
    def test_no_dict_of_tensors(self, tmp_path, content, part):
        path = tmp_path / "weights.pth"
        torch.save(content, path)
        with refused(str(path), part):
            read_weight_file(path)[0]


class TestLoadState:
    def test_another_class_count(self, weights):
        model, path = weights
        target = get_model("resnet8", 100, in_channels=1, width=4)
        before = {name: value.clone() for name, value in target.state_dict().items()}
        with refused("weights.pth: head has 10 classes, the data set has 100"):
            load_state(target, read_weight_file(path)[0], path)
        assert_same(before, target.state_dict())

    @pytest.mark.parametrize(
        ("options", "parts"),
        [
            ({"in_channels": 3}, ("images of 1 channel,", "have 3")),
            ({"width": 8}, ("conv1.weight is [4, 1, 3, 3]", "[8, 1, 3, 3]", "width")),
            ({"name": "resnet20"}, ("is not a resnet20", "keys missing (first: layer1.1.conv1.weight)")),
        ],
    )
    def test_another_architecture(self, weights, options, parts):
        settings = {"name": "resnet8", "num_classes": 10, "in_channels": 1, "width": 4} | options
        with refused("weights.pth", *parts):
            load_state(get_model(**settings), read_weight_file(weights[1])[0], weights[1], settings["name"])

    def test_missing_and_unexpected_keys_are_counted(self):
        with refused("file.pth is not a Linear", "1 keys missing (first: bias)", "1 unexpected (first: scale)"):
            load_state(nn.Linear(2, 3), {"weight": torch.zeros(3, 2), "scale": torch.zeros(3)}, "file.pth")

    @pytest.mark.parametrize(("theirs", "ours"), [("cifar", "imagenet"), ("imagenet", "cifar")])
    def test_another_stem(self, theirs, ours):
        with torch.device("meta"):
            state = get_model("resnet18", 10, stem=theirs).state_dict()
            with refused("w.pth", f"the weights have the {theirs} stem", f"pass stem {theirs}"):
                load_state(get_model("resnet18", 100, stem=ours), state, "w.pth")

    def test_files_without_batch_counters_load(self, weights):
        model, path = weights
        state = {name: value for name, value in read_weight_file(path)[0].items() if "num_batches" not in name}
        target = get_model("resnet8", 10, in_channels=1, width=4)
        load_state(target, state, path)
        assert torch.equal(target.fc.weight, model.fc.weight)


def test_infer_stem():
    with torch.device("meta"):
        assert infer_stem(get_model("resnet18", 10).state_dict()) == "imagenet"
        assert infer_stem(get_model("resnet18", 10, stem="cifar").state_dict()) == "cifar"
        assert infer_stem(get_model("mobilenet_v3_small", 10).state_dict()) is None
    assert infer_stem(get_model("resnet8", 10).state_dict()) == "cifar"
    assert infer_stem({"conv1.weight": torch.zeros(4, 4)}) is None


def small_vit() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(image_size=16, patch_size=8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32)


class ScaledResidual(nn.Module):
    """A layer scale beside a linear layer, as ConvNeXt has one."""

    def __init__(self):
        super().__init__()
        self.layer_scale = nn.Parameter(torch.full((8,), 1e-6))
        self.linear = nn.Linear(8, 8)


class TestReinitialised:
    @pytest.mark.parametrize(
        "build",
        [lambda: get_model("resnet8", 10), lambda: get_model("resnet18", 10), small_vit, ScaledResidual],
        ids=["resnet8", "resnet18", "vit", "layer_scale"],
    )
    def test_nothing_that_was_learned_stays(self, build):
        model = build()
        with torch.no_grad():
            for parameter in model.parameters():  # as if trained: no tensor stays constant
                parameter.add_(0.1 * torch.randn_like(parameter))
        before = {name: value.clone() for name, value in model.state_dict().items()}
        fresh = reinitialised(model)
        assert_same(before, model.state_dict())
        assert [name for name, _ in fresh.named_parameters()] == [name for name, _ in model.named_parameters()]
        for (name, new), old in zip(fresh.named_parameters(), model.parameters(), strict=True):
            assert not torch.isclose(new, old, rtol=1e-6, atol=0).all(), name
            assert new.isfinite().all() and new.requires_grad == old.requires_grad, name
            assert new.data_ptr() != old.data_ptr()

    def test_keeps_the_models_own_start_and_clears_running_statistics(self):
        model = get_model("resnet8", 10, width=32)
        model(torch.randn(4, 3, 8, 8))
        with torch.no_grad():
            model.layer3[0].conv2.weight.mul_(9)
        fresh = reinitialised(model)
        assert fresh.layer3[0].conv2.weight.std().item() == pytest.approx((2 / (128 * 9)) ** 0.5, rel=0.02)
        assert fresh.bn1.num_batches_tracked == 0 and not fresh.bn1.running_mean.any()

    def test_raw_parameters_keep_their_scale(self):
        model = ScaledResidual()
        with torch.no_grad():
            model.layer_scale.copy_(torch.linspace(0.9e-6, 1.1e-6, 8))
        assert reinitialised(model).layer_scale.mean().item() == pytest.approx(1e-6, rel=0.3)


class TestBatchNorm:
    @pytest.mark.parametrize("momentum", [0.1, None])
    def test_statistics_stay_and_the_batch_normalises(self, momentum):
        layer = nn.BatchNorm2d(3, momentum=momentum)
        inputs = 2 + torch.randn(8, 3, 4, 4)
        layer(inputs)
        before = buffers_of(layer)
        with no_running_stats_update(layer):
            inside = layer(inputs + 1)
        assert_same(before, buffers_of(layer))
        assert torch.equal(inside, layer(inputs + 1))
        assert layer.num_batches_tracked == 2 and layer.momentum == momentum

    @pytest.mark.parametrize("affine", [True, False])
    def test_lent_statistics_are_the_first_batchs_with_their_gradient(self, affine):
        layer = nn.BatchNorm2d(3, affine=affine)
        twin, kind = copy.deepcopy(layer), type(layer)
        first, other = (2 + torch.randn(8, 3, 4, 4)).requires_grad_(), torch.randn(2, 3, 4, 4, requires_grad=True)
        with lent_statistics(layer) as lend:
            assert torch.equal(layer(first), twin(first))
            lend()
            found = layer(other)
        variance, mean = torch.var_mean(first, (0, 2, 3), correction=0, keepdim=True)
        expected = (other - mean) / (variance + layer.eps).sqrt()
        torch.testing.assert_close(found, expected)
        gradients = [torch.autograd.grad(each.pow(3).sum(), (first, other)) for each in (found, expected)]
        torch.testing.assert_close(*gradients)
        torch.testing.assert_close(buffers_of(layer), buffers_of(twin))
        assert type(layer) is kind and layer.__dict__.keys() == twin.__dict__.keys()

    def test_comes_back_after_an_exception_and_when_nested(self):
        model = get_model("resnet8", 10, width=4)
        untracked = nn.BatchNorm1d(2, track_running_stats=False)
        both = nn.ModuleList([model, untracked])
        with pytest.raises(ZeroDivisionError), no_running_stats_update(both), no_running_stats_update(both):
            raise ZeroDivisionError
        assert model.bn1.track_running_stats and not untracked.track_running_stats
        model(torch.randn(2, 3, 8, 8))
        assert model.bn1.num_batches_tracked == 1

    def test_eval_mode_inside_uses_the_running_statistics(self):
        layer = nn.BatchNorm2d(3).eval()
        inputs = 5 + torch.randn(8, 3, 4, 4)
        with no_running_stats_update(layer):
            assert torch.equal(layer(inputs), nn.BatchNorm2d(3).eval()(inputs))
