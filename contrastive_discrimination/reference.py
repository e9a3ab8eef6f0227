"""What the teacher says to images that it never saw: the reference that forget outputs are compared with."""

from typing import Literal

import torch
from torch import Tensor

from contrastive_discrimination.pairs import ClassMates, other_classes, set_apart
from helper_functions.errors import UserError
from helper_functions.metrics import class_mask

OutputName = Literal["logits", "features", "losses"]
Match = Literal["given", "none"]


class View:
    """What of a model's outputs a discriminator sees.

    `logits` are log-probabilities with what has to go set apart, `losses` the first column of them with its sign
    turned, `features` what the last linear layer sees.

    Args:
        name: one of the three.
        num_classes: K.
        forgotten: classes that are wholly forgotten, int64; they are set apart together. Empty: an image's own label.
    """

    def __init__(self, name: OutputName, num_classes: int, forgotten: Tensor) -> None:
        self.name = name
        self.num_classes = num_classes
        self.forgotten = forgotten

    @property
    def set_apart(self) -> int:
        """How many classes are set apart."""
        return max(1, len(self.forgotten))

    def to_go(self, labels: Tensor) -> Tensor:
        """The classes that have to go from images of these labels: bool `[B, K]`."""
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
    """The teacher's outputs on images that it never saw, and pairs of them.

    With `given`, an image stands beside images of its own label. With `none`, it stands beside images of any class, in
    which as many random classes are set apart as have to go, but never the image's own: that is how unlikely the wrong
    label, or the forgotten class, would be if the teacher had not learned it.

    Args:
        view: what is seen of the outputs.
        match: how images are paired.
        logits: of the teacher, `[U, K]`.
        labels: of the images, int64 `[U]`.
        features: of the teacher, `[U, F]`, for the view `features` alone.
        name: of the images, for errors.
        wanted: labels of the forget images, int64 `[P]`.

    Raises:
        UserError: fewer than two images, or with `given` fewer than two of a class of the forget set.
    """

    def __init__(
        self,
        view: View,
        match: Match,
        logits: Tensor,
        labels: Tensor,
        features: Tensor | None,
        name: str,
        wanted: Tensor,
    ) -> None:
        self.view, self.match = view, match
        self.logits, self.labels, self.features = logits, labels, features
        if match == "given":
            self.mates = ClassMates(labels, view.num_classes)
            self.mates.require(wanted, name)
        else:
            self.mates = ClassMates(torch.zeros_like(labels), 1)
            if len(labels) < 2:
                raise UserError(f"{len(labels)} {name} image to pair; hold out more images (--validation)")

    def draw(self, labels: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two different images beside each forget image of these labels, `[B]`: two index tensors, int64 `[B]`."""
        return self.mates.draw(labels if self.match == "given" else torch.zeros_like(labels), generator)

    def outputs(self, indices: Tensor, generator: torch.Generator) -> Tensor:
        """What is seen of the images with these indices, `[B, D]`."""
        labels, view = self.labels[indices], self.view
        if self.match == "given":
            classes = view.to_go(labels)
        else:
            classes = other_classes(labels, view.num_classes, view.set_apart, generator)
        features = None if self.features is None else self.features[indices]
        return view(self.logits[indices], features, classes)
