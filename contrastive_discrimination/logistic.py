"""Logistic regression solved exactly, on the device that holds the data."""

import torch
from torch import Tensor
from torch.nn import functional as F

# Newton's step, longer ones for separable data, where Newton's gains one nat of margin at a time, and damped ones.
STEP_SIZES = (1.0, 8.0, 4.0, 2.0, *(0.5**k for k in range(1, 13)), 0.0)
NEWTON_STEPS = 25


def _standardisation(features: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted mean and standard deviation of each column, both `[S]`; a constant column's deviation is 1."""
    share = (weights / weights.sum())[:, None]
    mean = (share * features).sum(0)
    std = (share * (features - mean).square()).sum(0).sqrt()
    number = torch.finfo(features.dtype)
    # A smaller deviation is rounding of the mean, or its inverse square overflows.
    rounding = (16 * number.eps * features.abs().amax(0)).clamp(min=number.tiny**0.25)
    return mean, torch.where(std <= rounding, 1.0, std)


def _newton_step(
    design: Tensor, logits: Tensor, targets: Tensor, weights: Tensor, penalty: Tensor, at: Tensor
) -> Tensor:
    """Newton's direction `[S + 1]` from the coefficients `at`, which give these logits."""
    probability = torch.sigmoid(logits)
    gradient = design.T @ (weights * (probability - targets)) + penalty * at
    hessian = (design.T * (weights * probability * (1 - probability))) @ design + torch.diag(penalty)
    # Scaled to a unit diagonal: a ridge that hardly changes Newton's step then makes a singular one solvable.
    number = torch.finfo(hessian.dtype)
    scale = hessian.diagonal().clamp(min=number.tiny**0.5).rsqrt()
    scaled = scale[:, None] * hessian * scale + 16 * number.eps * torch.eye(len(at), dtype=at.dtype, device=at.device)
    # `solve` would wait for the device to report whether a solution exists.
    direction, _ = torch.linalg.solve_ex(scaled, (scale * gradient)[:, None])
    return scale * direction[:, 0]


@torch.no_grad()
def solve_logistic(features: Tensor, targets: Tensor, *, weights: Tensor | None = None, l2: float = 1.0) -> Tensor:
    """Coefficients that minimise Σ weight · log loss + l2/2 · ‖coefficients‖², without a penalty on the intercept.

    The objective is that of scikit-learn's `LogisticRegression` with C = 1/l2, which would need the host. Damped Newton
    (iteratively reweighted least squares, Hastie et al. 2009, section 4.4.1) for a fixed number of iterations, each
    with the best of several step sizes; nothing waits for the device. Computes in float64, on MPS in float32, without
    gradients. Where there is no minimum (separable data without a penalty, targets of one kind), the result is the
    finite last iterate. Non-finite features give NaN.

    Args:
        features: `[N, S]`, in any units.
        targets: 0 or 1, `[N]`.
        weights: non-negative, `[N]`, of a positive sum; 1 each by default.
        l2: at least 0.

    Returns:
        `[S + 1]`, the coefficients and then the intercept, in the dtype of `features`.
    """
    dtype = torch.float32 if features.device.type == "mps" else torch.float64
    x, y = features.to(dtype), targets.to(dtype)
    w = torch.ones_like(y) if weights is None else weights.to(dtype)

    # In standardised coordinates, with the penalty divided by the variances, the minimum is the same.
    mean, std = _standardisation(x, w)
    design = torch.cat([(x - mean) / std, torch.ones_like(y)[:, None]], dim=1)
    penalty = torch.cat([l2 / std.square(), x.new_zeros(1)])
    sizes = torch.tensor(STEP_SIZES, dtype=dtype).to(x.device, non_blocking=True)[:, None]
    # Near the minimum the objectives differ by rounding, and only Newton's own step still converges.
    handicap = 1 + 64 * torch.finfo(dtype).eps * (sizes[:, 0] != 1).to(dtype)

    # The intercept starts at the log odds, half an example added to each side.
    positive = (w * y).sum()
    odds = (positive + 0.5) / (w.sum() - positive + 0.5)
    coefficients = torch.cat([torch.zeros_like(mean), odds.log()[None]])
    for _ in range(NEWTON_STEPS):
        step = _newton_step(design, design @ coefficients, y, w, penalty, coefficients)
        candidates = coefficients - sizes * step
        logits = design @ candidates.T
        losses = -(y[:, None] * F.logsigmoid(logits) + (1 - y[:, None]) * F.logsigmoid(-logits))
        objectives = w @ losses + (penalty * candidates.square()).sum(1) / 2
        best = (objectives * handicap).nan_to_num(nan=torch.inf).argmin(keepdim=True)
        coefficients = candidates.index_select(0, best)[0]

    slopes = coefficients[:-1] / std
    return torch.cat([slopes, coefficients[-1:] - (slopes * mean).sum()]).to(features.dtype)
