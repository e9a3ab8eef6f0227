"""Membership attacks: can forgotten images still be told from images that were never seen?"""

import dataclasses

import numpy as np
import torch
from torch import Tensor

from contrastive_discrimination.held_out import Fold, auc_of
from data.partition import match_by_class
from evaluation.attacks.intervals import RESAMPLES, auc_figures, tpr_at_fpr

FOLDS = 5
# Images a side that the efficacy's attacker learns from; its cost grows with their square.
ATTACKER_IMAGES = 2000


@dataclasses.dataclass(frozen=True)
class Targets:
    """Forget images and as many test images of each class: what attacks tell apart, in an order drawn from the seed.

    `forget` and `test` are indices into the data set, `forget_rows` and `test_rows` their places in the two parts.
    """

    forget: Tensor
    test: Tensor
    forget_rows: Tensor
    test_rows: Tensor


def match_targets(labels: Tensor, forget: Tensor, test: Tensor, seed: int) -> Targets:
    """The targets among sorted indices `[F]` and `[Q]` of forget and test images, by their true classes `[N]`."""
    members, others = class_matched(labels, forget, test, seed)
    rows = [torch.searchsorted(part, drawn.contiguous()) for part, drawn in ((forget, members), (test, others))]
    return Targets(members, others, *rows)


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


def loss_attack(member_losses: Tensor, non_member_losses: Tensor, seed: int = 0) -> dict[str, float | None]:
    """A logistic regression that tells members from non-members by their loss, judged on images left out.

    Means over five stratified folds. A member loss that is *higher* than a non-member's gives the attack away just as a
    lower one does. Source: Kurmanji et al. 2023, section 5; Carlini et al. 2022, section III, for the true positives.

    Args:
        member_losses: `[P]`.
        non_member_losses: `[Q]`, as many as members if accuracy is to mean anything.
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


def attack_efficacy(retain_losses: Tensor, test_losses: Tensor, forget_losses: Tensor) -> float | None:
    """Share of forget images, in percent, that an attacker who knows retain and test images calls non-members.

    The attacker is a support vector machine on the probability of the given label. It is to be compared with the
    retrained model's figure: 100 is not the ideal, since a model is as sure of some images that it never saw. Source:
    Jia et al. 2023, appendix C.3, whose kernel and C these are; of their thousands of images a side, at most
    `ATTACKER_IMAGES` here, in classes alike.

    Args:
        retain_losses: cross-entropies of members, `[R]`.
        test_losses: of non-members, `[Q]`, about as many.
        forget_losses: `[F]`, on none of which the attacker is fitted.

    Returns:
        The share, or None where a part has no image, or losses are not finite.
    """
    losses = [part.double().cpu() for part in (retain_losses, test_losses, forget_losses)]
    if min(map(len, losses)) == 0 or not torch.cat(losses).isfinite().all():
        return None
    from sklearn.svm import SVC

    retain, test, forget = ((-part).exp().numpy()[:, None] for part in losses)
    member = np.repeat([1, 0], [len(retain), len(test)])
    attacker = SVC(C=3, gamma="auto").fit(np.concatenate([retain, test]), member)
    return 100 * float((attacker.predict(forget) == 0).mean())
