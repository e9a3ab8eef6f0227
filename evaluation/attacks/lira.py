"""U-LiRA: was an image trained on and unlearned, or never seen?

Each shadow model is trained on a half of the targets and unlearns it; finished ones are reused.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from data.forget import corrupt_labels
from data.image_sets import ImageSets
from data.random_streams import random_state, torch_seed
from data.split_record import Splits
from evaluation.attacks.intervals import auc_figures, auc_with_interval, tpr_at_fpr, worst_tenth
from evaluation.attacks.matching import class_matched
from helper_functions.errors import UserError
from helper_functions.files import key_of, load_tensors, make_folder, save_config, save_tensors
from helper_functions.training.devices import Precision
from helper_functions.training.inference import predict

# With fewer shadow models a side, an image's own variance is too noisy, and one variance is pooled over all images.
OWN_VARIANCE_FROM = 32
VARIANCE_FLOOR = 1e-3
FEWEST = 4
REMEDY = "remove the file, and the outputs are computed again"

TrainAndForget = Callable[[Path, int, Path], nn.Module]
"""(splits.npz, seed, folder for output): trains a model on `train`, unlearns `forget`, returns the model."""


@dataclasses.dataclass(frozen=True)
class ShadowTargets:
    """Targets of U-LiRA: forget images, then as many test images, matched by true class.

    indices: int64 `[2P]`. labels: for training and for the confidence, int64 `[2P]`: the given labels; test images
    matched to mislabelled ones get wrong labels as well. always: forget images without a matching test image, which
    every shadow learns and unlearns.
    """

    indices: Tensor
    labels: Tensor
    always: Tensor

    @property
    def forget(self) -> int:
        """Number of forget images, which come first."""
        return len(self.indices) // 2


@dataclasses.dataclass(frozen=True)
class Shadows:
    """Confidences of shadow models on the targets, `[N, T]`, and whether each had learned and unlearned it, bool."""

    targets: ShadowTargets
    confidences: Tensor
    unlearned: Tensor


def shadow_targets(sets: ImageSets) -> ShadowTargets:
    """The targets of a forget set; UserError without a matching test image, or where some of its labels are wrong."""
    splits, dataset = sets.splits, sets.dataset
    forget, test = class_matched(dataset.strata, splits.forget, splits.test, splits.seed)
    if len(forget) == 0:
        raise UserError("--shadow_models: no test image has a class of the forget set; U-LiRA needs both")
    always = splits.forget[~torch.isin(splits.forget, forget)]
    labels = dataset.labels.clone()
    true, given = dataset.labels[splits.forget], splits.labels[splits.forget]
    wrong = true != given
    if wrong.any():
        if not wrong.all():
            raise UserError("--shadow_models: some labels of the forget set are wrong and others right; split the set")
        kind = "pairwise" if torch.equal(given, (true + 1) % dataset.num_classes) else "uniform"
        rng = random_state(splits.seed, "shadow confusion")
        labels = corrupt_labels(labels, test.numpy(), dataset.num_classes, kind, rng)
    labels[splits.forget] = given
    indices = torch.cat([forget, test])
    return ShadowTargets(indices, labels[indices], always)


def shadow_splits(sets: ImageSets, targets: ShadowTargets, number: int) -> Splits:
    """The splits of shadow model `number`: a half of the targets replaces the forget set.

    It is a half of each class, so that as many images of each class are forgotten as in the judged model's splits.
    Shadows 2j and 2j + 1 have the two halves of one draw, so that each target is in every second shadow model.
    """
    splits, dataset = sets.splits, sets.dataset
    classes = dataset.strata[targets.indices]
    chosen = torch.zeros(len(classes), dtype=torch.bool)
    rng = random_state(splits.seed, "shadow", number // 2)
    for label in classes.unique():
        places = torch.nonzero(classes == label).flatten().numpy()
        chosen[torch.from_numpy(rng.permutation(places)[: len(places) // 2])] = True
    if number % 2:
        chosen = ~chosen
    half = targets.indices[chosen]
    forget = torch.cat([half, targets.always]).sort().values
    # Retain images keep their given labels, which may be wrong.
    labels = splits.labels.clone()
    labels[splits.forget] = dataset.labels[splits.forget]
    labels[targets.always] = splits.labels[targets.always]
    labels[half] = targets.labels[chosen]
    return dataclasses.replace(
        splits,
        train=torch.cat([splits.retain, forget]).sort().values,
        forget=forget,
        test=splits.test[~torch.isin(splits.test, half)],
        labels=labels,
    )


def shadow_folder(parent: str | Path, configuration: dict, splits: Splits) -> Path:
    """The folder of a configuration's shadow models, created if needed; its name hashes all that determines them."""
    key = {**configuration, "splits_sha256": splits.sha256, "splits_seed": splits.seed}
    folder = make_folder("shadow_dir", parent) / key_of(key)
    folder.mkdir(exist_ok=True)
    save_config(key, folder / "shadows.yaml")
    return folder


def run_shadows(
    sets: ImageSets, precision: Precision, count: int, folder: Path, train_and_forget: TrainAndForget
) -> Shadows:
    """Make the missing shadow models and read the outputs of all; UserError where these cannot be read.

    Args:
        sets: of the models to judge.
        count: of shadow models, even and at least `FEWEST`, finished ones in `folder` included.
        folder: of `shadow_folder`, with a sub-folder `shadow-000` and so on for each; a finished one has `outputs.pt`.
        train_and_forget: called for each unfinished one, with its sub-folder.
    """
    targets = shadow_targets(sets)
    found = []
    for number in range(count):
        home = folder / f"shadow-{number:03d}"
        outputs = home / "outputs.pt"
        made = not outputs.is_file()
        if made:
            home.mkdir(exist_ok=True)
            splits = shadow_splits(sets, targets, number)
            splits.save(home / "splits.npz")
            seed = torch_seed(splits.seed, "shadow model", number) % 2**32
            model = train_and_forget(home / "splits.npz", seed, home)
            logits, _ = predict(model, sets.evaluation(targets.indices), precision)
            unlearned = torch.isin(targets.indices, splits.forget)
            kept = {"confidences": logit_confidence(logits, targets.labels), "unlearned": unlearned}
            save_tensors(kept, outputs)
        print(f"shadow   {number + 1} of {count}: {'made' if made else 'reused'}", flush=True)
        content = load_tensors(outputs, REMEDY)
        parts = content.get("confidences"), content.get("unlearned")
        if any(not isinstance(part, Tensor) or part.shape != (len(targets.indices),) for part in parts):
            raise UserError(f"{outputs}: no outputs on {len(targets.indices)} targets; {REMEDY}")
        found.append(parts)
    confidences, unlearned = (torch.stack(part) for part in zip(*found, strict=True))
    return Shadows(targets, confidences, unlearned)


def logit_confidence(logits: Tensor, labels: Tensor) -> Tensor:
    """log(p / (1 - p)) of each label's probability p, float64 `[N]` on the CPU: nearly Gaussian over models.

    Computed from logits `[N, K]`, since p may round to 1. Source: Carlini et al. 2022, section V-A.
    """
    logits, labels = logits.double().cpu(), labels.cpu()[:, None]
    others = logits.scatter(1, labels, -torch.inf)
    return logits.gather(1, labels)[:, 0] - others.logsumexp(1)


def ulira_scores(judged: Tensor, shadows: Tensor, unlearned: Tensor) -> Tensor:
    """Log-likelihood ratios: each image among those that were unlearned, against among those never seen.

    Two Gaussians an image are fitted to the shadow models' logit-scaled confidences. From `OWN_VARIANCE_FROM` shadow
    models a side on, variances are the image's own; with fewer, one variance a side is pooled over all images about
    their own means. `VARIANCE_FLOOR` is the minimum. Source: Hayes et al. 2024, algorithm 1; Carlini et al. 2022,
    section VI-B, for few shadow models.

    Args:
        judged: confidences under the judged model, `[T]`.
        shadows: under each shadow model, `[N, T]`.
        unlearned: bool `[N, T]`, whether the shadow was trained on the image and unlearned it; both values occur for
            each image, one of them at least twice.

    Returns:
        float64 `[T]`, positive where unlearned is likelier.
    """
    judged, shadows = judged.double(), shadows.double()
    return _log_likelihood(judged, shadows, unlearned) - _log_likelihood(judged, shadows, ~unlearned)


def _log_likelihood(judged: Tensor, shadows: Tensor, chosen: Tensor) -> Tensor:
    """Of the judged confidences under Gaussians fitted to the chosen shadow outputs, up to a constant; `[T]`."""
    mean, variance = fit_gaussians(shadows, chosen)
    return -(judged - mean).square() / (2 * variance) - variance.log() / 2


def fit_gaussians(shadows: Tensor, chosen: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance of each image's chosen outputs, `[T]` each, as `ulira_scores` fits them; both are `[N, T]`."""
    count = chosen.sum(0).double()
    mean = (shadows * chosen).sum(0) / count
    squares = ((shadows - mean).square() * chosen).sum(0)
    if count.min() < OWN_VARIANCE_FROM:
        variance = (squares.sum() / (count - 1).sum()).expand_as(mean)
    else:
        variance = squares / (count - 1)
    return mean, variance.clamp(min=VARIANCE_FLOOR)


def ulira_figures(scores: Tensor, forget: int, seed: int = 0) -> dict[str, float | None]:
    """Figures of scores, forget images first; 0.5, 50 and 1 are ideal.

    `scores` are those of `ulira_scores`, `[T]`; `forget` is the number of forget images, the others are test images.

    Returns:
        `ulira_auc` with the ends of its 95 % interval, `ulira_accuracy`, the mean of the shares of forget images above
        and of test images not above 0, `ulira_tpr`, true positives at 1 % false ones, both in percent, and
        `ulira_worst_tenth` with its interval. All None where a side is empty or a score is not finite.
    """
    members, others = scores[:forget], scores[forget:]
    if min(len(members), len(others)) == 0 or not scores.isfinite().all():
        none = auc_figures("ulira_auc", None) | {"ulira_accuracy": None, "ulira_tpr": None}
        return none | auc_figures("ulira_worst_tenth", None)
    right = (members > 0).double().mean() + (others <= 0).double().mean()
    return {
        **auc_figures("ulira_auc", auc_with_interval(members, others, seed)),
        "ulira_accuracy": 100 * right.item() / 2,
        "ulira_tpr": tpr_at_fpr(members, others),
        **auc_figures("ulira_worst_tenth", worst_tenth(members, others, seed)),
    }


def against_shadows(sets: ImageSets, shadows: Shadows, logits: dict[str, Tensor]) -> dict[str, float | None]:
    """`ulira_...` of a model from its logits `[n, K]` of the parts `forget` and `test`."""
    splits, targets = sets.splits, shadows.targets
    members, others = targets.indices.split(targets.forget)
    rows = [torch.searchsorted(part, chosen) for part, chosen in ((splits.forget, members), (splits.test, others))]
    outputs = torch.cat([logits["forget"][rows[0]], logits["test"][rows[1]]])
    scores = ulira_scores(logit_confidence(outputs, targets.labels), shadows.confidences, shadows.unlearned)
    return ulira_figures(scores, targets.forget, splits.seed)
