"""The classifier, as flags."""

import dataclasses
from typing import Literal

from helper_functions.config import PositiveInt


@dataclasses.dataclass
class ModelArgs:
    """Architecture and weights."""

    model: str = "resnet18"
    """Any torchvision classifier by its torchvision name, or resnet8 and resnet20 for small images."""
    stem: Literal["auto", "imagenet", "cifar"] = "auto"
    """First layers of ResNets: cifar is 3 x 3, stride 1, no pooling; auto infers it from the weights, else imagenet."""
    width: PositiveInt = 16
    """Channels of the first stage of resnet8 and resnet20."""
