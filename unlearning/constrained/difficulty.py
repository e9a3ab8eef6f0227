"""How hard the forget images are, and weights under which images that were never seen are as hard as they.

Withdrawn images are not a random sample: they may be easier, or harder, than most. A retrained model finds easy images
easy without having seen them, so that unseen images at random are the wrong reference for such a set. Losses under the
original cannot be compared between learned and unseen images; ranks can. The difficulty of a learned image is the rank
of its loss among learned images, that of an unseen image the rank of its loss among unseen ones.

Ranks are those among the retain images. These lack the forget set, which puts its ranks further out than among all;
and losses follow difficulty loosely, which puts ranks nearer to the middle. The two errors oppose each other.
"""

import dataclasses
import math

import torch
from torch import Tensor

# Of a chi-squared variable with two degrees of freedom, exceeded by one in a hundred.
CRITICAL = 9.21
# Of a beta distribution, its mean's distance from 0 and 1, and the sum of its shapes: beyond these, a few reference
# images would stand for all.
EDGE, LEAST_SUM, LARGEST_SUM = 0.01, 0.2, 50.0


def rank_among(losses: Tensor, sample: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """The shares of a weighted sample whose loss lies below each loss, and not above it, float64 `[P]` on the CPU.

    Args:
        losses: `[P]`.
        sample: losses, `[N]`.
        weights: `[N]`, non-negative, of any positive sum.
    """
    ordered, order = sample.cpu().sort()
    shares = weights.cpu().double()[order].cumsum(0)
    shares = torch.cat([shares.new_zeros(1), shares]) / shares[-1]
    below, up_to = (shares[torch.searchsorted(ordered, losses.cpu(), right=right)] for right in (False, True))
    return below, up_to


@dataclasses.dataclass(frozen=True)
class Difficulty:
    """The beta distribution of the forget images' ranks; shapes 1 and 1 are those of a random sample.

    Args:
        first: shape towards rank 1, hard: its density is as rank ** (first - 1).
        second: shape towards rank 0, easy, likewise of 1 - rank.
    """

    first: float = 1.0
    second: float = 1.0

    def __str__(self) -> str:
        total = self.first + self.second
        mean = self.first / total
        spread = math.sqrt(mean * (1 - mean) / (total + 1))
        ranks = f"{mean:.2f} ± {spread:.2f} among retain losses (0.50 ± 0.29 in a random sample)"
        return f"{ranks}; unseen images are weighted to match"

    @classmethod
    def of(cls, forget: Tensor, retain: Tensor, weights: Tensor) -> "Difficulty":
        """From losses under the original, by the method of moments.

        An image that shares its loss with some of the sample may have any rank of theirs. Where mean and second moment
        of the ranks differ no more from a uniform distribution's than those of a hundredth of all random sets do, the
        set counts as one.

        Args:
            forget: losses of forget images, `[P]`.
            retain: losses of retain images, `[N]`.
            weights: of the retain images, `[N]`, so that their classes weigh as the forget set's.
        """
        if len(forget) == 0:
            return cls()
        weights = weights.cpu().double()
        below, up_to = rank_among(forget, retain, weights)
        middle, width = (below + up_to) / 2, up_to - below
        mean = middle.mean().item()
        variance = (middle - mean).square().mean().item() + width.square().mean().item() / 12
        # Of both samples: ranks among few retain images vary as well.
        count = 1 / (1 / len(forget) + (weights.square().sum() / weights.sum() ** 2).item())
        off = (mean - 0.5, variance + (mean - 0.5) ** 2 - 1 / 12)
        # 1 / 12 and 1 / 180: variances of a uniform variable and of its square, about the middle.
        if not count * (12 * off[0] ** 2 + 180 * off[1] ** 2) > CRITICAL:  # nor where it is NaN
            return cls()
        mean = min(max(mean, EDGE), 1 - EDGE)
        total = min(max(mean * (1 - mean) / max(variance, 1e-12) - 1, LEAST_SUM), LARGEST_SUM)
        return cls(mean * total, (1 - mean) * total)

    def weigh(self, losses: Tensor, weights: Tensor) -> Tensor:
        """Weights `[R]`, of sum 1, under which reference images are as hard; `weights` itself for a random set.

        Args:
            losses: of images that the original never saw, under it, `[R]`.
            weights: of these images, `[R]`, so that their classes weigh as the forget set's.
        """
        if self == Difficulty():
            return weights
        own = weights.cpu().double()
        below, up_to = rank_among(losses, losses, own)
        # Away from 0 and 1 by half of what the lightest image weighs: one that weighs nothing may stand at an end.
        edge = (own[own > 0].min() / own.sum()).item() / 2
        rank = ((below + up_to) / 2).clamp(edge, 1 - edge)
        density = (self.first - 1) * rank.log() + (self.second - 1) * (1 - rank).log()
        found = own * (density - density[own > 0].max()).exp()
        return (found / found.sum()).to(weights)
