"""Membership attacks: can forgotten images still be told from images that were never seen?"""

import numpy as np
import torch
from torch import Tensor

from data.pairing import match_by_class

FOLDS = 5


def class_matched(labels: Tensor, first: Tensor, second: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Equally many images of each class from two index sets, without repetition.

    Args:
        labels: int64 `[N]`, the classes to match by.
        first: int64 `[P]`, indices into labels.
        second: int64 `[Q]`, indices into labels.
        seed: of the draw where one side has more images of a class than the other.

    Returns:
        Two index tensors of one length; classes that one side lacks are left out.
    """
    first = first[torch.isin(labels[first], labels[second])]
    if len(first) == 0:
        return first, first
    pairs = match_by_class(labels, first, second, seed)
    order = torch.from_numpy(np.random.RandomState(seed % 2**32).permutation(len(pairs)))
    pairs = pairs[order]
    _, keep = np.unique(pairs[:, 1].numpy(), return_index=True)
    pairs = pairs[torch.from_numpy(np.sort(keep))]
    return pairs[:, 0], pairs[:, 1]


def loss_attack_auc(member_losses: Tensor, non_member_losses: Tensor, seed: int = 0) -> float | None:
    """AUC of a logistic regression that tells members from non-members by their loss; 0.5 is ideal.

    The mean over five stratified folds of the AUC on the images left out. A member loss that is *higher* than a
    non-member's gives the attack away just as a lower one does. Source: Kurmanji et al. 2023, section 5 (their
    attack, with AUC in place of accuracy).

    Args:
        member_losses: `[P]`.
        non_member_losses: `[Q]`.
        seed: of the folds.

    Returns:
        The AUC, or None where a side has fewer images than there are folds.
    """
    if min(len(member_losses), len(non_member_losses)) < FOLDS:
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    if not torch.cat([member_losses, non_member_losses]).isfinite().all():
        return None
    losses = torch.cat([member_losses, non_member_losses]).double().cpu().numpy()[:, None]
    member = np.repeat([1, 0], [len(member_losses), len(non_member_losses)])
    attack = make_pipeline(StandardScaler(), LogisticRegression())
    folds = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    return float(cross_val_score(attack, losses, member, cv=folds, scoring="roc_auc").mean())
