"""Distances between the outputs of two models on the same images: pure functions of logits."""

import math

import torch
from torch import Tensor


def js_divergence(first: Tensor, second: Tensor) -> float:
    """Mean Jensen-Shannon divergence between two models' predicted distributions, in nats: from 0 to log 2.

    Source: Lin 1991, equation 4.1 with equal weights; as a measure of forgetting, Chundawat et al. 2023, section 5.

    Args:
        first: logits `[N, K]`.
        second: logits `[N, K]` of the same images.
    """
    logs = [logits.double().log_softmax(1) for logits in (first, second)]
    mixture = torch.logaddexp(*logs) - math.log(2)
    divergences = [(log.exp() * (log - mixture)).sum(1) for log in logs]
    # Rounding may leave the divergence of equal distributions just below 0.
    return (sum(divergences) / 2).mean().clamp(min=0).item()


def activation_distance(first: Tensor, second: Tensor) -> float:
    """Mean Euclidean distance between two models' softmax outputs, from 0 to the root of 2.

    Source: Golatkar et al. 2021, section 5 (activation distance).

    Args:
        first: logits `[N, K]`.
        second: logits `[N, K]` of the same images.
    """
    return (first.double().softmax(1) - second.double().softmax(1)).norm(dim=1).mean().item()
