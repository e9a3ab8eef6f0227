"""Features: the input of a classifier's last linear layer."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn

from helper_functions.errors import UserError
from helper_functions.training.devices import Precision
from helper_functions.training.inference import predict
from helper_functions.training.spread import whole
from models.weights import head_path


def classifier_head(model: nn.Module) -> nn.Linear:
    """The linear layer that gives the logits: the last `nn.Linear` that the model registers.

    This holds for our ResNets and for every torchvision classifier except SqueezeNet, whose head is a convolution. In
    another model whose head is not linear, an inner linear layer is found. Raises UserError for a model without any.
    """
    path = head_path(model)
    if path is None or not isinstance(model.get_submodule(path), nn.Linear):
        raise UserError(f"{type(model).__name__} has no linear layer for a head: choose a model that ends in one")
    return model.get_submodule(path)


class FeatureTap:
    """Records the features of the latest forward pass, until `close`.

    After `logits = model(inputs)`, `features` is the input [B, F] of `classifier_head(model)`: the tensor itself, with
    its autograd graph, in the dtype of the pass; where ranks share the pass, a copy with the features of all ranks.
    The latest features stay after `close`.

    The tap is a forward pre-hook and adds nothing to `state_dict`. Raises UserError for a model without a linear head,
    and for a head whose input is not [B, F].
    """

    def __init__(self, model: nn.Module) -> None:
        self.features: Tensor | None = None
        self._hook = classifier_head(model).register_forward_pre_hook(self._record)

    def close(self) -> None:
        """Remove the hook; a second call does nothing."""
        self._hook.remove()

    def _record(self, head: nn.Module, arguments: tuple[Any, ...]) -> None:
        (features,) = arguments
        if features.dim() != 2:
            raise UserError(f"the head is given {list(features.shape)}: tap a model whose head sees [B, F]")
        self.features = whole(features)


def predict_features(model: nn.Module, loader: Iterable, precision: Precision) -> tuple[Tensor, Tensor, Tensor]:
    """Features, logits and labels of all images of a loader, in its order, by one pass of `predict`.

    Raises UserError for a model without a linear head.

    Returns:
        float32 features [N, F], float32 logits [N, K] and int64 labels [N], all on the computing device.
    """
    features: list[Tensor] = []
    head = classifier_head(model)
    with head.register_forward_pre_hook(lambda _, arguments: features.append(whole(arguments[0]).float())):
        logits, labels = predict(model, loader, precision)
    # Concatenated outside of inference mode, so that autograd can use them.
    return torch.cat(features), logits, labels
