"""The straight line from the original's weights to the unlearned ones: what each budget buys, by forward passes alone.

Along it forget and retain accuracy change smoothly, so that one run answers every budget.
"""

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from helper_functions.errors import UserError
from helper_functions.run_folder import ORIGINAL, RESULT, result_weights
from unlearning.choice import is_better
from unlearning.constrained.line_search import Line
from unlearning.known_weights import refuse_code, refuse_unnamed_method
from unlearning.sequence import finished

# Measured at the end of every constrained run, in shares of the line.
SHARES = (1.0, 0.25, 0.5, 0.75, 1.25)
# Measured where the dial is turned.
FINER_SHARES = (1.0, *(number / 16 for number in range(1, 21) if number != 16))
# What a row is printed for, in points.
BUDGETS = (0.25, 0.5, 1.0, 2.0)
# Names in a report, and those of the run's figures.
NAMES = {
    "forget_top1": "forget/top1", "retain_fall": "constraint/fall", "held_out_fall": "held_out/fall",
    "distance": "forget/distance", "fall_bound": "constraint/fall_bound", "held_out_bound": "held_out/fall_bound",
}  # fmt: skip
Figures = dict[str, float]
# Flags that a turned dial has of its own.
OWN = ("config_file", "log_dir", "name_prefix", "resume", "retain_budget", "dial", "retrain", "previous_run")


@dataclasses.dataclass
class DialArgs:
    """Weights for another budget."""

    dial: str | None = None
    """Run folder of a constrained run: without a gradient, take the point of the line from its original to its result
    that is best within --retain_budget. All other flags come from there."""


def line_of(asked: Any) -> dict[str, object]:
    """Flags that --dial takes over from the run whose line it is; empty without it. UserError where files are gone."""
    if asked.dial is None:
        return {}
    folder, flag = Path(asked.dial), f"--dial {asked.dial}"
    config, report = finished(folder, flag)
    refuse_code(config, asked, flag)
    refuse_unnamed_method(config.get("method"), asked.method, flag)
    if "dial" not in report:
        raise UserError(f"{flag}: that run has no line (method {config['method']}); name one of a constrained method")
    if config.get("previous_run"):
        raise UserError(f"{flag}: that run spent what others had left of a budget; run it again with another one")
    if config["weight_path"] is None and not (folder / ORIGINAL).is_file():
        raise UserError(
            f"{flag}: its {ORIGINAL} is gone, which a run removes once it has forgotten; run it again with "
            "--keep_checkpoint"
        )
    found = {name: value for name, value in config.items() if name not in OWN and value is not None}
    found |= {"weight_path": config["weight_path"] or str(folder / ORIGINAL), "splits": str(folder / "splits.npz")}
    if config["retrain"]:
        found["retrained_weight_path"] = [str(folder / "retrained.pt")]
    end_of(folder)
    return found


def end_of(folder: str | Path) -> Path:
    """The weights that a run ended with; UserError where they are gone."""
    if (path := result_weights(folder)).is_file():
        return path
    raise UserError(f"--dial {folder}: its {RESULT} is gone; put it back, or run it again")


class Dial(Line):
    """The line from the original's weights to the unlearned ones; measurements are figures."""

    def settle(self, shares: Sequence[float], tolerances: tuple[float, float]) -> float:
        """Go to the best of some shares, the first unless another is better, by the rule that chooses epochs."""
        best, found = shares[0], self.go_to(shares[0])
        for share in shares[1:]:
            if not is_better(found, other := self.go_to(share), tolerances):
                best, found = share, other
        self.go_to(best)
        return best

    def points(self) -> list[dict[str, float]]:
        """What was measured, by ascending share: one dict a point, names as in `NAMES`."""
        return [
            {"share": share, **{name: figures[key] for name, key in NAMES.items()}}
            for share, figures in sorted(self.known.items())
        ]


def bought(points: list[dict[str, float]], budget: float) -> tuple[float, float]:
    """The largest share within a budget, and forget accuracy in percent there, between measured points on a line.

    The points are those of `Dial.points`, the first of share 0. The retain fall's upper bound and the held-out fall's
    lower bound have to keep the budget, in points.
    """
    falls = [max(point["fall_bound"], point["held_out_bound"]) for point in points]
    within = next((number for number, fall in enumerate(falls) if fall > budget), len(points)) - 1
    here = points[max(within, 0)]
    if not 0 <= within < len(points) - 1:
        return here["share"], here["forget_top1"]
    part = (budget - falls[within]) / (falls[within + 1] - falls[within])
    there = points[within + 1]
    return tuple(here[name] + part * (there[name] - here[name]) for name in ("share", "forget_top1"))
