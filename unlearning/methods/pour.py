"""POUR-P: project the features off the weights of the classes that go; no image is read."""

import torch

from helper_functions.errors import UserError
from models.weights import head_path
from unlearning.context import MethodContext
from unlearning.methods.baseline import BaselineSpec
from unlearning.methods.method import ClassCounts, one_shot


def spec(context: MethodContext) -> BaselineSpec:
    """W ← W·(I − P), W the last layer's weights, P the projection onto the forgotten classes' rows. Source: Le et al.
    2026 (POUR-P).

    The same as projecting the features before it.
    """
    path = head_path(context.model)
    weight = None if path is None else context.model.get_submodule(path).weight
    if weight is None or not weight.requires_grad or len(weight) != context.num_classes:
        raise UserError("method pour projects the weights of the last linear layer, and this model has none that may "
                        "move; take another")  # fmt: skip

    def begin() -> None:
        with torch.no_grad():
            rows = weight.flatten(1).double()
            gone = rows[context.evaluator.forget_labels.unique()]
            weight.copy_((rows - rows @ torch.linalg.pinv(gone) @ gone).view_as(weight))

    return BaselineSpec(begin=begin)


def refuses(target: str, counts: ClassCounts) -> str | None:
    """All but whole classes."""
    staying = ((counts.forget > 0) & (counts.retain > 0)).sum().item()
    if not staying:
        return None
    return f"it forgets whole classes, and {staying} of the forget set's have retain images; give --forget class:NAME"


METHOD = one_shot(spec, refuses=refuses)
