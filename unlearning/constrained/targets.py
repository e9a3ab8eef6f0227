"""Where the forget data should end: bounded objectives that stop pushing an image once it is there.

Each target gives a differentiable objective on a batch, which is 0 where every image has reached it, and judges the
whole forget set by how far it still is.
"""

import functools
import math
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from helper_functions.errors import UserError
from helper_functions.metrics import class_mask

# Nats. Losses in float32 come in steps of about 6e-8: down to here log-odds are exact to a hundredth.
LOWEST_LOSS = 1e-5
LOWEST_ODDS = math.log(math.expm1(LOWEST_LOSS))
# Pairs of samples that the distance by chance is the mean of.
CHANCE_DRAWS = 32
# Labels that each unseen image is looked at with, where a wrong label is to be as likely as others.
OTHER_LABELS = 4


def weighted_quantiles(values: Tensor, weights: Tensor, levels: Tensor) -> Tensor:
    """Quantiles of a weighted sample: the smallest value whose cumulative weight reaches the level.

    Args:
        values: `[N]`.
        weights: `[N]`, non-negative, of any positive sum.
        levels: `[Q]` in (0, 1).

    Returns:
        `[Q]`, on the device of `values`.
    """
    order = values.argsort()
    cumulative = weights[order].cumsum(0)
    places = torch.searchsorted(cumulative / cumulative[-1], levels.to(values.device))
    return values[order][places.clamp(max=len(values) - 1)]


def log_probability_of_others(logits: Tensor, classes: Tensor) -> Tensor:
    """log(1 − P(classes)) for each row, computed without cancellation.

    Args:
        logits: `[B, K]`.
        classes: bool `[B, K]`, what is not counted; at least one class of each row is left.

    Returns:
        `[B]`.
    """
    return logits.masked_fill(classes, -math.inf).logsumexp(1) - logits.logsumexp(1)


def log_odds(losses: Tensor) -> Tensor:
    """Log-odds against a label, log((1 − p) / p), of losses −log p; of those below `LOWEST_LOSS`, that one's."""
    losses = losses.clamp(min=LOWEST_LOSS)
    # log(e^L - 1), without overflow.
    return losses + torch.log(-torch.expm1(-losses))


class Target:
    """What all targets can do; a target that neither moves nor learns has no more than an objective and a distance.

    `name` decides the verdict's rule; `floor` is the objective's value where everything is forgotten. Distances that
    differ by less than the `tolerance` are equal where epochs are compared.
    """

    name: str
    floor = 0.0
    tolerance = 0.02

    @property
    def tolerances(self) -> tuple[float, float]:
        """Of `forget/distance`, and of `forget/own_distance`, which is the same unless a discriminator decides."""
        return self.tolerance, self.tolerance

    def refresh(self, unseen_losses: Tensor, forget_losses: Tensor | None = None) -> None:
        """Take the losses of all unseen images, `[U]`, and of all forget images, `[P]`, under the current weights."""

    def refresh_beside(self, measure: Callable[[Callable[[Tensor, Tensor], Tensor]], Tensor]) -> None:
        """Measure unseen images as forget images pass: `measure(see)` joins what `see(logits, labels)` gives."""

    def objective(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The objective and the share of images that have reached the target, both 0-d.

        Args:
            logits: `[B, K]`, float32.
            labels: given labels, `[B]`.
        """
        raise NotImplementedError

    def commit(self) -> dict[str, Tensor]:
        """Learn from the batch, once after each step; figures to log, 0-d, the same names each time."""
        return {}

    def distance(self, logits: Tensor, labels: Tensor, reference_losses: Tensor, reference_weights: Tensor) -> float:
        """How far the whole forget set still is, from its logits `[P, K]` and labels, and the losses of a reference."""
        raise NotImplementedError

    def examine(self, model: nn.Module, logits: Tensor, labels: Tensor) -> dict[str, float]:
        """Figures of an epoch beyond those of every method, from the forget set's logits `[P, K]` and labels."""
        return {}

    def attach(self, model: nn.Module) -> None:
        """Hook into the model that the next batches pass through, until `detach`."""

    def detach(self) -> None:
        """Remove the hooks."""

    def state_dict(self) -> dict:
        """What a resumed run needs."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""


class ZeroTarget(Target):
    """The forgotten classes together have (nearly) no probability, as a retrained model never names them.

    Args:
        classes: int64, the classes that are wholly forgotten; empty means each image's own label alone.
        bound: the probability that is as good as none.
    """

    name = "zero"
    # A half of what the verdict lets pass: images of a class that is still named are no noise.
    tolerance = 0.005

    def __init__(self, classes: Tensor, bound: float = 0.01) -> None:
        self.classes = classes
        self.bound = bound

    def _forgotten(self, logits: Tensor, labels: Tensor) -> Tensor:
        own = class_mask(labels, logits.shape[1])
        if len(self.classes):
            own[:, self.classes.to(labels.device)] = True
        return own

    def objective(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """The objective −log(1 − P(forgotten)) and the share of images that have reached the target, both 0-d."""
        left = log_probability_of_others(logits, self._forgotten(logits, labels))
        pending = left.detach() < math.log1p(-self.bound)
        return (-left * pending).mean(), 1 - pending.float().mean()

    def distance(self, logits: Tensor, labels: Tensor, reference_losses: Tensor, reference_weights: Tensor) -> float:
        """Share of forget images that are still named as a forgotten class, in [0, 1]."""
        forgotten = self._forgotten(logits, labels)
        return forgotten.gather(1, logits.argmax(1, keepdim=True)).float().mean().item()


class UnseenTarget(Target):
    """Forget losses distributed as the losses of matched unseen images.

    An image's goal is the unseen images' quantile at the rank that it has in the whole forget set (the coupling of two
    samples on a line that is optimal for every convex cost), and it is pulled there from either side. Ranks within a
    batch would be noise, and noise that pushes in one direction alone never comes to rest.

    Compared are the log-odds against the label, log((1 - p) / p), in which losses of classifiers are close to normal
    (Carlini et al. 2022, section IV) and which order images as losses do. Losses themselves would pull an image in
    proportion to 1 - p, so that those that are known best, which attacks find first, would stay.

    Two samples of one distribution differ by chance. What samples of these sizes differ by on average is the floor of
    the objective, below which nothing is pulled any more, and the tolerance of the distance.

    Args:
        unseen_weights: `[U]`, weights of the unseen images that match their classes, and how hard they are, to the
            forget set's.
        floor: the objective that chance explains.
        tolerance: the distance that chance explains.
    """

    name = "unseen"

    def __init__(self, unseen_weights: Tensor, floor: float = 0.0, tolerance: float = Target.tolerance) -> None:
        self.weights, self.floor, self.tolerance = unseen_weights, floor, tolerance
        self.latest: Tensor | None = None

    def refresh(self, unseen_losses: Tensor, forget_losses: Tensor | None = None) -> None:
        """Take the losses of all unseen images, `[U]`, and of all forget images, `[P]`, under the current weights.

        Without the latter, the log-odds that batches gave stay.
        """
        self.weights, self.reference = self.weights.to(unseen_losses.device), log_odds(unseen_losses)
        if forget_losses is not None:
            self.window, self.place = log_odds(forget_losses), 0
        self.pending = bool(F.huber_loss(self.window, self.goals(self.window)) > self.floor)

    def refresh_beside(self, measure: Callable[[Callable[[Tensor, Tensor], Tensor]], Tensor]) -> None:
        self.refresh(measure(functools.partial(F.cross_entropy, reduction="none")))

    def goals(self, odds: Tensor) -> Tensor:
        """Where images of these log-odds, `[B]`, belong, by their ranks among the latest ones of all forget images."""
        ordered = self.window.sort().values
        below, up_to = (torch.searchsorted(ordered, odds, right=right) for right in (False, True))
        count = len(ordered)
        levels = ((below + up_to) / (2 * count)).clamp(0.5 / count, 1 - 0.5 / count)
        return weighted_quantiles(self.reference, self.weights, levels)

    def objective(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Mean Huber loss of the distances of the log-odds from their goals, and the share not short of them, both 0-d.

        Squared up to one unit, linear beyond: the few images whose goal is far away would else rule the gradient.
        """
        own = class_mask(labels, logits.shape[1])
        odds = log_probability_of_others(logits, own) + F.cross_entropy(logits, labels, reduction="none")
        now = odds.detach()
        if self.latest is None:  # of SAM's two passes the first
            self.latest = now.clamp(min=LOWEST_ODDS)
        goals = self.goals(now)
        # Down there, images are not told apart.
        goals = torch.where(goals <= LOWEST_ODDS, torch.minimum(goals, now), goals)
        return F.huber_loss(odds, goals) * self.pending, (odds >= goals).float().mean()

    def commit(self) -> dict[str, Tensor]:
        """The batch's log-odds take the place of the oldest ones."""
        latest = self.latest[-len(self.window) :].to(self.window.dtype)
        places = (self.place + torch.arange(len(latest), device=self.window.device)) % len(self.window)
        self.window = self.window.index_copy(0, places, latest)
        self.place, self.latest = (self.place + len(places)) % len(self.window), None
        return {}

    def distance(self, logits: Tensor, labels: Tensor, reference_losses: Tensor, reference_weights: Tensor) -> float:
        """Wasserstein-1 distance of the log-odds from those of a reference sample; too high counts like too low.

        Of losses, the few largest would decide.
        """
        odds = log_odds(F.cross_entropy(logits, labels, reduction="none"))
        return _displacements(odds, log_odds(reference_losses), reference_weights.to(odds.device)).abs().mean().item()

    def state_dict(self) -> dict:
        return {name: getattr(self, name) for name in ("reference", "window", "place", "pending")}

    def load_state_dict(self, state: dict) -> None:
        device = self.weights.device
        moved = {name: value.to(device) if isinstance(value, Tensor) else value for name, value in state.items()}
        vars(self).update(moved)


class ChanceTarget(UnseenTarget):
    """Given labels as likely as other labels are to the original on unseen images.

    A model without the wrong labels finds them as likely as any others. What the model itself, as it changes, gives to
    other labels is no goal: its logits and this goal would raise each other, and retain accuracy pays for it.

    Args:
        others: of the unseen and of the validation images, by name, what `other_labels` gives.
        floor, tolerance: as of `UnseenTarget`.
    """

    name = "chance"

    def __init__(
        self, others: dict[str, tuple[Tensor, Tensor]], floor: float = 0.0, tolerance: float = Target.tolerance
    ) -> None:
        (self.losses, weights), self.held_out = others["unseen"], others["validation"]
        super().__init__(weights, floor, tolerance)

    def refresh(self, unseen_losses: Tensor, forget_losses: Tensor | None = None) -> None:
        """Take the losses of all forget images, `[P]`, under the current weights; those of unseen images play no part.
        """
        super().refresh(self.losses, forget_losses)

    def refresh_beside(self, measure: Callable[[Callable[[Tensor, Tensor], Tensor]], Tensor]) -> None:
        self.refresh(self.losses)

    def distance(self, logits: Tensor, labels: Tensor, reference_losses: Tensor, reference_weights: Tensor) -> float:
        """Wasserstein-1 distance of the log-odds from those of validation images on other labels."""
        return super().distance(logits, labels, *self.held_out)


def _displacements(odds: Tensor, reference: Tensor, weights: Tensor) -> Tensor:
    """How far each of a sample, in ascending order, is below the quantile of its rank in a weighted sample, `[P]`."""
    levels = (torch.arange(len(odds), device=odds.device) + 0.5) / len(odds)
    return weighted_quantiles(reference, weights, levels) - odds.sort().values


def chance_displacements(count: int, reference_losses: Tensor, weights: Tensor, seed: int, looks: int = 1) -> Tensor:
    """Displacements of `count` images from a reference sample where both are drawn from the latter, `[draws, count]`.

    Args:
        count: size of the sample.
        reference_losses: `[R]`.
        weights: of the reference images, `[R]`.
        seed: of the draws.
        looks: losses of each reference image, which tell as much as one of so many images at least.
    """
    odds, weights = log_odds(reference_losses).cpu(), weights.cpu().double()
    generator = torch.Generator().manual_seed(seed)

    def drawn(size: int) -> Tensor:
        return odds[torch.multinomial(weights, size, replacement=True, generator=generator)]

    even = torch.ones(len(odds) // looks)
    return torch.stack([_displacements(drawn(count), drawn(len(even)), even) for _ in range(CHANCE_DRAWS)])


def require_other_labels(labels: Tensor, given: Tensor) -> None:
    """UserError where held-out images, labels `[N]`, have no label but the only one of the forget set, `[P]`."""
    if len(torch.cat([labels, given]).unique()) == 1:
        raise UserError("--forget_target chance: held-out images have the forget set's only label; name another target")


def other_labels(logits: Tensor, labels: Tensor, given: Tensor, seed: int) -> tuple[Tensor, Tensor]:
    """Losses of images on labels drawn from those of the forget set that are not their own, and weights.

    Args:
        logits: `[N, K]`.
        labels: `[N]`.
        given: labels of the forget set, `[P]`.
        seed: of the draws.

    Returns:
        Both `[OTHER_LABELS * N]`; the weight is 0 where there is no other label. UserError where there is none at all.
    """
    require_other_labels(labels, given)
    ordered = given.sort().values
    first, after = (torch.searchsorted(ordered, labels, right=right) for right in (False, True))
    others = len(given) - (after - first)
    draws = torch.rand((OTHER_LABELS, len(labels)), generator=torch.Generator().manual_seed(seed))
    places = (draws.to(given.device) * others).long()
    # An image's own label is a block of the ordered ones, which is skipped.
    places = torch.where(places < first, places, places + after - first).clamp(max=len(given) - 1)
    losses = -logits.log_softmax(1).gather(1, ordered[places].T).T.flatten()
    return losses, (others > 0).float().repeat(OTHER_LABELS)


def _explained_by_chance(
    evaluator, samples: dict[str, tuple[Tensor, Tensor]], seed: int, looks: int = 1
) -> tuple[float, float]:
    """Floor and tolerance, from losses and weights of the unseen and of the validation images, by name."""
    count = evaluator.forget_images
    chance = {name: chance_displacements(count, *sample, seed, looks) for name, sample in samples.items()}
    floor = F.huber_loss(chance["unseen"], torch.zeros_like(chance["unseen"])).item()
    return floor, max(Target.tolerance, chance["validation"].abs().mean().item())


def own_target(context) -> Target:
    """min F(θ) subject to the retain budget, then the retain loss subject to F staying where everything is forgotten.

    The distance, and the verdict, of every method is measured by this target as well.
    """
    evaluator, seed = context.evaluator, context.seed
    if context.target == "zero":
        return ZeroTarget(evaluator.forgotten_classes())
    names = ("unseen", "validation")
    if context.target == "unseen":
        samples = {name: (evaluator.original_losses[name], evaluator.difficulty_weights[name]) for name in names}
        return UnseenTarget(samples["unseen"][1], *_explained_by_chance(evaluator, samples, seed))
    samples = {
        name: other_labels(*evaluator.original_outputs[name], evaluator.forget_labels, seed + number)
        for number, name in enumerate(names)
    }
    return ChanceTarget(samples, *_explained_by_chance(evaluator, samples, seed, OTHER_LABELS))
