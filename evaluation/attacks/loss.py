"""Membership attacks by loss: a logistic regression, and MIA efficacy, which is a support vector machine."""

import numpy as np
import torch
from torch import Tensor

from contrastive_discrimination.held_out import FOLDS, Fold, auc_of
from evaluation.attacks.intervals import RESAMPLES, auc_figures, joined_scores, tpr_at_fpr, worst_tenth

# Images a side that the support vector machine learns from; its cost grows with their square.
ATTACKER_IMAGES = 2000


def loss_attack(folds: list[Fold] | None, seed: int = 0) -> dict[str, float | None]:
    """Means over five folds, those of `loss_folds`, of a logistic regression on the loss.

    Member losses that are *higher* than non-members' reveal membership as lower ones do. Accuracy is meaningful for as
    many non-members as members. Source: Kurmanji et al. 2023, section 5; Carlini et al. 2022, section III, for the true
    positives.

    Returns:
        `mia_auc` with the ends of its 95 % interval, `mia_auc_low` and `mia_auc_high` (0.5 is ideal), `mia_accuracy` in
        percent (50 is ideal), `mia_tpr`, true positives at 1 % false ones, in percent (1 is ideal), and
        `mia_worst_tenth` with its interval (50 is ideal). All None without folds.
    """
    if folds is None:
        none = auc_figures("mia_auc", None) | {"mia_accuracy": None, "mia_tpr": None}
        return none | auc_figures("mia_worst_tenth", None)
    right = [torch.cat([members > 0, others <= 0]).double().mean().item() for members, others in
             (fold.scores for fold in folds)]  # fmt: skip
    return {
        **auc_figures("mia_auc", auc_of(folds, seed, RESAMPLES)),
        "mia_accuracy": 100 * float(np.mean(right)),
        "mia_tpr": float(np.mean([tpr_at_fpr(*fold.scores) for fold in folds])),
        **auc_figures("mia_worst_tenth", worst_tenth(*joined_scores(folds), seed)),
    }


def loss_folds(member_losses: Tensor, non_member_losses: Tensor, seed: int = 0) -> list[Fold] | None:
    """Scores, members first, of the images that each of five stratified folds leaves out, by a logistic regression.

    Losses are `[P]` and `[Q]`. None where a side has fewer images than there are folds, or losses are not finite.
    """
    losses = torch.cat([member_losses, non_member_losses]).double().cpu()
    if min(len(member_losses), len(non_member_losses)) < FOLDS or not losses.isfinite().all():
        return None
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import StratifiedKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    member = np.repeat([True, False], [len(member_losses), len(non_member_losses)])
    splitter = StratifiedKFold(FOLDS, shuffle=True, random_state=seed)
    attack = make_pipeline(StandardScaler(), LogisticRegression())
    features = losses.numpy()[:, None]
    scores = cross_val_predict(attack, features, member, cv=splitter, method="decision_function")
    folds = []
    for _, left_out in splitter.split(features, member):
        sides = left_out[member[left_out]], left_out[~member[left_out]]
        folds.append(Fold(tuple(torch.from_numpy(scores[side]) for side in sides), sides))
    return folds


def attack_efficacy(retain_losses: Tensor, test_losses: Tensor, forget_losses: Tensor) -> float | None:
    """Share of forget images, in percent, that an attacker who knows retain and test images calls non-members.

    The attacker is a support vector machine on the probability of the given label. Compare with the retrained model's
    figure: 100 is not the ideal, since a model is equally certain of some images that it never saw. Source: Jia et al.
    2023, appendix C.3, which gives kernel and C; here with at most `ATTACKER_IMAGES` images a side, matched by class.

    Cross-entropies are `[R]` of members, `[Q]` of about as many non-members, and `[F]` of forget images, on none of
    which the attacker is fitted. None where a part is empty or losses are not finite.
    """
    losses = [part.double().cpu() for part in (retain_losses, test_losses, forget_losses)]
    if min(map(len, losses)) == 0 or not torch.cat(losses).isfinite().all():
        return None
    from sklearn.svm import SVC

    retain, test, forget = ((-part).exp().numpy()[:, None] for part in losses)
    member = np.repeat([1, 0], [len(retain), len(test)])
    attacker = SVC(C=3, gamma="auto").fit(np.concatenate([retain, test]), member)
    return 100 * float((attacker.predict(forget) == 0).mean())
