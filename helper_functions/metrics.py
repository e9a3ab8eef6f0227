"""Accuracies, norms and masks: pure functions of tensors, without a model."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def class_mask(labels: Tensor, num_classes: int) -> Tensor:
    """Bool `[N, K]`, true at each label `[N]` only."""
    # `one_hot` reads the labels' values, and so waits for the device.
    return labels[:, None] == torch.arange(num_classes, device=labels.device)


def target_ranks(output: Tensor, target: Tensor) -> Tensor:
    """Rank of each target's logit `[N]` among its row of `[N, K]`, int64 `[N]`: 0 is the highest.

    Ties go to the lower class index, as `argmax` decides them, so that a constant output is right for class 0 only.
    A row that holds a NaN ranks last, K.
    """
    own = output.gather(1, target[:, None])
    classes = torch.arange(output.shape[1], device=output.device)
    ahead = (output > own) | ((output == own) & (classes < target[:, None]))
    return torch.where(output.isnan().any(1), output.shape[1], ahead.sum(1))


def calculate_accuracy(output: Tensor, target: Tensor, topk: tuple[int, ...] = (1,)) -> list[Tensor]:
    """Top-k accuracies in percent of logits `[N, K]` and class indices `[N]`, one 0-d tensor for each k from 1.

    A k above the number of classes counts as all of them.
    """
    ranks = target_ranks(output, target)
    finite = ranks < output.shape[1]
    return [((ranks < k) & finite).float().mean() * 100 for k in topk]


def summarise(output: Tensor, target: Tensor) -> dict[str, float]:
    """`top1` and `top5` in percent and `loss`, the mean cross-entropy, of logits `[N, K]`; one transfer to the host."""
    figures = torch.stack([*calculate_accuracy(output, target, (1, 5)), F.cross_entropy(output, target)])
    return dict(zip(("top1", "top5", "loss"), figures.tolist(), strict=True))


def calculate_binary_accuracy(output: Tensor, target: Tensor) -> Tensor:
    """Accuracy of a two-class decision in percent, a 0-d tensor; a logit of exactly 0 counts as class 0.

    Logits of class 1 and targets 0 or 1 are `[N]` or `[N, 1]`.
    """
    return ((output.flatten() > 0) == (target.flatten() > 0.5)).float().mean() * 100


def _grad_norm(model: nn.Module) -> Tensor:
    """Global L2 norm of all gradients, a 0-d tensor on their device (0 where there are none); one fused reduction."""
    return nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
