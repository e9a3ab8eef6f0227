"""Residual networks for small images: the 6n + 2 layer family of He et al. 2016, section 4.2."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions and a shortcut without parameters (He et al. 2016, option A).

    Input [B, C, H, W], output [B, out_channels, ceil(H / stride), ceil(W / stride)].
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.new_channels = out_channels - in_channels
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(out_channels)

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        hidden = self.bn2(self.conv2(hidden))
        return F.relu(hidden + self.shortcut(inputs))

    def shortcut(self, inputs: Tensor) -> Tensor:
        """The identity, subsampled by the stride, with zeros in the new channels."""
        if self.stride != 1:
            inputs = inputs[:, :, :: self.stride, :: self.stride]
        if self.new_channels:
            inputs = F.pad(inputs, (0, 0, 0, 0, 0, self.new_channels))
        return inputs


class SmallResNet(nn.Module):
    """ResNet with 6n + 2 weighted layers for images from 8 x 8 (He et al. 2016, section 4.2).

    A 3 x 3 stem of stride 1, three stages of n blocks with `width`, 2 `width` and 4 `width` channels (the second and
    third stage halve the image), a global average and a linear head.
    Input [B, in_channels, H, W], output logits [B, num_classes].
    """

    def __init__(self, blocks_per_stage: int, num_classes: int, in_channels: int = 3, width: int = 16) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, width, 3, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.layer1 = _stage(blocks_per_stage, width, width, stride=1)
        self.layer2 = _stage(blocks_per_stage, width, 2 * width, stride=2)
        self.layer3 = _stage(blocks_per_stage, 2 * width, 4 * width, stride=2)
        self.fc = nn.Linear(4 * width, num_classes)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw the convolutions as He et al. 2015 (equation 10); the other layers keep torch's initialisation."""
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = F.relu(self.bn1(self.conv1(inputs)))
        hidden = self.layer3(self.layer2(self.layer1(hidden)))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(hidden, 1), 1))


def _stage(num_blocks: int, in_channels: int, out_channels: int, stride: int) -> nn.Sequential:
    """`num_blocks` blocks, the first of which changes channels and size."""
    first = BasicBlock(in_channels, out_channels, stride)
    return nn.Sequential(first, *(BasicBlock(out_channels, out_channels, 1) for _ in range(num_blocks - 1)))
