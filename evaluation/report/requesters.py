"""Evidence for each requester of a table of requests, on his own images alone, and his page."""

import hashlib
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from data.image_list import Request
from evaluation.attacks.intervals import share_interval
from evaluation.judge import Judgement
from evaluation.report.page import render
from unlearning.experiment import Experiment

MODELS = {"before": "original", "after": "unlearned"}


def evidence_for(requests: Sequence[Request], judgements: dict[str, Judgement], experiment: Experiment) -> list[dict]:
    """An entry of the report for each requester, in the order of the requests.

    `images` are those that he named, `earlier` those of them that earlier requests forgot. Of the others, `before` and
    `after` tell how many are `named` by their label, the ends of the 95 % interval of that share in per cent, and a
    `score`, the mean share of held-out images of the same class with a higher loss. It lies between `score_low` and
    `score_high` in 95 of 100 cases for as many images that a model never saw.
    """
    splits, names = experiment.splits, experiment.dataset.file_names
    rows = {image: row for row, image in enumerate(splits.forget.tolist())}
    part = "test" if "test" in judgements["unlearned"].losses else "validation"
    strata = experiment.sets.strata
    labels, others = strata[splits.forget], strata[getattr(splits, part)]
    entries = []
    for number, requester in enumerate(dict.fromkeys(request.requester for request in requests), start=1):
        own = [request for request in requests if request.requester == requester]
        images = sorted({image for request in own for image in request.images})
        at = torch.tensor([rows[image] for image in images if image in rows], dtype=torch.int64)
        compared = at[torch.isin(labels[at], others)]
        half = 1.96 / math.sqrt(12 * max(len(compared), 1))  # of a mean of numbers that are uniform between 0 and 1
        entry = {
            "requester": requester, "requests": [request.id for request in own], "images": len(images),
            "earlier": len(images) - len(at), "sha256": list_digest(images, names), "page": f"requester-{number}.html",
            "score_low": max(0.0, 0.5 - half), "score_high": min(1.0, 0.5 + half),
        }  # fmt: skip
        for when, model in MODELS.items():
            judgement = judgements[model]
            named = int(judgement.forget_right[at].sum())
            low, high = share_interval(named, len(at))
            scores = _scores(judgement.losses["forget"][compared], labels[compared], judgement.losses[part], others)
            score = scores.mean().item() if len(scores) else None
            entry[when] = {"named": named, "low": low, "high": high, "score": score}
        entries.append(entry)
    return entries


def _scores(losses: Tensor, labels: Tensor, reference: Tensor, others: Tensor) -> Tensor:
    """For each image, the share of reference images of its class with a higher loss, equal ones by half, `[n]`."""
    same = (labels[:, None] == others[None]).double()
    above = (reference[None] > losses[:, None]).double() + 0.5 * (reference[None] == losses[:, None]).double()
    return (above * same).sum(1) / same.sum(1)


def list_digest(images: Sequence[int], file_names: tuple[str, ...] | None) -> str:
    """SHA-256 of a list of images, one a line: file names in byte order, else numbers in ascending order.

    The same as `LC_ALL=C sort -u list | sha256sum` for file names and `sort -nu list | sha256sum` for numbers.
    """
    if file_names is None:
        lines = [str(image).encode() for image in sorted(set(images))]
    else:
        # Python keeps the bytes of names that are not UTF-8 as surrogates.
        lines = sorted({file_names[image].encode("utf-8", "surrogateescape") for image in images})
    return hashlib.sha256(b"".join(line + b"\n" for line in lines)).hexdigest()


def requester_page(report: dict, entry: dict) -> str:
    """The page of one requester: nothing of the others is on it, and no name of an image."""
    return render("requester.html", report=report, entry=entry)
