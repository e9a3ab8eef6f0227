"""The classifier, as flags."""

import dataclasses
from typing import Literal

from helper_functions.config import PositiveInt


@dataclasses.dataclass
class ModelArgs:
    """Architecture and weights."""

    model: str = "resnet18"
    """Any torchvision classifier by its name, resnet8 and resnet20 for small images, timm:NAME, hf:FOLDER of
    save_pretrained (its own weights are the original), or your code, FILE.py:FUNCTION or package.module:FUNCTION, which
    is called with num_classes. Options of the constructor follow: timm:vit_tiny_patch16_224,patch_size=4."""
    stem: Literal["auto", "imagenet", "cifar"] = "auto"
    """First layers of ResNets: cifar is 3 x 3, stride 1, no pooling; auto infers it from the model's own
    weights or the original's, else imagenet."""
    width: PositiveInt = 16
    """Channels of the first stage of resnet8 and resnet20."""
