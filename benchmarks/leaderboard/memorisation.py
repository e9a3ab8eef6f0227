"""Forget sets by memorisation, in thirds, as in RUM (Zhao et al. 2024).

The score of an image is its loss under a model that was not trained on it: two models, each trained on one half of the
training images, score the other half.
"""

from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

import train
from benchmarks.leaderboard.trained_models import Training
from data.random_streams import random_state
from helper_functions.errors import UserError
from helper_functions.training.inference import predict
from unlearning.experiment import Experiment

THIRDS = ("low", "middle", "high")
# Share of the training images: the size of random:0.1.
SHARE = 0.1


def resolve(forget: str, training: Training, seed: int) -> str:
    """A forget set as the scripts name it: `memorised:low|middle|high` becomes `file:` with the list of its images.

    Raises:
        UserError: an unknown third.
    """
    kind, _, third = forget.partition(":")
    if kind != "memorised":
        return forget
    if third not in THIRDS:
        raise UserError(f"--forget {forget}: memorised:{', memorised:'.join(THIRDS)}")
    path = Path(training.log_dir) / f"memorised-{third}-{training.original(forget, seed).name}.txt"
    if not path.exists():
        path.write_text("\n".join(map(str, choose(score(training, seed), third, seed).tolist())) + "\n")
    return f"file:{path}"


def choose(scores: dict[int, float], third: str, seed: int) -> Tensor:
    """A tenth of all images, drawn from one third by score: sorted int64 indices.

    Args:
        scores: by image.
        third: `low`, `middle` or `high`.
        seed: of the draw.
    """
    ranked = torch.tensor(sorted(scores, key=lambda image: (scores[image], image)))
    part = ranked.tensor_split(len(THIRDS))[THIRDS.index(third)]
    order = random_state(seed, "memorised", THIRDS.index(third)).permutation(len(part))
    return part[torch.from_numpy(order[: round(SHARE * len(ranked))])].sort().values


def score(training: Training, seed: int) -> dict[int, float]:
    """The loss of each training image under the model that was trained on the other half, by image."""
    original = training.original("", seed)
    argv = ["--config_file", training.config_file, "--splits", str(original / "splits.npz"), "--seed", str(seed)]
    experiment = Experiment(train.get_parser().parse(argv))
    images = experiment.splits.train
    order = torch.from_numpy(random_state(seed, "halves").permutation(len(images)))
    scores = {}
    for number, half in enumerate(images[order].tensor_split(2)):
        path = Path(training.log_dir) / f"half-{number}-{original.name}.txt"
        path.write_text("\n".join(map(str, half.sort().values.tolist())) + "\n")
        flags = {"seed": seed, "splits": original / "splits.npz", "forget": f"file:{path}", "retain_only": True}
        model = experiment.model(str(training.run("half", flags) / "model.pt"))
        logits, labels = predict(model, experiment.sets.evaluation(half), experiment.precision)
        losses = F.cross_entropy(logits, labels, reduction="none")
        scores |= dict(zip(half.tolist(), losses.tolist(), strict=True))
    return scores
