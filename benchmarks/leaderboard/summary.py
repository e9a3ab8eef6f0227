"""What the cells of the leaderboard show together: an entry for each method on each forget set, over its seeds."""

import dataclasses
import math
import statistics
from collections.abc import Iterable

from benchmarks.leaderboard.results import floor_of, floors_of, is_number, line_of, numbers, retrained_models
from evaluation.gaps import mean_figures


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

    def within(self, floor: float | None) -> bool:
        """Whether a ranked method is as close to the retrained models as these are to each other."""
        gap = self.mean("avg_gap")
        return not self.mark and None not in (gap, floor) and gap <= floor


@dataclasses.dataclass(frozen=True)
class Board:
    """One forget set: references first, then methods, ranked ones first.

    Attributes:
        floor: noise floor in points, mean over seeds; None where no seed has two retrained models.
        floors: the same for each figure, in its units.
        budgets: the retain budgets of its cells, in points.
        retrained: number of retrained models over all seeds.
    """

    forget: str
    entries: tuple[Entry, ...]
    floor: float | None
    floors: dict[str, float]
    budgets: tuple[float, ...]
    retrained: int

    @property
    def methods(self) -> list[Entry]:
        """The entries without references."""
        return [entry for entry in self.entries if entry.kind == "method"]

    @property
    def original_gap(self) -> float | None:
        """AvgGap of the original model, in points: that of a method that does nothing."""
        return next((entry.mean("avg_gap") for entry in self.entries if entry.kind == "original"), None)


@dataclasses.dataclass(frozen=True)
class Summary:
    """All forget sets in the order of the cells, and the distinct environments with the number of their cells."""

    boards: tuple[Board, ...]
    environments: tuple[tuple[dict[str, object], int], ...]
    cells: int


def summarise(rows: list[dict]) -> Summary:
    """Group cells by forget set and method; any figure may be missing."""
    boards = tuple(_board(forget, cells) for forget, cells in _grouped(rows, "forget").items())
    environments: dict[tuple, int] = {}
    for row in rows:
        key = tuple(sorted((name, str(value)) for name, value in (row.get("environment") or {}).items()))
        environments[key] = environments.get(key, 0) + 1
    return Summary(boards, tuple((dict(key), count) for key, count in environments.items() if key), len(rows))


def spread(values: Iterable[object]) -> Spread | None:
    """Mean and sample standard deviation of the finite numbers among the values; None without any."""
    found = [float(value) for value in values if is_number(value)]
    if not found:
        return None
    return Spread(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


def _board(forget: str, rows: list[dict]) -> Board:
    # All cells of a seed share its original and its retrained models.
    of_seeds = [max(cells, key=lambda row: len(retrained_models(row))) for cells in _grouped(rows, "seed").values()]
    floor = spread(map(floor_of, of_seeds))
    entries = [_entry(method, "method", cells) for method, cells in _grouped(rows, "method").items()]
    return Board(
        forget,
        (*_references(of_seeds, floor), *_ranked(entries, floor)),
        floor and floor.mean,
        {name: value.mean for name, value in _spreads(map(floors_of, of_seeds)).items()},
        tuple(dict.fromkeys(filter(is_number, ((row.get("verdict") or {}).get("retain_budget") for row in rows)))),
        sum(len(retrained_models(row)) for row in of_seeds),
    )


def _references(of_seeds: list[dict], floor: Spread | None) -> list[Entry]:
    """The original, and the mean of the retrained models with the noise floor as its AvgGap."""
    originals = [{"figures": row["original"], "retrained": row.get("retrained")}
                 for row in of_seeds if row.get("original")]  # fmt: skip
    costs = ("cost", "retrained_cost")
    retrained = [{"figures": mean_figures(models), **dict.fromkeys(costs, row.get("retrained_cost"))}
                 for row in of_seeds if (models := retrained_models(row))]  # fmt: skip
    entries = [_entry("original", "original", originals)] if originals else []
    if retrained:
        entry = _entry("retrained", "retrained", retrained)
        entries.append(dataclasses.replace(entry, values=entry.values | ({"avg_gap": floor} if floor else {})))
    return entries


def _entry(method: str, kind: str, rows: list[dict]) -> Entry:
    verdicts = [(row.get("verdict") or {}).get("feasible") for row in rows]
    lines = [{**line_of(row), "kept": None if feasible is None else float(feasible)}
             for row, feasible in zip(rows, verdicts, strict=True)]  # fmt: skip
    return Entry(method, kind, len(rows), _spreads(lines))


def _ranked(entries: list[Entry], floor: Spread | None) -> list[Entry]:
    """Methods in the order of the table, with their marks and ranks."""
    marked = [dataclasses.replace(entry, mark=_mark(entry, floor)) for entry in entries]
    order = ["", "did nothing"]

    def place(entry: Entry) -> tuple:
        gap = entry.mean("avg_gap")
        return order.index(entry.mark) if entry.mark in order else len(order), math.inf if gap is None else gap

    ranked = enumerate(sorted(marked, key=place), start=1)
    return [dataclasses.replace(entry, rank=None if entry.mark else rank) for rank, entry in ranked]


def _mark(entry: Entry, floor: Spread | None) -> str:
    kept, moved = entry.values.get("kept"), entry.mean("moved")
    if kept is None:
        return "not judged"
    if kept.mean < 1 or kept.n < entry.seeds:
        return "over budget"
    # No further from the original than two retrained models are from each other.
    return "did nothing" if floor and moved is not None and moved <= floor.mean else ""


def _spreads(lines: Iterable[dict]) -> dict[str, Spread]:
    lines = [numbers(line) for line in lines]
    names = dict.fromkeys(name for line in lines for name in line)
    return {name: spread(line.get(name) for line in lines) for name in names}


def _grouped(rows: list[dict], name: str) -> dict:
    """Rows by the value of a field, in the order in which values first occur."""
    groups: dict = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups
