"""What the cells of the leaderboard show: a line of figures each, and an entry for each method on each forget set."""

import dataclasses
import math
import statistics
from collections.abc import Iterable

from benchmarks.leaderboard.cells import flags_of
from evaluation import gaps

# A method that moves the forget set's loss by a smaller part of the way to the retrained models did nothing.
LEAST_PROGRESS = 0.05
GROUPS = ("gap", "verdict", "cost", "share", "original", "retrained", "retrained_cost", "config", "environment")


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean over seeds, sample standard deviation (None for one seed) and number of seeds."""

    mean: float
    sd: float | None
    n: int


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the table: a method, or a reference, on one forget set.

    Its values are the numeric columns of `line_of` over the seeds, and `kept`: 1 where the budget was kept.
    """

    method: str
    kind: str  # original, retrained or method
    seeds: int
    values: dict[str, Spread]
    mark: str = ""  # why a method has no rank: did nothing, over budget, not judged
    rank: int | None = None  # by AvgGap among the methods without a mark, from 1
    tuned: bool = True  # False for a method of the user's own with other flags than a search has found

    def mean(self, name: str) -> float | None:
        """The mean of a value; None where it is missing."""
        return self.values[name].mean if name in self.values else None


@dataclasses.dataclass(frozen=True)
class Board:
    """One forget set; gaps and budgets are in points."""

    forget: str
    references: list[Entry]  # the original and the retrained models; the AvgGap of the latter is the noise floor
    methods: list[Entry]  # ranked ones by AvgGap, then those that did nothing, then the others
    floor: float | None  # noise floor, mean over seeds; None where no seed has two retrained models
    budgets: list[float]
    retrained: int  # models over all seeds

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
    floor = spread(_if_whole(gaps.noise_floor(each), *each) for each in map(retrained_models, of_seeds))
    cells = {
        "original": [{**row, "figures": row["original"], "original": None, "cost": None, "verdict": None}
                     for row in of_seeds if row.get("original")],
        "retrained": [{"figures": gaps.mean_figures(models), "cost": row.get("retrained_cost"),
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
    return Entry(method, kind, len(rows), values, _mark(values, len(rows)) if kind == "method" else "",
                 tuned=all(row.get("tuned", True) for row in rows))  # fmt: skip


def _mark(values: dict[str, Spread], seeds: int) -> str:
    if "kept" not in values:
        return "not judged"
    if values["kept"].mean * values["kept"].n < seeds:
        return "over budget"
    return "did nothing" if "progress" in values and values["progress"].mean < LEAST_PROGRESS else ""


def _place(entry: Entry) -> tuple:
    gap = entry.mean("avg_gap")
    return {"": 0, "did nothing": 1}.get(entry.mark, 2), math.inf if gap is None else gap


def line_of(row: dict) -> dict[str, object]:
    """A cell as one flat line: its figures by name, averages over them, all else with the prefix of its group.

    `progress` is the way of the forget set's mean loss from the original (0) to the retrained models (1); `inside_band`
    counts the four figures of AvgGap that lie within the retrained models' range; `retrained.` figures are means over
    the cell's retrained models, `gap.` figures the signed distance to these; `share.` is a cost over retraining's.
    """
    figures, original, models = numbers(row.get("figures")), numbers(row.get("original")), retrained_models(row)
    retrained, band = gaps.mean_figures(models), gaps.bands(models)
    inside = [band[name].holds(figures[name]) for name in gaps.GAP_FIGURES if name in band and name in figures]
    start, at, end = (model.get("forget_loss") for model in (original, figures, retrained))
    line = {name: row.get(name) for name in ("forget", "method", "seed", "key")} | dict(row.get("figures") or {})
    line |= {
        "avg_gap": _if_whole(gaps.avg_gap(figures, retrained), figures, retrained),
        "avg_gap_salun": gaps.avg_gap_salun(figures, retrained),
        "tug_of_war": gaps.tug_of_war(figures, retrained),
        "progress": None if None in (start, at, end) or end <= start else (at - start) / (end - start),
        "inside_band": sum(inside) if inside else None,
    }
    costs, whole = numbers(row.get("cost")), numbers(row.get("retrained_cost"))
    groups = {
        **row,
        "gap": gaps.signed_gaps(figures, retrained),
        "config": flags_of(row.get("config")),
        "retrained": {**retrained, "n": len(models)},
        "share": {name: cost / whole[name] for name, cost in costs.items() if whole.get(name, 0) > 0},
    }
    return line | {f"{group}.{name}": value for group in GROUPS for name, value in (groups.get(group) or {}).items()}


def retrained_models(row: dict) -> list[dict[str, float]]:
    """The finite figures of each retrained model of a cell."""
    return [numbers(model) for model in row.get("retrained") or []]


def numbers(figures: dict | None) -> dict[str, float]:
    """The values that are finite numbers; truth values are not."""
    return {name: value for name, value in (figures or {}).items()
            if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)}  # fmt: skip


def _if_whole(gap: float | None, *models: gaps.Figures) -> float | None:
    """An average gap where every model has all four of its figures, else None: averages over fewer do not compare."""
    return gap if all(name in model for model in models for name in gaps.GAP_FIGURES) else None
