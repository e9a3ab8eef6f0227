"""Batch averaging: means over groups of samples, which vary less than single samples, as a discriminator's input."""

import torch
from torch import Tensor, nn


class BatchAverage(nn.Module):
    """Means over consecutive groups of a batch: [B, ...] to [G, ...] with G = ceil(B / group_size).

    The samples after the last whole group form a smaller one. Weighted by `counts`, the means average to the batch's
    mean. The mean of g independent samples has the standard deviation sigma / sqrt(g): for two normal distributions at
    a distance of d sigma, the area under the ROC curve rises from Phi(d / sqrt(2)) to Phi(sqrt(g) d / sqrt(2)).
    """

    def __init__(self, group_size: int) -> None:
        super().__init__()
        self.group_size = group_size

    def forward(self, values: Tensor) -> Tensor:
        whole, rest = divmod(len(values), self.group_size)
        # No padding: no mask, and no infinity or NaN of one group reaches another.
        groups = [values[: whole * self.group_size].unflatten(0, (whole, self.group_size)).mean(1)] if whole else []
        if rest:
            groups.append(values[-rest:].mean(0, keepdim=True))
        return torch.cat(groups)

    def counts(self, batch_size: int, device: torch.device | str | None = None) -> Tensor:
        """Members of each group of a batch, int64 [G] on `device`."""
        group_size = min(self.group_size, batch_size)
        return (batch_size - torch.arange(0, batch_size, group_size, device=device)).clamp(max=group_size)
