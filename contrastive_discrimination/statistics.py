"""Scalar statistics of single outputs, whose means over groups a logistic regression compares."""

import torch
from torch import Tensor


def output_statistics(outputs: Tensor) -> Tensor:
    """Statistics of each output, `[B, S]`.

    The mean of one statistic alone can be met while the distribution is another: half of the images low, half high.
    So the first column, the log-probability of what has to go, is joined by its exponential and its square, and, where
    there are more columns, by the entropy, the next two log-probabilities and the square of the larger one.

    Args:
        outputs: log-probabilities `[B, D]` as `set_apart` gives them, or losses `[B, 1]`.
    """
    own = outputs[:, 0]
    if outputs.shape[1] == 1:
        return torch.stack([own, (-own).exp(), own.square()], dim=1)
    entropy = -(outputs.exp() * outputs).sum(1)
    columns = [own, own.exp(), own.square(), outputs[:, 1], outputs[:, 1].square(), entropy]
    return torch.stack([*columns, *outputs[:, 2:3].unbind(1)], dim=1)
