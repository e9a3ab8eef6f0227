"""Discriminators: binary classifiers of pairs of outputs, whose kinds are *same* and *different*.

Each is built with the number of outputs D, takes `first` and `second`, float32 `[B, D]`, and gives logits `[B]` of
*same*, without a sigmoid.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from contrastive_discrimination.logistic import solve_logistic

# exp(-100) vanishes in every sum here; without the bound, 0 · (-inf) would be NaN.
LOWEST_LOG_PROBABILITY = -100.0


def _log_softmax(outputs: Tensor) -> Tensor:
    return outputs.log_softmax(1).clamp(min=LOWEST_LOG_PROBABILITY)


def jensen_shannon_divergence(first: Tensor, second: Tensor) -> Tensor:
    """Jensen–Shannon divergence `[B]` of softmax(first) and softmax(second) in nats, from 0 to log 2.

    Source: Lin 1991, section IV.
    """
    p, q = _log_softmax(first), _log_softmax(second)
    middle = torch.logaddexp(p, q) - math.log(2)
    divergence = (p.exp() * (p - middle) + q.exp() * (q - middle)).sum(1) / 2
    return divergence.clamp(min=0)  # rounding can make it negative for equal rows


def pair_statistics(first: Tensor, second: Tensor) -> Tensor:
    """Scalar statistics of each pair, `[B, S]`: 9 of them, or 4 of a single output, whose softmax is constant.

    In order: entropy of each softmax and log of its largest probability (first's, second's), Jensen–Shannon divergence;
    then, for any D, squared distance / D, scalar product / D, first's and second's first column. In nats.
    """
    size = first.shape[1]
    columns = [(first - second).square().sum(1) / size, (first * second).sum(1) / size, first[:, 0], second[:, 0]]
    if size > 1:
        p, q = _log_softmax(first), _log_softmax(second)
        entropies = [-(log.exp() * log).sum(1) for log in (p, q)]
        columns = [*entropies, p.amax(1), q.amax(1), jensen_shannon_divergence(first, second), *columns]
    return torch.stack(columns, dim=1)


class BinaryClassifier(nn.Module):
    """A multilayer perceptron on both outputs and their absolute difference.

    A batch norm without affine parameters standardises the inputs; two hidden layers of 128 and 64.
    """

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.BatchNorm1d(3 * num_outputs, affine=False)]
        for inputs, hidden in ((3 * num_outputs, 128), (128, 64)):
            layers += [nn.Linear(inputs, hidden), nn.ReLU(), nn.BatchNorm1d(hidden), nn.Dropout(0.1)]
        self.layers = nn.Sequential(*layers, nn.Linear(64, 1))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.layers(torch.cat([first, second, (first - second).abs()], dim=1))[:, 0]


class DifferenceComparator(nn.Module):
    """A linear layer on the squared difference of the layer-normed outputs, divided by a learned temperature.

    A single output is not normalised, since its layer norm is zero.
    """

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(num_outputs, 1)
        # All logits start at 0: random signs would first have to be reversed.
        nn.init.zeros_(self.linear.weight)
        nn.init.zeros_(self.linear.bias)
        self.log_temperature = nn.Parameter(torch.zeros(()))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        if first.shape[1] > 1:
            first, second = F.layer_norm(first, first.shape[1:]), F.layer_norm(second, second.shape[1:])
        return self.linear((first - second).square())[:, 0] / self.log_temperature.exp()


class ComparatorNetwork(nn.Module):
    """A siamese network: one feature extractor for both outputs, and a head on [|f1 − f2|, f1 · f2] by element.

    Source: Conneau et al. 2017, figure 1 (the two ways of matching that are symmetric).
    """

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.extractor = nn.Sequential(
            nn.BatchNorm1d(num_outputs, affine=False), nn.Linear(num_outputs, 64), nn.ReLU(), nn.Linear(64, 32)
        )
        self.head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        # In one pass, so that batch norm keeps a shift between them.
        f1, f2 = self.extractor(torch.cat([first, second])).chunk(2)
        return self.head(torch.cat([(f1 - f2).abs(), f1 * f2], dim=1))[:, 0]


class ScalarProduct(nn.Module):
    """Learned positive scale · cosine similarity of the outputs (of single outputs: their product) + bias."""

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        self.log_scale = nn.Parameter(torch.zeros(()))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        similarity = F.cosine_similarity(first, second) if first.shape[1] > 1 else (first * second)[:, 0]
        return self.log_scale.exp() * similarity + self.bias


class JensenShannon(nn.Module):
    """bias − scale · Jensen–Shannon divergence of the outputs' softmax, with a learned positive scale.

    Of single outputs, whose softmax is constant, the divergence is 0.
    """

    def __init__(self, num_outputs: int) -> None:
        super().__init__()
        # The logit is 0 at half of the largest divergence, and ± 5 log 2 at both ends.
        self.log_scale = nn.Parameter(torch.tensor(math.log(10)))
        self.bias = nn.Parameter(torch.tensor(5 * math.log(2)))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        return self.bias - self.log_scale.exp() * jensen_shannon_divergence(first, second)


class StatisticsRegression(nn.Module):
    """Logistic regression on standardised statistics of pairs, solved exactly; its logits are 0 until it is fitted.

    Args:
        num_outputs: D.
        statistics: of pairs, first and second `[B, D]` to `[B, S]`.
    """

    def __init__(self, num_outputs: int, statistics: Callable[[Tensor, Tensor], Tensor] = pair_statistics) -> None:
        super().__init__()
        self.statistics = statistics
        count = statistics(torch.zeros(1, num_outputs), torch.zeros(1, num_outputs)).shape[1]
        self.register_buffer("mean", torch.zeros(count))
        self.register_buffer("std", torch.ones(count))
        self.register_buffer("coefficients", torch.zeros(count + 1))

    @torch.no_grad()
    def fit(self, first: Tensor, second: Tensor, targets: Tensor) -> None:
        """Solve for the coefficients, with l2 = 1 on standardised statistics and half of the weight on each kind.

        `targets` are 1 for same and 0 for different, `[B]`, both present.
        """
        statistics = self.statistics(first, second)
        std, mean = torch.std_mean(statistics, dim=0, correction=0)
        # A column that varies by rounding alone is constant.
        rounding = 1e-6 * statistics.abs().amax(0)
        self.mean.copy_(mean)
        self.std.copy_(torch.where(std <= rounding, 1.0, std))
        same = (targets > 0.5).to(statistics.dtype)
        share = same.mean()
        weights = 0.5 * (same / share + (1 - same) / (1 - share)).nan_to_num()
        self.coefficients.copy_(solve_logistic((statistics - self.mean) / self.std, same, weights=weights))

    def forward(self, first: Tensor, second: Tensor) -> Tensor:
        statistics = (self.statistics(first, second) - self.mean) / self.std
        return statistics @ self.coefficients[:-1] + self.coefficients[-1]


DISCRIMINATORS: dict[str, type[nn.Module]] = {
    "mlp": BinaryClassifier,
    "difference": DifferenceComparator,
    "comparator": ComparatorNetwork,
    "scalar_product": ScalarProduct,
    "jensen_shannon": JensenShannon,
    "logistic": StatisticsRegression,
}
