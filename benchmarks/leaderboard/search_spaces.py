"""What is tuned of each row of the leaderboard, from the methods' own search spaces, in Optuna's terms."""

import dataclasses

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from unlearning.arguments import MethodArgs
from unlearning.methods import METHODS, defaults_of
from unlearning.methods.method import RETAIN_EPOCHS, Log, Search, Span


@dataclasses.dataclass(frozen=True)
class Space:
    """Flags of a row that are fixed, and those that are searched, by name."""

    fixed: dict[str, object]
    searched: Search

    def distributions(self, most_retain_epochs: int) -> dict[str, BaseDistribution]:
        """Optuna's distributions, with at most so many passes over the retain set."""
        found = {name: _distribution(values) for name, values in self.searched.items()}
        if self.searched.get("num_epochs") is RETAIN_EPOCHS:
            low, high = (min(bound, most_retain_epochs) for bound in RETAIN_EPOCHS)
            found["num_epochs"] = IntDistribution(low, high)
        return found


def _distribution(values: Span | tuple[object, ...]) -> BaseDistribution:
    if not isinstance(values, Span):
        return CategoricalDistribution(values)
    whole = isinstance(values.low, int) and isinstance(values.high, int)
    return IntDistribution(*values) if whole else FloatDistribution(*values, log=isinstance(values, Log))


# A discriminator's own criterion ends at an AUC of 0.55; the epoch nearest to unseen images often comes later.
SPACES: dict[str, Space] = {
    name: Space({"method": name} | ({"stop_criterion": "none"} if method.discriminates else {}), method.search)
    for name, method in METHODS.items()
    if method.search
}
SPACES["scrub_r"] = Space({"method": "scrub", "rewind": True}, METHODS["scrub"].search)


def start(space: Space, distributions: dict[str, BaseDistribution]) -> dict[str, object]:
    """The method's own defaults, moved into the bounds where they lie outside: the first trial of every search."""
    fields = {field.name: field.default for field in dataclasses.fields(MethodArgs)}
    own = {**fields, **defaults_of(space.fixed["method"])}
    return {name: _nearest(own[name], distribution) for name, distribution in distributions.items()}


def _nearest(value: object, distribution: BaseDistribution) -> object:
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        return value if value in choices else min(choices, key=lambda choice: abs(choice - value))
    return min(max(value, distribution.low), distribution.high)


def rounded(values: dict[str, object], distributions: dict[str, BaseDistribution]) -> dict[str, object]:
    """Drawn real values to two digits, so that a file can hold them as they were tried."""
    drawn = {name for name, distribution in distributions.items() if isinstance(distribution, FloatDistribution)}
    return {name: float(f"{value:.2g}") if name in drawn else value for name, value in values.items()}
