"""Membership attack by loss: a logistic regression that distinguishes forget images from unseen ones."""

import numpy as np
import torch
from torch import Tensor

from contrastive_discrimination.held_out import Fold, auc_of
from evaluation.attacks.intervals import RESAMPLES, auc_figures, tpr_at_fpr

FOLDS = 5


def loss_attack(member_losses: Tensor, non_member_losses: Tensor, seed: int = 0) -> dict[str, float | None]:
    """Mean over five stratified folds of a logistic regression on the loss, judged on the images left out.

    Member losses that are *higher* than non-members' reveal membership as lower ones do. Source: Kurmanji et al. 2023,
    section 5; Carlini et al. 2022, section III, for the true positives.

    Args:
        member_losses: `[P]`.
        non_member_losses: `[Q]`; accuracy is meaningful where Q is P.
        seed: of the folds and the resamples.

    Returns:
        `mia_auc` with the ends of its 95 % interval, `mia_auc_low` and `mia_auc_high` (0.5 is ideal), `mia_accuracy` in
        percent (50 is ideal) and `mia_tpr`, true positives at 1 % false ones, in percent (1 is ideal). All None where
        a side has fewer images than there are folds, or losses are not finite.
    """
    losses = torch.cat([member_losses, non_member_losses]).double().cpu()
    if min(len(member_losses), len(non_member_losses)) < FOLDS or not losses.isfinite().all():
        return auc_figures("mia_auc", None) | {"mia_accuracy": None, "mia_tpr": None}
    folds, correct = [], []
    for scores, member, images in _left_out_scores(losses.numpy()[:, None], len(member_losses), seed):
        sides = member == 1, member == 0
        correct.append(((scores > 0) == sides[0]).mean())
        folds.append(Fold(tuple(torch.from_numpy(scores[side]) for side in sides), tuple(images[s] for s in sides)))
    return {
        **auc_figures("mia_auc", auc_of(folds, seed, RESAMPLES)),
        "mia_accuracy": 100 * float(np.mean(correct)),
        "mia_tpr": float(np.mean([tpr_at_fpr(*fold.scores) for fold in folds])),
    }


def _left_out_scores(features: np.ndarray, members: int, seed: int):
    """Fold by fold: scores of the images left out, whether each is a member, and its number; members come first."""
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    member = np.repeat([1, 0], [members, len(features) - members])
    for learned, left_out in StratifiedKFold(FOLDS, shuffle=True, random_state=seed).split(features, member):
        attack = make_pipeline(StandardScaler(), LogisticRegression()).fit(features[learned], member[learned])
        yield attack.decision_function(features[left_out]), member[left_out], left_out
