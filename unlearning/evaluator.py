"""What is measured after an epoch of unlearning: feasibility, distance to the target, figures of every stream."""

import dataclasses
import math
from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from data.loaders import TensorLoader
from data.views import evaluation_view
from helper_functions.metrics import summarise
from helper_functions.training.devices import Precision
from helper_functions.training.inference import predict
from unlearning.constrained.difficulty import Difficulty

RETAIN_SAMPLE = 5000
# Most retain images of a final report: for more, the margin of the sample is at most 0.3 points.
JUDGED = 50_000
ONE_SIDED_95 = 1.645
# Maximum accuracy points of forget above unseen images that count as forgotten.
UNSEEN_TOLERANCE = 5.0
# Maximum percentage of images of a forgotten class that are still classified as that class.
ZERO_TOLERANCE = 1.0


def paired_fall(before: Tensor, after: Tensor, population: float = math.inf) -> tuple[float, float]:
    """Fall of accuracy on the same images, and the margin to either of its one-sided 95 % bounds, in points.

    Args:
        before: bool `[n]`, right answers of the original.
        after: bool `[n]`, right answers now.
        population: how many images the n were drawn from without replacement; with n of n there is no margin.
    """
    change = before.float() - after.float()
    count = len(change)
    if count == 0:
        return 0.0, 0.0
    rest = max(0.0, 1 - count / population)
    error = change.std(correction=1).item() * math.sqrt(rest / count) if rest and count > 1 else 0.0
    return 100 * change.mean().item(), 100 * ONE_SIDED_95 * error


def keeps_budget(
    budget: float, retain: tuple[float, float], held_out: tuple[float, float] = (-math.inf, 0.0)
) -> bool:
    """Whether falls with their margins, as of `paired_fall`, keep the budget, in points.

    On retain images the upper bound has to; on held-out images, a sample of all images that there are, the lower one.
    """
    # Percentages carry float32 rounding, which must not break a budget that is kept exactly.
    return max(sum(retain), held_out[0] - held_out[1]) <= budget + 1e-4


def is_forgotten(target: str, figures: dict[str, float], num_classes: int) -> bool:
    """Whether the forget set counts as forgotten, by the target of the run.

    `chance`: mean loss on the given labels at least log K and accuracy at most 1/K; `zero`: accuracy at most 1 %;
    `unseen`: accuracy at most 5 points above that of unseen images.
    """
    if target == "zero":
        return figures["forget_top1"] <= ZERO_TOLERANCE
    if target == "chance":
        return figures["forget_loss"] >= math.log(num_classes) and figures["forget_top1"] <= 100 / num_classes
    return figures["forget_top1"] <= figures["unseen_top1"] + UNSEEN_TOLERANCE


def met_before(target: str, original: dict[str, float], num_classes: int) -> bool:
    """Whether the original itself counts as forgotten; figures as a report or as a run names them."""
    figures = {name.replace("/", "_"): value for name, value in original.items()}
    return math.isfinite(figures["forget_loss"]) and is_forgotten(target, figures, num_classes)


def matching_weights(labels: Tensor, wanted: Tensor) -> Tensor:
    """Weight of each reference image, `[R]`, so that their classes weigh as those of `wanted` do.

    Uniform where no class is shared.
    """
    classes, places = torch.cat([labels, wanted]).unique(return_inverse=True)
    labels, wanted = places.split([len(labels), len(wanted)])
    counts = torch.bincount(labels, minlength=len(classes))
    shares = torch.bincount(wanted, minlength=len(classes)).float() / counts.clamp(min=1)
    weights = shares[labels]
    return weights / weights.sum() if weights.sum() > 0 else torch.full_like(weights, 1 / len(weights))


def matched_top1(logits: Tensor, labels: Tensor, weights: Tensor) -> float:
    """Top-1 accuracy in percent, each image of weight `[R]`, of logits `[R, K]` and labels `[R]`."""
    right = (logits.argmax(1) == labels).to(weights.dtype)
    return 100 * (right * weights.to(right.device)).sum().item()


@dataclasses.dataclass
class Evaluation:
    """What one measurement found: figures by name, per-image losses `[n]` by stream, forget logits and labels."""

    figures: dict[str, float]
    losses: dict[str, Tensor]
    forget: tuple[Tensor, Tensor]


class Evaluator:
    """Repeated, paired measurements of a model against the original, on the same images without augmentation.

    `class_weights` of the unseen and of the validation images match their classes, or the `strata` of the loaders where
    there are other ones, to the forget set's; `difficulty_weights` match how hard they are as well.

    Args:
        model: the original, examined once at the start.
        loaders: `retain`, `forget`, `unseen` and `validation`, sized iterables of `(inputs, labels)`.
        precision: device and dtype.
        seed: of the fixed sample of retain images.
        retain_loss_gap: retain loss less that of the original, from logits `[n, K]` of the original and of the model,
            and labels `[n]`.
    """

    def __init__(
        self, model: nn.Module, loaders: dict[str, Iterable], precision: Precision, seed: int,
        retain_loss_gap: Callable[[Tensor, Tensor, Tensor], Tensor],
    ) -> None:  # fmt: skip
        self.precision, self.retain_loss_gap = precision, retain_loss_gap
        self.views = {name: evaluation_view(loaders[name]) for name in ("forget", "unseen", "validation")}
        self.views["retain"] = evaluation_view(loaders["retain"], RETAIN_SAMPLE, seed)
        self.original_outputs = {name: predict(model, view, precision) for name, view in self.views.items()}
        self.original_losses = {
            name: F.cross_entropy(*outputs, reduction="none") for name, outputs in self.original_outputs.items()
        }
        self.num_classes = self.original_outputs["forget"][0].shape[1]
        self.forget_labels = self.original_outputs["forget"][1]
        self.retain_labels = self.original_outputs["retain"][1]
        self.retain_classes = self._classes(loaders["retain"], "labels").unique()
        self.strata = {
            name: self._classes(view, "strata") if isinstance(view, TensorLoader) else self.original_outputs[name][1]
            for name, view in self.views.items()
        }
        self.retain_strata = self._classes(loaders["retain"], "strata").unique()
        self.original_right = self._right(self.original_outputs)
        self.retain_images = max(_size(loaders["retain"]), len(self.retain_labels))
        self.forget_images = len(self.forget_labels)
        self.class_weights = {
            name: matching_weights(self.strata[name], self.strata["forget"]) for name in ("unseen", "validation")
        }
        self.unseen_top1 = matched_top1(*self.original_outputs["unseen"], self.class_weights["unseen"])
        self.difficulty = self._difficulty()
        self.difficulty_weights = {
            name: self.difficulty.weigh(self.original_losses[name], weights)
            for name, weights in self.class_weights.items()
        }

    def _difficulty(self) -> Difficulty:
        # The sample holds nothing about a class without retain images in it.
        forget, retain = self.strata["forget"], self.strata["retain"]
        held = torch.isin(forget, retain)
        weights = matching_weights(retain, forget[held])
        return Difficulty.of(self.original_losses["forget"][held], self.original_losses["retain"], weights)

    def class_counts(self) -> tuple[Tensor, Tensor, Tensor]:
        """Forget images of each class, whether there are retain images, and unseen ones, int64 `[K]` each."""
        return tuple(
            torch.bincount(labels, minlength=self.num_classes)
            for labels in (self.forget_labels, self.retain_classes, self.original_outputs["unseen"][1])
        )

    def is_mixture(self) -> bool:
        """Whether the forget set's classes are spread as the retain set's: their shares differ by less than half."""
        forget, retain = (
            torch.bincount(labels, minlength=self.num_classes) / len(labels)
            for labels in (self.forget_labels, self.retain_labels)
        )
        return (forget - retain).abs().sum().item() / 2 < 0.5

    def forgotten_classes(self) -> Tensor:
        """Classes of the forget set that do not occur among the retain images, int64."""
        forget = self.forget_labels.unique()
        return forget[~torch.isin(forget, self.retain_classes)]

    def _classes(self, loader: Iterable, kind: str) -> Tensor:
        """The `labels` or the `strata` of a loader's images; all of it counts, since a sample may lack a rare class."""
        if isinstance(loader, TensorLoader):
            found = getattr(loader, kind)
            found = found[loader.indices.to(found.device)]
        else:
            found = torch.cat([labels for _, labels in loader])
        return found.to(self.forget_labels.device)

    def _right(self, outputs: dict[str, tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
        """Right answers on the retain images, and on held-out images of classes that stay, bool."""
        right = {name: logits.argmax(1) == labels for name, (logits, labels) in outputs.items()}
        held_out = [right[name][torch.isin(self.strata[name], self.retain_strata)] for name in ("unseen", "validation")]
        return right["retain"], torch.cat(held_out)

    def losses(self, model: nn.Module, name: str) -> Tensor:
        """Losses of one stream's images under the model's present weights, `[n]`."""
        return F.cross_entropy(*predict(model, self.views[name], self.precision), reduction="none")

    def __call__(self, model: nn.Module, target, budget: float) -> Evaluation:
        """Measure the model now."""
        outputs = {name: predict(model, view, self.precision) for name, view in self.views.items()}
        return self.of_outputs(outputs, target, budget)

    def of_outputs(self, outputs: dict[str, tuple[Tensor, Tensor]], target, budget: float) -> Evaluation:
        """From logits and labels by stream; `constraint/feasible` is 1 where `keeps_budget` holds."""
        figures, losses = {}, {}
        for name, (logits, labels) in outputs.items():
            losses[name] = F.cross_entropy(logits, labels, reduction="none")
            figures |= {f"{name}/{figure}": value for figure, value in summarise(logits, labels).items()}
        # Of the forget set's classes, in their shares: what its accuracy is to be compared with.
        for name, weights in self.class_weights.items():
            figures[f"{name}/matched_top1"] = matched_top1(*outputs[name], weights)
        retain_right, held_out_right = self._right(outputs)
        retain = paired_fall(self.original_right[0], retain_right, self.retain_images)
        held_out = paired_fall(self.original_right[1], held_out_right)
        figures |= {
            "retain/loss_gap": self.retain_loss_gap(self.original_outputs["retain"][0], *outputs["retain"]).item(),
            "constraint/fall": retain[0],
            "constraint/fall_bound": sum(retain),
            "held_out/fall": held_out[0],
            "held_out/fall_bound": held_out[0] - held_out[1],
            # Logits that are NaN can still be right by chance.
            "constraint/feasible": float(
                keeps_budget(budget, retain, held_out) and math.isfinite(figures["retain/loss"])
            ),
        }
        distance = target.distance(*outputs["forget"], losses["validation"], self.difficulty_weights["validation"])
        figures |= {"forget/distance": distance, "forget/own_distance": distance}
        return Evaluation(figures, losses, outputs["forget"])


def _size(loader: Iterable) -> int:
    if hasattr(loader, "num_images"):
        return loader.num_images
    # A sampler may draw from a part of its data set.
    sampler = getattr(loader, "sampler", None)
    return len(sampler) if sampler is not None else sum(len(labels) for _, labels in loader)
