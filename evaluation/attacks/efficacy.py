"""MIA efficacy: the share of forget images that an attacker takes for non-members."""

import numpy as np
import torch
from torch import Tensor

# Images a side that the attacker learns from; its cost grows with their square.
ATTACKER_IMAGES = 2000


def attack_efficacy(retain_losses: Tensor, test_losses: Tensor, forget_losses: Tensor) -> float | None:
    """Share of forget images, in percent, that an attacker who knows retain and test images calls non-members.

    The attacker is a support vector machine on the probability of the given label. Compare with the retrained model's
    figure: 100 is not the ideal, since a model is equally certain of some images that it never saw. Source: Jia et al.
    2023, appendix C.3, which gives kernel and C; here with at most `ATTACKER_IMAGES` images a side, matched by class.

    Args:
        retain_losses: cross-entropies of members, `[R]`.
        test_losses: of non-members, `[Q]`, about as many.
        forget_losses: `[F]`, on none of which the attacker is fitted.

    Returns:
        The share, or None where a part is empty or losses are not finite.
    """
    losses = [part.double().cpu() for part in (retain_losses, test_losses, forget_losses)]
    if min(map(len, losses)) == 0 or not torch.cat(losses).isfinite().all():
        return None
    from sklearn.svm import SVC

    retain, test, forget = ((-part).exp().numpy()[:, None] for part in losses)
    member = np.repeat([1, 0], [len(retain), len(test)])
    attacker = SVC(C=3, gamma="auto").fit(np.concatenate([retain, test]), member)
    return 100 * float((attacker.predict(forget) == 0).mean())
