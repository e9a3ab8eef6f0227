"""Linear probe: accuracy on the forget set of a linear classifier on a model's features."""

import warnings

import numpy as np
import torch
from torch import Tensor, nn

from data.image_sets import ImageSets
from data.random_streams import random_state
from helper_functions.training.devices import Precision
from models.features import predict_features

# Maximum number of retain images to learn from.
LEARNED_IMAGES = 5000
# A ten times larger tolerance costs a point or two of accuracy on a hundred classes.
ITERATIONS, TOLERANCE = 100, 1e-5


def linear_probe_top1(model: nn.Module, sets: ImageSets, precision: Precision, seed: int) -> float | None:
    """Top-1 on the forget set, in percent by given labels, of a linear classifier refitted on frozen features.

    Logistic regression on the standardised inputs of the model's last linear layer, fitted to a sample of the retain
    set. Where whole classes are forgotten, it also learns from as many images of each of them as of the average class,
    at most half of them, and is judged on the others. Source: Alain and Bengio 2017.

    Returns:
        The accuracy, or None where features are not finite or there is only one class to learn from.
    """
    learned, judged = probe_images(sets, seed, LEARNED_IMAGES)
    if len(judged) == 0 or len(sets.splits.labels[learned].unique()) < 2:
        return None
    passes = [predict_features(model, sets.evaluation(part), precision) for part in (learned, judged)]
    features, _, labels = ([part.cpu() for part in parts] for parts in zip(*passes, strict=True))
    if not torch.cat(features).isfinite().all():
        return None
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    probe = make_pipeline(StandardScaler(), LogisticRegression(max_iter=ITERATIONS, tol=TOLERANCE))
    with warnings.catch_warnings():
        # Separable features have no finite optimum; predictions stop changing long before.
        warnings.simplefilter("ignore", ConvergenceWarning)
        probe.fit(features[0].numpy(), labels[0].numpy())
    return 100 * float(np.mean(probe.predict(features[1].numpy()) == labels[1].numpy()))


def probe_images(sets: ImageSets, seed: int, learned_images: int) -> tuple[Tensor, Tensor]:
    """Sorted, disjoint indices of the images to learn from and of those to judge on."""
    splits = sets.splits
    retain = splits.retain.numpy()
    learned = [random_state(seed, "probe").permutation(retain)[:learned_images]]
    kept = splits.labels[splits.retain].unique()
    given = splits.labels[splits.forget]
    for label in given[~torch.isin(given, kept)].unique().tolist():
        images = random_state(seed, "probe", label).permutation(splits.forget[given == label].numpy())
        learned.append(images[: min(len(images) // 2, -(-len(learned[0]) // len(kept)))])
    chosen = torch.from_numpy(np.sort(np.concatenate(learned)))
    return chosen, splits.forget[~torch.isin(splits.forget, chosen)]
