"""What the cells of the leaderboard show together: an entry for each method on each forget set, over its seeds."""

import dataclasses
import math
import statistics
from collections.abc import Iterable

from benchmarks.leaderboard.results import floor_of, line_of, numbers, retrained_models
from evaluation.gaps import mean_figures

# A method that moves the forget set's loss by a smaller part of the way to the retrained models did nothing.
LEAST_PROGRESS = 0.05


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean over seeds, sample standard deviation (None for one seed) and number of seeds."""

    mean: float
    sd: float | None
    n: int


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the table: a method, or a reference, on one forget set.

    Attributes:
        kind: `original`, `retrained` or `method`.
        seeds: number of seeds.
        values: numeric columns of `results.line_of` over the seeds, and `kept`: 1 where the budget was kept, else 0.
        mark: why a method has no rank: `did nothing`, `over budget`, `not judged`; empty for the ranked ones.
        rank: place by AvgGap among the ranked methods, from 1.
    """

    method: str
    kind: str
    seeds: int
    values: dict[str, Spread]
    mark: str = ""
    rank: int | None = None

    def mean(self, name: str) -> float | None:
        """The mean of a value; None where it is missing."""
        return self.values[name].mean if name in self.values else None


@dataclasses.dataclass(frozen=True)
class Board:
    """One forget set.

    Attributes:
        references: the original and the retrained models, the AvgGap of the latter being the noise floor.
        methods: ranked ones by AvgGap, then those that did nothing, then the others.
        floor: noise floor in points, mean over seeds; None where no seed has two retrained models.
        budgets: the retain budgets of its cells, in points.
        retrained: number of retrained models over all seeds.
    """

    forget: str
    references: list[Entry]
    methods: list[Entry]
    floor: float | None
    budgets: list[float]
    retrained: int

    @property
    def original_gap(self) -> float | None:
        """AvgGap of the original, in points: that of a method that does nothing."""
        return next((entry.mean("avg_gap") for entry in self.references if entry.kind == "original"), None)

    def level(self, entry: Entry) -> bool:
        """Whether a ranked method is as close to the retrained models as these are to each other."""
        gap = entry.mean("avg_gap")
        return entry.rank is not None and None not in (gap, self.floor) and gap <= self.floor


def summarise(rows: list[dict]) -> list[Board]:
    """Group cells by forget set and method; any figure may be missing."""
    return [_board(forget, cells) for forget, cells in grouped(rows, "forget").items()]


def spread(values: Iterable[object]) -> Spread | None:
    """Mean and sample standard deviation of the finite numbers among the values; None without any."""
    found = list(numbers(dict(enumerate(values))).values())
    if not found:
        return None
    return Spread(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


def grouped(rows: list[dict], name: str) -> dict:
    """Rows by the value of a field, in the order in which values first occur."""
    groups: dict = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups


def _board(forget: str, rows: list[dict]) -> Board:
    # All cells of a seed share its original and its retrained models.
    of_seeds = [max(cells, key=lambda row: len(retrained_models(row))) for cells in grouped(rows, "seed").values()]
    floor = spread(map(floor_of, of_seeds))
    cells = {
        "original": [{**row, "figures": row["original"], "original": None, "cost": None, "verdict": None}
                     for row in of_seeds if row.get("original")],
        "retrained": [{"figures": mean_figures(models), "cost": row.get("retrained_cost"),
                       "retrained_cost": row.get("retrained_cost")}
                      for row in of_seeds if (models := retrained_models(row))],
    }  # fmt: skip
    references = [_entry(kind, kind, found) for kind, found in cells.items() if found]
    if floor:
        references[-1].values["avg_gap"] = floor
    methods = sorted((_entry(method, "method", cells) for method, cells in grouped(rows, "method").items()), key=_place)
    ranked = [dataclasses.replace(entry, rank=None if entry.mark else rank) for rank, entry in enumerate(methods, 1)]
    budgets = numbers({row["key"]: (row.get("verdict") or {}).get("retain_budget") for row in rows}).values()
    return Board(forget, references, ranked, floor and floor.mean, list(dict.fromkeys(budgets)),
                 sum(len(retrained_models(row)) for row in of_seeds))  # fmt: skip


def _entry(method: str, kind: str, rows: list[dict]) -> Entry:
    verdicts = [(row.get("verdict") or {}).get("feasible") for row in rows]
    lines = [numbers({**line_of(row), "kept": None if feasible is None else int(feasible)})
             for row, feasible in zip(rows, verdicts, strict=True)]  # fmt: skip
    names = dict.fromkeys(name for line in lines for name in line)
    values = {name: spread(line.get(name) for line in lines) for name in names}
    return Entry(method, kind, len(rows), values, _mark(values, len(rows)) if kind == "method" else "")


def _mark(values: dict[str, Spread], seeds: int) -> str:
    if "kept" not in values:
        return "not judged"
    if values["kept"].mean * values["kept"].n < seeds:
        return "over budget"
    return "did nothing" if "progress" in values and values["progress"].mean < LEAST_PROGRESS else ""


def _place(entry: Entry) -> tuple:
    gap = entry.mean("avg_gap")
    return {"": 0, "did nothing": 1}.get(entry.mark, 2), math.inf if gap is None else gap
