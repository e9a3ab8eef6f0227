"""A classifier of points in the plane, and its logits over a grid, for figures."""

import torch
from torch import Tensor, nn

from helper_functions.errors import UserError
from helper_functions.training.inference import evaluation_mode

Corner = float | tuple[float, float]


class PlaneClassifier(nn.Module):
    """Multilayer perceptron with `depth` hidden layers of `width` rectified units: points [B, 2] to logits [B, K].

    Raises UserError for a size below 1.
    """

    def __init__(self, num_classes: int, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        for key, value in {"num_classes": num_classes, "width": width, "depth": depth}.items():
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{key} is {value!r}: pass a whole number of at least 1")
        inputs = [2] + (depth - 1) * [width]
        self.hidden = nn.Sequential(*(layer for size in inputs for layer in (nn.Linear(size, width), nn.ReLU())))
        self.fc = nn.Linear(width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(self.hidden(inputs))


def decision_grid(model: nn.Module, low: Corner, high: Corner, resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits at the points of a square grid: xs [R], ys [R], logits [R, R, K] with logits[i, j] at (xs[j], ys[i]).

    `low` and `high` are opposite corners of the grid, (x, y) or one number for both; `resolution` is R. Rows are y and
    columns x, as in matplotlib's `contourf(xs, ys, ...)`. Eval mode, no gradient, the model's device and dtype.
    Raises UserError for a resolution below 2 or a low corner that is not below and left of the high one.
    """
    (left, bottom), (right, top) = _pair(low), _pair(high)
    if resolution < 2:
        raise UserError(f"resolution is {resolution}: pass at least 2")
    if not (left < right and bottom < top):
        raise UserError(f"low is {low} and high is {high}: pass a low corner below and left of the high one")
    like = next(model.parameters(), torch.empty(0))
    xs = torch.linspace(left, right, resolution, dtype=like.dtype, device=like.device)
    ys = torch.linspace(bottom, top, resolution, dtype=like.dtype, device=like.device)
    grid_y, grid_x = torch.meshgrid(ys, xs, indexing="ij")
    with evaluation_mode(model), torch.no_grad():
        logits = model(torch.stack([grid_x.flatten(), grid_y.flatten()], dim=1))
    return xs, ys, logits.unflatten(0, (resolution, resolution))


def _pair(corner: Corner) -> tuple[float, float]:
    return corner if isinstance(corner, tuple) else (corner, corner)
