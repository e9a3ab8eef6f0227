"""Pairs of outputs: of one image, of different images, of images of one class; and log-probabilities to compare."""

import math

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from helper_functions.errors import UserError

Pairs = tuple[Tensor, Tensor]
"""First and second outputs of pairs of one kind, both `[B, D]`."""


def derangement(count: int, generator: torch.Generator) -> Tensor:
    """A random permutation without fixed points, int64 `[count]`, one cycle; `count` is at least two."""
    order = torch.randperm(count, generator=generator, device=generator.device)
    return torch.empty_like(order).scatter_(0, order, order.roll(1))


def shuffled(student: Tensor, teacher: Tensor, generator: torch.Generator) -> Pairs:
    """*Different*: the student's output on an image and the teacher's on another one, `[B, D]` each."""
    return student, teacher[derangement(len(teacher), generator)]


class ClassMates:
    """Draws reference images of wanted classes, all on one device.

    Args:
        labels: of the reference images, int64 `[U]`.
        num_classes: K.
        weights: of the images, `[U]`, in proportion to which they are drawn within a class; uniformly without them.
    """

    def __init__(self, labels: Tensor, num_classes: int, weights: Tensor | None = None) -> None:
        self.order = labels.argsort(stable=True)
        self.counts = torch.bincount(labels, minlength=num_classes)
        self.starts = self.counts.cumsum(0) - self.counts
        # A row a class: logarithms of its images' weights, then of nothing.
        self.log_weights = None
        if weights is not None:
            # Images without a weight are drawn where their class has no others.
            logs = weights.clamp(min=torch.finfo(weights.dtype).tiny).log()[self.order]
            self.log_weights = pad_sequence(
                logs.split(self.counts.tolist()), batch_first=True, padding_value=-math.inf
            )

    def require(self, wanted: Tensor, name: str) -> None:
        """Check that each class of `wanted`, int64 `[P]`, has two of the images called `name`, which pairs need.

        Raises:
            UserError: naming the first class that lacks them.
        """
        short = torch.nonzero((torch.bincount(wanted, minlength=len(self.counts)) > 0) & (self.counts < 2)).flatten()
        if len(short):
            number, count = int(short[0]), int(self.counts[short[0]])
            raise UserError(
                f"--match given: class {number} of the forget set has {count} {name} images, and pairs need two of it; "
                "hold out more images (--validation), or pair by --match none"
            )

    def draw(self, wanted: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Two different reference images of each wanted class: two index tensors into the labels, int64 `[B]` each."""
        counts, starts = self.counts[wanted], self.starts[wanted]
        if self.log_weights is not None:
            # The two largest of log-weights plus Gumbel noise are draws without replacement (Kool et al. 2019).
            rows = self.log_weights[wanted]
            noise = torch.empty_like(rows).exponential_(generator=generator).log()
            return tuple(self.order[starts + place] for place in (rows - noise).topk(2).indices.unbind(1))
        uniform = torch.rand(2, len(wanted), generator=generator, device=wanted.device)
        first = (uniform[0] * counts).long()
        # Anywhere but there: a shift by 1 to count − 1 places, modulo the class.
        second = (first + 1 + (uniform[1] * (counts - 1)).long()) % counts
        return self.order[starts + first], self.order[starts + second]


def other_classes(labels: Tensor, num_classes: int, count: int, generator: torch.Generator) -> Tensor:
    """`count` random classes for each label, none of them the label itself: bool `[B, K]`."""
    keys = torch.rand(len(labels), num_classes, generator=generator, device=labels.device)
    keys.scatter_(1, labels[:, None], 2.0)
    chosen = keys.topk(count, largest=False).indices
    return torch.zeros_like(keys, dtype=torch.bool).scatter_(1, chosen, True)


def set_apart(logits: Tensor, classes: Tensor, lowest: float | None = None) -> Tensor:
    """Log-probabilities that know which classes are meant but not which they are.

    The first column is the log-probability of the classes that are set apart, taken together; the others follow from
    the likeliest to the least likely. So images of all classes can be compared with one another.

    Args:
        logits: `[B, K]`.
        classes: bool `[B, K]`, at least one and not all of each row.
        lowest: what is less likely counts as this likely, so that nothing is pushed or pulled beyond; −2 log K, the
            square of a uniform guess, by default.

    Returns:
        `[B, K]`; `lowest` fills the columns that classes taken together leave empty.
    """
    lowest = -2 * math.log(logits.shape[1]) if lowest is None else lowest
    log_probabilities = logits.log_softmax(1)
    apart = log_probabilities.masked_fill(~classes, -math.inf).logsumexp(1, keepdim=True)
    rest = log_probabilities.masked_fill(classes, -math.inf).sort(1, descending=True).values
    return torch.cat([apart, rest[:, :-1]], dim=1).clamp(min=lowest)
