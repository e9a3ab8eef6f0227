"""A convex model on which unlearning is solved exactly, so that theory and solver can be checked against it.

Multinomial logistic regression with an ℓ2 term on scikit-learn's digits, averaged down to 4 × 4 pixels: 170 weights,
so a step on all images takes milliseconds. A whole digit is forgotten. Everything is float64.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import brentq, root
from sklearn.datasets import load_digits
from torch import Tensor
from torch.nn import functional as F

NUM_CLASSES = 10
TRAIN_IMAGES = 600
DECAY = 1e-3
# Norm of the gradient at a minimum; rounding leaves about 1e-16.
TOLERANCE = 1e-13


@dataclass(frozen=True, eq=False)
class Risk:
    """Mean KL(answers ‖ model) over images plus decay/2 · ‖weights‖², a convex function of the weights `[K, D]`.

    With one-hot answers the divergence is the cross-entropy on labels. With a decay the risk is strongly convex.
    """

    features: Tensor  # [N, D]
    answers: Tensor  # [N, K], probabilities
    decay: float

    @cached_property
    def _entropy(self) -> Tensor:
        return torch.special.entr(self.answers).sum(1).mean()

    def __call__(self, weights: Tensor) -> Tensor:
        """The value, 0-d, differentiable."""
        logits = self.features @ weights.T
        divergence = -(self.answers * logits.log_softmax(1)).sum(1).mean() - self._entropy
        return divergence + self.decay / 2 * weights.square().sum()

    def gradient(self, weights: Tensor) -> Tensor:
        """`[K, D]`."""
        wrong = (self.features @ weights.T).softmax(1) - self.answers
        return wrong.T @ self.features / len(self.features) + self.decay * weights

    def hessian(self, weights: Tensor) -> Tensor:
        """`[K·D, K·D]`: the mean of (diag(p) − p pᵀ) ⊗ x xᵀ, plus the decay."""
        images, size = self.features.shape
        probabilities = (self.features @ weights.T).softmax(1)
        rows = (probabilities[:, :, None] * self.features[:, None, :]).reshape(images, -1)
        blocks = [self.features.T @ (self.features * p[:, None]) for p in probabilities.T]
        whole = (torch.block_diag(*blocks) - rows.T @ rows) / images
        return whole + self.decay * torch.eye(NUM_CLASSES * size, dtype=whole.dtype)


def minimise(terms: Sequence[tuple[float, Risk]], start: Tensor) -> Tensor:
    """The weights `[K, D]` that minimise a weighted sum of risks: the root of its gradient, by Powell's hybrid method.

    Weights of risks are non-negative, and a risk with a decay has a positive one. RuntimeError: no minimum was found.
    """
    total = sum(weight for weight, _ in terms)

    def summed(part: Callable[[Risk, Tensor], Tensor], weights: np.ndarray) -> Tensor:
        at = torch.from_numpy(weights).view_as(start)
        return sum(weight / total * part(risk, at) for weight, risk in terms)

    found = root(
        lambda weights: summed(Risk.gradient, weights).flatten().numpy(), start.flatten().numpy(),
        jac=lambda weights: summed(Risk.hessian, weights).numpy(), options={"xtol": 1e-14},
    )  # fmt: skip
    if np.linalg.norm(found.fun) > TOLERANCE:
        raise RuntimeError(f"no minimum: {found.message}")
    return torch.from_numpy(found.x).view_as(start)


class Optimum(NamedTuple):
    """Weights `[K, D]` that minimise `objective + multiplier · constraint`."""

    weights: Tensor
    multiplier: float


@dataclass(frozen=True, eq=False)
class Front:
    """min objective(weights) subject to constraint(weights) ≤ bound, for all bounds at once."""

    objective: Risk  # with a decay, so that every minimum exists and is unique
    constraint: Risk
    start: Tensor  # [K, D], from which solves begin

    def at(self, multiplier: float, start: Tensor | None = None) -> Optimum:
        """The minimum of the weighted sum."""
        terms = [(1.0, self.objective), (multiplier, self.constraint)]
        return Optimum(minimise(terms, self.start if start is None else start), multiplier)

    def within(self, bound: float) -> Optimum:
        """The constrained minimum and its multiplier: the root of constraint(multiplier) = bound, 0 if it is idle.

        ValueError: no multiplier below e²⁵ keeps the bound.
        """
        free = self.at(0.0)
        if self.constraint(free.weights) <= bound:
            return free
        found = free

        def excess(logarithm: float) -> float:
            nonlocal found
            found = self.at(math.exp(logarithm), found.weights)
            return self.constraint(found.weights).item() - bound

        low, high = -6.0, 3.0
        while excess(low) < 0:
            low -= 6
        while excess(high) > 0:
            high += 3
            if high > 25:
                raise ValueError(f"no multiplier keeps the constraint within {bound}")
        return self.at(math.exp(brentq(excess, low, high, xtol=1e-13, rtol=1e-14)), found.weights)


@dataclass(frozen=True, eq=False)
class Digits:
    """Digits, one of which is forgotten; the minima over all images and over the retain set."""

    features: Tensor  # [N, D], of norm at most 1, the last one constant
    labels: Tensor
    digit: int
    original: Tensor  # [K, D]
    retrained: Tensor  # [K, D]

    @property
    def forget(self) -> Tensor:
        """Which images are forgotten, bool `[N]`."""
        return self.labels == self.digit

    @property
    def objective(self) -> Risk:
        """Forgetting, convex: the divergence of uniform answers among the other digits from the model's."""
        answers = (1 - F.one_hot(self.labels[self.forget], NUM_CLASSES).double()) / (NUM_CLASSES - 1)
        return Risk(self.features[self.forget], answers, DECAY)

    @property
    def retain_on_labels(self) -> Risk:
        """The retain loss whose minimum is the retrained optimum; strongly convex."""
        labels = F.one_hot(self.labels[~self.forget], NUM_CLASSES).double()
        return Risk(self.features[~self.forget], labels, DECAY)

    @property
    def retain_on_original(self) -> Risk:
        """The divergence of the original's answers from the model's on retain images; 0 at the original."""
        features = self.features[~self.forget]
        return Risk(features, (features @ self.original.T).softmax(1), 0.0)

    def front(self, constraint: Risk) -> Front:
        """Forgetting subject to one of the retain losses."""
        return Front(self.objective, constraint, self.original)

    def retain_accuracy(self, weights: Tensor) -> Tensor:
        """In per cent, 0-d."""
        right = (self.features[~self.forget] @ weights.T).argmax(1) == self.labels[~self.forget]
        return 100 * right.double().mean()

    def distances(self, weights: Tensor) -> tuple[float, float]:
        """To the retrained optimum: in weights, and mean KL(retrained ‖ model) on forget images, in nats."""
        features = self.features[self.forget]
        outputs = Risk(features, (features @ self.retrained.T).softmax(1), 0.0)
        return (weights - self.retrained).norm().item(), outputs(weights).item()


def digits_case(digit: int = 3) -> Digits:
    """`TRAIN_IMAGES` images of scikit-learn's digits in a random order, with both optima."""
    bunch = load_digits()
    order = torch.randperm(len(bunch.target), generator=torch.Generator().manual_seed(0))[:TRAIN_IMAGES]
    pixels = torch.from_numpy(bunch.images)[order].reshape(-1, 4, 2, 4, 2).mean((2, 4)).reshape(-1, 16) / 16
    features = torch.cat([pixels, torch.ones(len(pixels), 1, dtype=pixels.dtype)], 1)
    features = features / features.norm(dim=1).max()
    labels = torch.from_numpy(bunch.target)[order].long()
    zero = torch.zeros(NUM_CLASSES, features.shape[1], dtype=features.dtype)
    case = Digits(features, labels, digit, zero, zero)
    original = minimise([(1.0, Risk(features, F.one_hot(labels, NUM_CLASSES).double(), DECAY))], zero)
    return replace(case, original=original, retrained=minimise([(1.0, case.retain_on_labels)], original))
