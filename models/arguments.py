"""The classifier, as flags."""

import dataclasses
from typing import Literal

from torch import nn

from helper_functions.config import PositiveInt
from models.classifiers import get_model
from models.weight_files import read_weight_file
from models.weights import infer_stem, load_state


@dataclasses.dataclass
class ModelArgs:
    """Architecture and weights."""

    model: str = "resnet18"
    """Any torchvision classifier by its torchvision name, or resnet8 and resnet20 for small images."""
    stem: Literal["auto", "imagenet", "cifar"] = "auto"
    """First layers of ResNets: cifar is 3 x 3, stride 1, no pooling; auto infers it from the weights, else imagenet."""
    width: PositiveInt = 16
    """Channels of the first stage of resnet8 and resnet20."""


def model_from(
    args: ModelArgs, num_classes: int, in_channels: int, image_size: int, weight_path: str | None = None
) -> nn.Module:
    """Build the classifier that the arguments ask for, with weights from a file where one is named.

    Raises:
        UserError: no such architecture, or weights that cannot be read or do not fit.
    """
    weights = {} if weight_path is None else read_weight_file(weight_path)[0]
    stem = args.stem if args.stem != "auto" else infer_stem(weights) or "imagenet"
    model = get_model(
        args.model, num_classes, in_channels=in_channels, stem=stem, width=args.width, image_size=image_size
    )
    if weights:
        load_state(model, weights, weight_path, args.model)
    return model
