"""The reference for forget outputs: the teacher's outputs on unseen images, their views and their statistics."""

import dataclasses
from typing import Literal

import torch
from torch import Tensor

from contrastive_discrimination.pairs import ClassMates, other_classes, set_apart
from helper_functions.errors import UserError
from helper_functions.metrics import class_mask

OutputName = Literal["logits", "features", "losses"]
Match = Literal["given", "none"]


@dataclasses.dataclass(frozen=True, eq=False)
class View:
    """The part of a model's outputs that a discriminator sees.

    `logits` are log-probabilities with the classes to forget set apart (`set_apart`), `losses` the negative of their
    first column, `features` the input of the last linear layer.

    Args:
        name: one of the three.
        num_classes: K.
        forgotten: classes that are wholly forgotten, int64; they are set apart together. Empty: an image's own label.
    """

    name: OutputName
    num_classes: int
    forgotten: Tensor

    @property
    def set_apart(self) -> int:
        """Number of classes that are set apart."""
        return max(1, len(self.forgotten))

    def to_go(self, labels: Tensor) -> Tensor:
        """The classes to forget for images of these labels: bool `[B, K]`."""
        classes = class_mask(labels, self.num_classes)
        if len(self.forgotten):
            classes[:, self.forgotten] = True
        return classes

    def __call__(self, logits: Tensor, features: Tensor | None, classes: Tensor) -> Tensor:
        """`[B, D]` from logits `[B, K]`, features `[B, F]` (for `features` alone) and classes to set apart `[B, K]`."""
        if self.name == "features":
            return features.float()
        outputs = set_apart(logits, classes)
        return outputs if self.name == "logits" else -outputs[:, :1]


class Reference:
    """The teacher's outputs on unseen images, and pairs of them.

    With `given`, a forget image is paired with unseen images of its own label. With `none`, it is paired with images of
    any class, in which as many random classes are set apart as are to be forgotten, but never the image's own: so
    likely would the wrong label, or the forgotten class, be to a teacher that had not learned it.

    Args:
        view: the part of the outputs that is compared.
        match: how images are paired.
        logits: of the teacher, `[U, K]`.
        labels: of the images, int64 `[U]`.
        features: of the teacher, `[U, F]`, for the view `features` alone.
        name: of the images, for errors.
        wanted: labels of the forget images, int64 `[P]`.
        weights: of the images, `[U]`, by which `given` draws them; uniformly without them.

    Raises:
        UserError: fewer than two images, or with `given` fewer than two of a class of the forget set.
    """

    def __init__(
        self, view: View, match: Match, logits: Tensor, labels: Tensor, features: Tensor | None, name: str,
        wanted: Tensor, weights: Tensor | None = None,
    ) -> None:  # fmt: skip
        self.view, self.match = view, match
        self.logits, self.labels, self.features = logits, labels, features
        if match == "given":
            self.mates = ClassMates(labels, view.num_classes, weights)
            self.mates.require(wanted, name)
        else:
            self.mates = ClassMates(torch.zeros_like(labels), 1)
            if len(labels) < 2:
                raise UserError(f"{len(labels)} {name} image to pair; hold out more images (--validation)")

    def draw(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two different images for each forget image of these labels, `[B]`: two index tensors, int64 `[B]`."""
        return self.mates.draw(labels if self.match == "given" else torch.zeros_like(labels), generator)

    def outputs(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """The view of the images with these indices, `[B, D]`."""
        labels, view = self.labels[indices], self.view
        if self.match == "given":
            classes = view.to_go(labels)
        else:
            classes = other_classes(labels, view.num_classes, view.set_apart, generator)
        features = None if self.features is None else self.features[indices]
        return view(self.logits[indices], features, classes)


def output_statistics(outputs: Tensor) -> Tensor:
    """Scalar statistics of each output, `[B, S]`, whose means over groups a logistic regression compares.

    Matching the mean of one statistic does not match the distribution: half of the images may be low, half high. So
    the first column, the log-probability to forget, is joined by its exponential and its square, and, where there are
    more columns, by the entropy, the next two log-probabilities and the square of the larger one.

    Args:
        outputs: log-probabilities `[B, D]` as `set_apart` gives them, or losses `[B, 1]`.
    """
    own = outputs[:, 0]
    if outputs.shape[1] == 1:
        return torch.stack([own, (-own).exp(), own.square()], dim=1)
    entropy = -(outputs.exp() * outputs).sum(1)
    columns = [own, own.exp(), own.square(), outputs[:, 1], outputs[:, 1].square(), entropy]
    return torch.stack([*columns, *outputs[:, 2:3].unbind(1)], dim=1)
