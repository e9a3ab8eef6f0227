"""The tap sees what the head sees, lets gradients through, and leaves nothing behind."""

import copy
from contextlib import closing

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from helper_functions.errors import UserError
from helper_functions.training.devices import Precision
from helper_functions.training.inference import predict
from models import get_model
from models.features import FeatureTap, classifier_head, predict_features

CPU = torch.device("cpu")
FP32 = Precision(CPU, torch.float32)


def small_vit(num_classes: int) -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(16, 8, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=32, num_classes=num_classes)


def small_swin(num_classes: int) -> nn.Module:
    from torchvision.models import SwinTransformer

    return SwinTransformer([2, 2], 8, depths=[1, 1], num_heads=[1, 2], window_size=[2, 2], num_classes=num_classes)


# Name to a model of `num_classes` classes and the path of its head.
MODELS = {
    "resnet8": (lambda num_classes: get_model("resnet8", num_classes, width=4), "fc"),
    "resnet18": (lambda num_classes: get_model("resnet18", num_classes), "fc"),
    "mobilenet_v3_small": (lambda num_classes: get_model("mobilenet_v3_small", num_classes), "classifier.3"),
    "vit": (small_vit, "heads.head"),
    "swin": (small_swin, "head"),
    "plane": (lambda num_classes: nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Linear(8, num_classes)), "2"),
}


def inputs_for(name: str, batch_size: int = 3) -> torch.Tensor:
    shape = (2,) if name == "plane" else (3, 16, 16)
    return torch.randn(batch_size, *shape, generator=torch.Generator().manual_seed(0))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_pre_hooks) + len(module._forward_hooks) for module in model.modules())


@pytest.fixture
def resnet() -> nn.Module:
    torch.manual_seed(0)
    return get_model("resnet8", 5, width=4)


class TestClassifierHead:
    @pytest.mark.parametrize("name", MODELS)
    def test_is_found(self, name):
        build, path = MODELS[name]
        model = build(7)
        assert classifier_head(model) is model.get_submodule(path)
        assert classifier_head(model).out_features == 7

    @pytest.mark.parametrize("name", ["vgg11", "densenet121", "efficientnet_b0", "convnext_tiny", "mnasnet0_5"])
    def test_is_found_in_the_other_families(self, name):
        with torch.device("meta"):
            model = get_model(name, 7)
            with closing(FeatureTap(model.eval())) as tap:
                logits = model(torch.empty(2, 3, 64, 64))
            assert classifier_head(model)(tap.features).shape == logits.shape == (2, 7)

    def test_of_a_linear_model_is_the_model(self):
        model = nn.Linear(3, 2)
        assert classifier_head(model) is model

    def test_a_convolutional_head_is_refused(self):
        with torch.device("meta"):
            model = get_model("squeezenet1_1", 7)
        for refused in (classifier_head, FeatureTap):
            with pytest.raises(UserError, match="SqueezeNet has no linear layer"):
                refused(model)


class TestFeatureTap:
    @pytest.mark.parametrize("training", [True, False])
    @pytest.mark.parametrize("name", MODELS)
    def test_head_of_the_features_is_the_logits(self, name, training):
        torch.manual_seed(0)
        model = MODELS[name][0](7).train(training)
        head = classifier_head(model)
        with closing(FeatureTap(model)) as tap:
            logits = model(inputs_for(name))
            assert tap.features.shape == (3, head.in_features)
        assert torch.equal(head(tap.features), logits)

    def test_gradients_are_those_of_an_explicit_split(self, resnet):
        resnet.double()
        backbone = copy.deepcopy(resnet)
        head, backbone.fc = backbone.fc, nn.Identity()
        inputs, labels = inputs_for("resnet8", 6).double(), torch.arange(6) % 5

        features = backbone(inputs)
        (F.cross_entropy(head(features), labels) + features.square().mean()).backward()
        with closing(FeatureTap(resnet)) as tap:
            (F.cross_entropy(resnet(inputs), labels) + tap.features.square().mean()).backward()

        expected = dict(backbone.named_parameters()) | {"fc.weight": head.weight, "fc.bias": head.bias}
        assert expected.keys() == dict(resnet.named_parameters()).keys()
        for name, parameter in resnet.named_parameters():
            torch.testing.assert_close(parameter.grad, expected[name].grad, msg=name)

    def test_shows_the_latest_pass(self, resnet):
        resnet.eval()
        first, second = inputs_for("resnet8", 4).split(2)
        with closing(FeatureTap(resnet)) as tap:
            resnet(first)
            before = tap.features
            resnet(second)
            assert not torch.equal(tap.features, before)
            resnet(first)
            assert torch.equal(tap.features, before)

    def test_close_ends_the_recording_and_leaves_no_hook(self, resnet):
        tap = FeatureTap(resnet)
        assert hooks(resnet) == 1
        resnet(inputs_for("resnet8"))
        features = tap.features
        tap.close()
        tap.close()
        assert hooks(resnet) == 0
        resnet(inputs_for("resnet8") + 1)
        assert tap.features is features

    def test_two_taps_do_not_disturb_each_other(self, resnet):
        with closing(FeatureTap(resnet)) as outer:
            with closing(FeatureTap(resnet)) as inner:
                resnet(inputs_for("resnet8"))
            assert outer.features is inner.features
            resnet(inputs_for("resnet8"))
            assert outer.features is not inner.features

    def test_state_is_that_of_the_model(self, resnet):
        names = list(resnet.state_dict())
        with closing(FeatureTap(resnet)):
            resnet(inputs_for("resnet8"))
            assert list(resnet.state_dict()) == names

    def test_a_head_of_sequences_is_refused(self):
        linear = nn.Linear(3, 2)
        with closing(FeatureTap(linear)), pytest.raises(UserError, match=r"given \[4, 5, 3\]"):
            linear(torch.zeros(4, 5, 3))


class TestPredictFeatures:
    @pytest.fixture
    def loader(self) -> DataLoader:
        return DataLoader(TensorDataset(inputs_for("resnet8", 10), torch.arange(10) % 5), batch_size=4)

    def test_features_belong_to_the_logits_of_predict(self, resnet, loader):
        resnet.train()
        before = copy.deepcopy(resnet.state_dict())
        features, logits, labels = predict_features(resnet, loader, FP32)
        expected_logits, expected_labels = predict(resnet, loader, FP32)
        assert torch.equal(logits, expected_logits) and torch.equal(labels, expected_labels)
        assert features.shape == (10, 16) and features.dtype == torch.float32
        torch.testing.assert_close(resnet.fc(features), logits)
        assert all(module.training for module in resnet.modules()) and hooks(resnet) == 0
        assert all(torch.equal(value, before[name]) for name, value in resnet.state_dict().items())

    @pytest.mark.parametrize("batch_size", [4, 10])
    def test_results_serve_in_ordinary_computations(self, resnet, loader, batch_size):
        loader = DataLoader(loader.dataset, batch_size)
        features, logits, _ = predict_features(resnet, loader, FP32)
        assert not any(found.is_inference() or found.requires_grad for found in (features, logits))
        resnet.fc(features).sum().backward()
        assert resnet.fc.weight.grad is not None

    def test_low_precision_comes_back_as_float32(self, resnet, loader):
        exact, _, _ = predict_features(resnet, loader, FP32)
        features, logits, _ = predict_features(resnet, loader, Precision(CPU, torch.bfloat16))
        assert features.dtype == logits.dtype == torch.float32
        assert 0 < (features - exact).norm() < 0.05 * exact.norm()

    def test_the_hook_goes_with_a_failing_pass(self, resnet):
        with pytest.raises(RuntimeError):
            predict_features(resnet, [(torch.zeros(2, 9, 8, 8), torch.zeros(2))], FP32)
        assert hooks(resnet) == 0
