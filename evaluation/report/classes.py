"""Which classes lost most of their accuracy, on retained and on held-out images."""

import torch

from data.views import fixed_sample
from evaluation.attacks.intervals import share_interval
from evaluation.judge import HELD_OUT, Judgement, stays
from unlearning.experiment import Experiment

MODELS = ("original", "unlearned")
# Classes that are listed.
MOST = 10


def class_falls(
    judgements: dict[str, Judgement], experiment: Experiment, retain_images: int | None
) -> dict[str, list[dict]]:
    """For `retain` and `held_out` images the up to ten classes whose accuracy fell most, the most first.

    An entry has the `class`, its `images`, accuracy `before` and `after` in per cent, the ends `low` and `high` of the
    95 % interval of the latter, and the `fall` in points. Held-out images are those of classes that stay, as in the
    verdict; `retain_images` are as of `evaluation.judge.judge`.
    """
    splits, sets, classes = experiment.splits, experiment.sets, experiment.dataset.classes
    labels = {
        "retain": splits.labels[fixed_sample(splits.retain, retain_images)],
        "held_out": torch.cat([splits.labels[getattr(splits, part)][stays(sets, part)] for part in HELD_OUT]),
    }
    found: dict[str, list[dict]] = {}
    for part, of_class in labels.items():
        counts, before, after = (
            torch.bincount(of_class[right], minlength=len(classes)).tolist()
            for right in (slice(None), *(getattr(judgements[name], f"{part}_right") for name in MODELS))
        )
        entries = []
        for place, count in enumerate(counts):
            if before[place] <= after[place]:
                continue
            low, high = share_interval(after[place], count)
            fall = 100 * (before[place] - after[place]) / count
            entries.append({
                "class": classes[place], "images": count, "before": 100 * before[place] / count,
                "after": 100 * after[place] / count, "low": low, "high": high, "fall": fall,
            })  # fmt: skip
        found[part] = sorted(entries, key=lambda entry: -entry["fall"])[:MOST]
    return found
