"""Shadow models of U-LiRA: each is trained with a half of the targets and unlearns it; kept once they are made."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from data.forget import corrupt_labels
from data.image_sets import ImageSets
from data.random_streams import random_state, torch_seed
from data.split_record import Splits
from evaluation.attacks.lira import logit_confidence, ulira_figures, ulira_scores
from evaluation.attacks.membership import match_targets
from helper_functions.errors import UserError
from helper_functions.files import load_tensors, save_config, save_tensors
from helper_functions.keys import key_of
from helper_functions.training.devices import Precision
from helper_functions.training.inference import predict

FEWEST = 4

TrainAndForget = Callable[[Path, int, Path], nn.Module]
"""Trains a model on `train` of a splits.npz from a seed, unlearns its `forget`, keeps what it writes in a folder."""


@dataclasses.dataclass(frozen=True)
class ShadowTargets:
    """What U-LiRA tells apart: forget images, then as many test images, matched by true class.

    indices: int64 `[2P]`. labels: what each is learned with, and its confidence is read at, int64 `[2P]`: the given
    label; test images beside mislabelled ones get a wrong one, too. always: forget images without a test image of
    their class left to match, which each shadow learns and unlearns.
    """

    indices: Tensor
    labels: Tensor
    always: Tensor

    @property
    def forget(self) -> int:
        """How many of the targets, from the first on, are forget images."""
        return len(self.indices) // 2


@dataclasses.dataclass(frozen=True)
class Shadows:
    """Confidences of shadow models `[N, T]` on the targets, and whether each had learned and unlearned it, bool."""

    targets: ShadowTargets
    confidences: Tensor
    unlearned: Tensor


def shadow_targets(sets: ImageSets) -> ShadowTargets:
    """The targets of a forget set.

    Raises:
        UserError: there is no class-matched test image, or some labels of the forget set are wrong and others right.
    """
    splits, dataset = sets.splits, sets.dataset
    matched = match_targets(dataset.labels, splits.forget, splits.test, splits.seed)
    if len(matched.forget) == 0:
        raise UserError("--shadow_models: no test image is of the forget set's classes; U-LiRA needs both")
    always = splits.forget[~torch.isin(splits.forget, matched.forget)]
    labels = dataset.labels.clone()
    true, given = dataset.labels[splits.forget], splits.labels[splits.forget]
    wrong = true != given
    if wrong.any():
        if not wrong.all():
            raise UserError("--shadow_models: some labels of the forget set are wrong and others right; split the set")
        kind = "pairwise" if torch.equal(given, (true + 1) % dataset.num_classes) else "uniform"
        rng = random_state(splits.seed, "shadow confusion")
        labels = corrupt_labels(labels, matched.test.numpy(), dataset.num_classes, kind, rng)
    labels[splits.forget] = given
    indices = torch.cat([matched.forget, matched.test])
    return ShadowTargets(indices, labels[indices], always)


def shadow_splits(sets: ImageSets, targets: ShadowTargets, number: int) -> Splits:
    """The splits of shadow model `number`: a half of the targets takes the forget set's place.

    Of each class it is a half, so that as many images of each class are forgotten as in the judged model's splits.
    Shadows 2j and 2j + 1 have the two halves of one draw, so that each target is in every second shadow model.
    """
    splits, dataset = sets.splits, sets.dataset
    classes = dataset.labels[targets.indices]
    chosen = torch.zeros(len(classes), dtype=torch.bool)
    rng = random_state(splits.seed, "shadow", number // 2)
    for label in classes.unique():
        places = torch.nonzero(classes == label).flatten().numpy()
        chosen[torch.from_numpy(rng.permutation(places)[: len(places) // 2])] = True
    if number % 2:
        chosen = ~chosen
    half = targets.indices[chosen]
    forget = torch.cat([half, targets.always]).sort().values
    # Beside the shadow's forget set only retain images are learned, which may have wrong labels of their own.
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
    """The folder of a configuration's shadow models, made if need be: its name is the hash of all that decides them."""
    key = {**configuration, "splits_sha256": splits.sha256, "splits_seed": splits.seed}
    folder = Path(parent) / key_of(key)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--shadow_dir {parent}: no folder can be made there ({error.strerror})") from None
    save_config(key, folder / "shadows.yaml")
    return folder


def run_shadows(
    sets: ImageSets, precision: Precision, count: int, folder: Path, train_and_forget: TrainAndForget
) -> Shadows:
    """Make the shadow models that are missing, and read the outputs of all.

    Args:
        sets: data, and the splits of the models to judge.
        precision: of the shadow models' forward passes.
        count: of shadow models, even and at least `FEWEST`; those that an earlier call left in `folder` count.
        folder: of one configuration (`shadow_folder`); a shadow model has `shadow-000` and so on in it, and is finished
            when `outputs.pt` is there.
        train_and_forget: makes one; called for those that are not finished, which may go on with what they left.

    Raises:
        UserError: outputs that cannot be read; targets as `shadow_targets` says.
    """
    targets = shadow_targets(sets)
    found = []
    for number in range(count):
        home = folder / f"shadow-{number:03d}"
        outputs = home / "outputs.pt"
        state = "was there already" if outputs.is_file() else "made"
        if not outputs.is_file():
            home.mkdir(exist_ok=True)
            splits = shadow_splits(sets, targets, number)
            splits.save(home / "splits.npz")
            seed = torch_seed(splits.seed, "shadow model", number) % 2**32
            model = train_and_forget(home / "splits.npz", seed, home)
            logits, _ = predict(model, sets.evaluation(targets.indices), precision)
            unlearned = torch.isin(targets.indices, splits.forget)
            kept = {"confidences": logit_confidence(logits, targets.labels), "unlearned": unlearned}
            save_tensors(kept, outputs)
        print(f"shadow   {number + 1} of {count}: {state}", flush=True)
        found.append(_read(outputs, len(targets.indices)))
    confidences, unlearned = (torch.stack(part) for part in zip(*found, strict=True))
    return Shadows(targets, confidences, unlearned)


def _read(outputs: Path, count: int) -> tuple[Tensor, Tensor]:
    remedy = "remove the file, and the shadow model's outputs are made anew"
    content = load_tensors(outputs, remedy)
    parts = content.get("confidences"), content.get("unlearned")
    if any(not isinstance(part, Tensor) or part.shape != (count,) for part in parts):
        raise UserError(f"{outputs}: no outputs on {count} targets; {remedy}")
    return parts


def against_shadows(sets: ImageSets, shadows: Shadows, logits: dict[str, Tensor]) -> dict[str, float | None]:
    """`ulira_...` of a model, from its logits `[n, K]` of the parts `forget` and `test`."""
    splits, targets = sets.splits, shadows.targets
    members, others = targets.indices.split(targets.forget)
    rows = [torch.searchsorted(part, chosen) for part, chosen in ((splits.forget, members), (splits.test, others))]
    outputs = torch.cat([logits["forget"][rows[0]], logits["test"][rows[1]]])
    scores = ulira_scores(logit_confidence(outputs, targets.labels), shadows.confidences, shadows.unlearned)
    return ulira_figures(scores, targets.forget, splits.seed)
