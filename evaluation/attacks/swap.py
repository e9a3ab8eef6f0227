"""SWAP test: what is left of an attack's advantage when forget and held-out images change places?"""

from torch import Tensor


def swap_advantage(confidences: Tensor, unlearned: Tensor) -> float:
    """Advantage |TPR - FPR| over pairs of runs whose forget and held-out sets are swapped, from 0 to 1.

    The attacker of a run calls the images members that are surer than the run's median. Shares are averaged over all
    runs before the absolute value is taken: in a swapped pair, what images are easy counts once for and once against,
    so that retraining has 0 by symmetry and any other attacker's bias cancels. Source: arXiv 2404.11577 (NeurIPS
    2025).

    Args:
        confidences: of the label under each run's model, higher for members, `[N, T]`; runs 2j and 2j + 1 are a pair.
        unlearned: which images are the run's forget set, bool `[N, T]`; the others are held out from it.
    """
    called = confidences > confidences.median(1, keepdim=True).values
    true = (called & unlearned).sum(1) / unlearned.sum(1)
    false = (called & ~unlearned).sum(1) / (~unlearned).sum(1)
    return (true - false).double().mean().abs().item()
