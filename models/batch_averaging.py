"""Batch averaging: means over groups of samples, which vary less than single samples, as a discriminator's input."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from helper_functions.errors import UserError

Statistic = Callable[[Tensor, Tensor], Tensor]


class BatchAverage(nn.Module):
    """Means over consecutive groups of a batch: [B, ...] to [G, ...] with G = ceil(B / group_size).

    The samples after the last whole group form a smaller one. Weighted by `counts`, the means average to the batch's
    mean.
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


class BatchAveragedClassifier(nn.Module):
    """Classifies groups of images by a statistic's mean over the group: images and labels to logits [G].

    The mean of g independent samples has the standard deviation sigma / sqrt(g): for two normal distributions at a
    distance of d sigma, the area under the ROC curve rises from Phi(d / sqrt(2)) to Phi(sqrt(g) d / sqrt(2)). It is a
    function of a set, rho(mean of phi) (Zaheer et al. 2017, theorem 2, with the mean in place of the sum).

    Groups are consecutive samples: give each of the two sets in batches of its own, shuffled. Gradients flow through
    the means into the backbone.

    Args:
        backbone: images [B, C, H, W], or other inputs, to outputs [B, K].
        statistic: `(outputs [B, K], labels [B])` to [B] or [B, S], such as the loss of each sample; [B] becomes [B, 1].
        group_size: g, samples in a group.
        discriminator: [G, S] to logits [G].

    Raises UserError for a discriminator of another shape.
    """

    def __init__(
        self, backbone: nn.Module, statistic: Statistic, group_size: int, discriminator: Callable[[Tensor], Tensor]
    ) -> None:
        super().__init__()
        self.backbone, self.statistic, self.discriminator = backbone, statistic, discriminator
        self.average = BatchAverage(group_size)

    def forward(self, inputs: Tensor, labels: Tensor) -> Tensor:
        values = self.statistic(self.backbone(inputs), labels)
        if values.dim() == 1:
            values = values.unsqueeze(1)
        means = self.average(values)
        logits = self.discriminator(means)
        # [G, 1] against targets [G] would broadcast to [G, G] in a loss without an error.
        if logits.shape != means.shape[:1]:
            raise UserError(f"discriminator gave {list(logits.shape)} for {len(means)} groups: return [G]")
        return logits
