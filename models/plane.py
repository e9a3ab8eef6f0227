"""A classifier of points in the plane, and its logits over a grid, for figures."""

import torch
from torch import Tensor, nn

from helper_functions.training.inference import evaluation_mode


class PlaneClassifier(nn.Module):
    """Multilayer perceptron with two hidden layers of 64 rectified units: points [B, 2] to logits [B, K]."""

    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.hidden = nn.Sequential(nn.Linear(2, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU())
        self.fc = nn.Linear(64, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(self.hidden(inputs))


def decision_grid(model: nn.Module, low: tuple[float, float], high: tuple[float, float], resolution: int) -> Tensor:
    """Logits [R, R, K] at the points of an even grid from `low` to `high`, of R = `resolution` values of x and of y.

    Rows are y and columns x, as in matplotlib. Eval mode, no gradient, the model's device and dtype.
    """
    like = next(model.parameters())
    xs, ys = (
        torch.linspace(*ends, resolution, dtype=like.dtype, device=like.device) for ends in zip(low, high, strict=True)
    )
    with evaluation_mode(model), torch.no_grad():
        return model(torch.cartesian_prod(ys, xs).flip(1)).unflatten(0, (resolution, resolution))
