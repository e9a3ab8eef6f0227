"""A classifier of points in the plane, and its logits over a grid, for figures."""

import torch
from torch import Tensor, nn

from helper_functions.errors import UserError
from helper_functions.training.inference import evaluation_mode

Corner = float | tuple[float, float]


class PlaneClassifier(nn.Module):
    """Multilayer perceptron with rectifiers: points [B, 2] to logits [B, num_classes].

    `depth` hidden layers of `width` units and a linear head. Raises UserError for a size below 1.
    """

    def __init__(self, num_classes: int, width: int = 64, depth: int = 2) -> None:
        super().__init__()
        for key, value in {"num_classes": num_classes, "width": width, "depth": depth}.items():
            if not isinstance(value, int) or value < 1:
                raise UserError(f"{key} is {value!r}: pass a whole number of at least 1")
        sizes = [2] + depth * [width]
        hidden = [layer for i in range(depth) for layer in (nn.Linear(sizes[i], sizes[i + 1]), nn.ReLU())]
        self.hidden = nn.Sequential(*hidden)
        self.fc = nn.Linear(width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.fc(self.hidden(inputs))


def decision_grid(model: nn.Module, low: Corner, high: Corner, resolution: int) -> tuple[Tensor, Tensor, Tensor]:
    """Logits at the points of a square grid: xs [R], ys [R], logits [R, R, K] with logits[i, j] at (xs[j], ys[i]).

    `low` and `high` are the grid's corners, (x, y) or one number for both, and are points of it themselves;
    `resolution` is R. Rows are y and columns x, as matplotlib's `contourf(xs, ys, ...)` and `imshow(...,
    origin="lower")` want them. Eval mode, no gradient, on the model's device and in its dtype.
    Raises UserError for a resolution below 2 or a corner that is not below the other.
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
