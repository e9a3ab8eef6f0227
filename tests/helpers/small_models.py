"""Models of a user's own for grey pictures of 8 x 8 pixels, as `--model FILE.py:FUNCTION` takes them."""

import types

import torch
from torch import Tensor, nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from torchvision.models.efficientnet import EfficientNet, MBConvConfig
from torchvision.models.vision_transformer import VisionTransformer


def convnext(num_classes: int) -> nn.Module:
    """Layer norm, no batch norm, and stochastic depth."""
    model = ConvNeXt([CNBlockConfig(8, 16, 1), CNBlockConfig(16, None, 1)], 0.1, num_classes=num_classes)
    model.features[0][0] = nn.Conv2d(1, 8, 2, 2)
    return model


def efficientnet(num_classes: int, width: int = 8) -> nn.Module:
    """Batch norm, squeeze and excitation, dropout."""
    blocks = [MBConvConfig(1, 3, 1, width, width, 1, 1, 1), MBConvConfig(4, 3, 2, width, 2 * width, 1, 1, 1)]
    model = EfficientNet(blocks, dropout=0.1, num_classes=num_classes, last_channel=32)
    model.features[0][0] = nn.Conv2d(1, width, 3, padding=1, bias=False)
    return model


def vit(num_classes: int) -> nn.Module:
    """Attention, layer norm, a class token, dropout."""
    model = VisionTransformer(8, 4, 2, 2, 16, 32, dropout=0.1, num_classes=num_classes)
    model.conv_proj = nn.Conv2d(1, 16, 4, 4)
    nn.init.normal_(model.heads.head.weight, std=0.1)  # torchvision begins at 0, where no other layer has a gradient
    return model


class Viewing(nn.Module):
    """Calls `view`, which fails in channels_last memory, and gives its logits as a field."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.features, self.head = nn.Conv2d(1, 4, 3, 2, padding=1), nn.Linear(64, num_classes)

    def forward(self, inputs: Tensor) -> types.SimpleNamespace:
        return types.SimpleNamespace(logits=self.head(self.features(inputs).view(len(inputs), -1)), other=None)


def broken(num_classes: int) -> nn.Module:
    raise ValueError(f"{num_classes} are\ntoo many")


def no_model(num_classes: int) -> Tensor:
    return torch.zeros(num_classes)
