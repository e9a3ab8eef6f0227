"""Which epoch's weights a run ends with: the nearest to the target within the budget, the last, or SCRUB+R's."""

import math
from pathlib import Path

from torch import nn

from helper_functions.files import load_tensors, save_tensors
from helper_functions.record import RunRecord
from helper_functions.run_folder import REWOUND
from helper_functions.training.distribution import from_main, on_main
from unlearning.constrained.line_search import Weights, snapshot

Epochs = list[dict[str, float]]


def is_better(candidate: dict[str, float], incumbent: dict[str, float], tolerances: tuple[float, float]) -> bool:
    """Whether an epoch is the better one to end with.

    Feasible beats infeasible; of two infeasible ones the smaller fall wins; of two feasible ones the nearer to the
    target (a discriminator's first, then the forget set's own); within the targets' tolerances (of the run's own and of
    the forget set's) the one with the higher validation accuracy.
    """
    return _rank(candidate, tolerances) <= _rank(incumbent, tolerances)


def _rank(epoch: dict[str, float], tolerances: tuple[float, float]) -> tuple[float, ...]:
    """The lower, the better; distances in steps of the tolerance, so that many small differences cannot add up."""
    if not epoch["constraint/feasible"]:
        return (1, max(epoch["constraint/fall_bound"], epoch["held_out/fall_bound"]))
    distances = zip((epoch["forget/distance"], epoch["forget/own_distance"]), tolerances, strict=True)
    steps = [value // tolerance if math.isfinite(value) else math.inf for value, tolerance in distances]
    return (0, *steps, -epoch["validation/top1"])


class LastEpoch:
    """As published: the last epoch, whatever it cost."""

    def __init__(self) -> None:
        self.chosen, self.weights = 0, {}

    def consider(self, epochs: Epochs, model: nn.Module) -> None:
        """Take the last of the epochs, whose weights the model has."""
        self.chosen = len(epochs) - 1
        self.weights = snapshot(model)

    def settle(self, epochs: Epochs) -> tuple[int, Weights]:
        """The chosen epoch, from 0, and its weights."""
        return self.chosen, self.weights

    def state_dict(self) -> dict:
        """What a resumed run needs."""
        return {"chosen": self.chosen, "weights": self.weights}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
        self.chosen, self.weights = state["chosen"], state["weights"]


class BestFeasible(LastEpoch):
    """Ours: of the epochs that kept the budget, the nearest to its target, by `tolerances` as of `is_better`."""

    def __init__(self, tolerances: tuple[float, float]) -> None:
        super().__init__()
        self.tolerances = tolerances

    def consider(self, epochs: Epochs, model: nn.Module) -> None:
        """Take the last of the epochs, if it is the better one."""
        if not self.weights or is_better(epochs[-1], epochs[self.chosen], self.tolerances):
            super().consider(epochs, model)


class ScrubRewind:
    """SCRUB+R: the epoch whose forget error is nearest to the last one's on held-out images of the same classes.

    The last epoch's forget error is the highest, and images that were never seen show how high it should be. Source:
    Kurmanji et al. 2023, section 3.3. The run folder keeps every epoch's weights until the choice is made, then the
    chosen ones alone, as `rewound.pt`: a run that is killed while it is judged can still go on.
    """

    def __init__(self, record: RunRecord) -> None:
        self.record = record

    @property
    def chosen(self) -> Path:
        """File of the chosen weights."""
        return self.record.path(REWOUND)

    @on_main
    def consider(self, epochs: Epochs, model: nn.Module) -> None:
        """Keep the weights of the last of the epochs."""
        self.chosen.unlink(missing_ok=True)
        save_tensors(model.state_dict(), self._path(len(epochs) - 1))

    def settle(self, epochs: Epochs) -> tuple[int, Weights]:
        """The chosen epoch, from 0, and its weights; of two equally near ones, the later."""
        return from_main(lambda: self._settle(epochs))

    def _settle(self, epochs: Epochs) -> tuple[int, Weights]:
        wanted = epochs[-1]["validation/matched_top1"]
        chosen = min(range(len(epochs)), key=lambda place: (abs(epochs[place]["forget/top1"] - wanted), -place))
        if not self.chosen.exists():
            self._path(chosen).rename(self.chosen)
        for place in range(len(epochs)):
            self._path(place).unlink(missing_ok=True)
        return chosen, load_tensors(self.chosen, "start a new run")

    def _path(self, place: int):
        return self.record.path(f"epoch-{place + 1}.pt")

    def state_dict(self) -> dict:
        """Nothing: the weights are in the run folder."""
        return {}

    def load_state_dict(self, state: dict) -> None:
        """Inverse of `state_dict`."""
