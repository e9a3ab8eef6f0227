"""What the cells of the leaderboard say together: figures by forget set and method, each beside the retrained model."""

import dataclasses
import math
import statistics
from collections.abc import Iterable

from benchmarks.leaderboard.rows import (
    cell_gaps,
    columns_of,
    flags_of,
    grouped,
    is_number,
    numbers,
    relative_cost,
    retrained_models,
    shared_flags,
    verdict_of,
)
from evaluation.gaps import (
    GAP_FIGURES,
    avg_gap,
    avg_gap_salun,
    bands,
    mean_figures,
    noise_floor,
    signed_gaps,
    tug_of_war,
)

COSTS = ("gradient_steps", "seconds", "images", "peak_memory_bytes")


@dataclasses.dataclass(frozen=True)
class Spread:
    """Mean over seeds, sample standard deviation (none for one seed) and number of seeds."""

    mean: float
    sd: float | None
    n: int


@dataclasses.dataclass(frozen=True)
class Entry:
    """One line of the table: a method, or a reference, on one forget set.

    Attributes:
        kind: `original`, `retrained` or `method`.
        rank: place among the methods that kept the budget in all seeds, from 1; none for all others.
        figures: by name, in the units of the cells.
        gaps: figure minus the mean of that seed's retrained models, same units.
        avg_gap, avg_gap_salun: mean absolute gaps, in points; the retrained model's is the noise floor.
        tug_of_war: from 0 to 1, which is no gap at all.
        inside: for each figure, in how many seeds it lies within that seed's retrained models, and of how many seeds.
        kept: seeds in which the budget was kept, and seeds that were judged.
        costs: by name; `relative` is the mean over seeds of each cost over retraining's.
        flags: those that all seeds share, without places of files.
        shown: the cell whose histograms and trace are drawn: the first seed's that has them.
    """

    forget: str
    method: str
    kind: str
    seeds: tuple[int, ...]
    figures: dict[str, Spread]
    gaps: dict[str, Spread]
    avg_gap: Spread | None
    avg_gap_salun: Spread | None
    tug_of_war: Spread | None
    inside: dict[str, tuple[int, int]]
    kept: tuple[int, int]
    costs: dict[str, Spread]
    relative: dict[str, float]
    flags: dict[str, object]
    shown: dict
    rank: int | None = None

    @property
    def within_budget(self) -> bool | None:
        """Whether the budget was kept in all seeds; none where no seed was judged."""
        kept, judged = self.kept
        return kept == judged == len(self.seeds) if judged else None


@dataclasses.dataclass(frozen=True)
class Board:
    """One forget set: references first, then methods from best to worst.

    Attributes:
        floor: the noise floor, mean over seeds of the average gap of each retrained model to the mean of the others,
            in points; none where no seed has two retrained models.
        floors: the same for each figure alone, in the figure's units.
        bands: lowest and highest figure among all retrained models, where some seed has two.
        budgets: the budgets that were set, in points, without repetition.
        retrained: how many retrained models there are, over all seeds.
    """

    forget: str
    entries: tuple[Entry, ...]
    floor: float | None
    floors: dict[str, float]
    bands: dict[str, tuple[float, float]]
    budgets: tuple[float, ...]
    retrained: int


@dataclasses.dataclass(frozen=True)
class Summary:
    """All forget sets, in the order in which the cells name them, and the distinct environments with their cells."""

    boards: tuple[Board, ...]
    environments: tuple[tuple[dict[str, object], int], ...]
    cells: int


def summarise(rows: list[dict]) -> Summary:
    """Group cells (one dict each, as in results.jsonl) by forget set and method; needs no figure to be there."""
    boards = tuple(_board(forget, cells) for forget, cells in grouped(rows, "forget").items())
    environments: dict[tuple, int] = {}
    for row in rows:
        key = tuple(sorted((name, str(value)) for name, value in (row.get("environment") or {}).items()))
        environments[key] = environments.get(key, 0) + 1
    return Summary(boards, tuple((dict(key), count) for key, count in environments.items() if key), len(rows))


def spread(values: Iterable[float | None]) -> Spread | None:
    """Mean and sample standard deviation of the values that are finite numbers; none where there is none."""
    found = [float(value) for value in values if is_number(value)]
    if not found:
        return None
    return Spread(statistics.fmean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


def _board(forget: str, rows: list[dict]) -> Board:
    # All cells of a seed share its original and its retrained models.
    of_seeds = [max(cells, key=lambda row: len(retrained_models(row))) for cells in grouped(rows, "seed").values()]
    retrained = [retrained_models(row) for row in of_seeds]
    floor = spread(_if_whole(noise_floor(models), *models) for models in retrained)
    methods = [_entry(method, "method", cells) for method, cells in grouped(rows, "method").items()]
    banded = bands([model for models in retrained if len(models) > 1 for model in models])
    budgets = {row["verdict"]["retain_budget"]: None for row in rows if is_number(verdict_of(row, "retain_budget"))}
    return Board(
        forget,
        (*_references(of_seeds, floor), *_ranked(methods)),
        floor.mean if floor else None,
        {name: value.mean for name, value in _spreads([_floors(models) for models in retrained]).items()},
        {name: (band.low, band.high) for name, band in banded.items()},
        tuple(budgets),
        sum(map(len, retrained)),
    )


def _references(of_seeds: list[dict], floor: Spread | None) -> list[Entry]:
    bare = [{name: row.get(name) for name in ("forget", "seed", "retrained_cost")} for row in of_seeds]
    pairs = list(zip(bare, of_seeds, strict=True))
    originals = [
        {**cell, "figures": row["original"], "retrained": row.get("retrained")}
        for cell, row in pairs
        if row.get("original")
    ]
    retrained = [
        {**cell, "figures": mean_figures(retrained_models(row)), "cost": row.get("retrained_cost")}
        for cell, row in pairs
        if row.get("retrained")
    ]
    entries = [_entry("original", "original", originals)] if originals else []
    if retrained:
        entries.append(dataclasses.replace(_entry("retrained", "retrained", retrained), avg_gap=floor))
    return entries


def _entry(method: str, kind: str, rows: list[dict]) -> Entry:
    pairs = [(numbers(row.get("figures")), mean_figures(retrained_models(row))) for row in rows]
    judged = [row for row in rows if verdict_of(row, "feasible") is not None]
    costs = {name: spread((row.get("cost") or {}).get(name) for row in rows) for name in COSTS}
    relative = {name: spread(relative_cost(row, name) for row in rows) for name in COSTS}
    shown = [row for row in rows if row.get("histograms") or row.get("trace")]
    return Entry(
        forget=rows[0]["forget"],
        method=method,
        kind=kind,
        seeds=tuple(row["seed"] for row in rows),
        figures=_spreads([numbers(row.get("figures")) for row in rows]),
        gaps=_spreads([cell_gaps(row) for row in rows]),
        avg_gap=spread(_if_whole(avg_gap(*pair), *pair) for pair in pairs),
        avg_gap_salun=spread(avg_gap_salun(*pair) for pair in pairs),
        tug_of_war=spread(tug_of_war(*pair) for pair in pairs),
        inside=_inside(rows),
        kept=(sum(bool(row["verdict"]["feasible"]) for row in judged), len(judged)),
        costs={name: value for name, value in costs.items() if value},
        relative={name: value.mean for name, value in relative.items() if value},
        flags=shared_flags([flags_of(row) for row in rows]),
        shown=shown[0] if shown else {},
    )


def _ranked(entries: list[Entry]) -> list[Entry]:
    """Those that kept the budget in all seeds first, each part by average gap; a missing one goes last."""

    def place(entry: Entry) -> tuple:
        return not entry.within_budget, entry.avg_gap.mean if entry.avg_gap else math.inf

    ranked = enumerate(sorted(entries, key=place), start=1)
    return [dataclasses.replace(entry, rank=rank if entry.within_budget else None) for rank, entry in ranked]


def _inside(rows: list[dict]) -> dict[str, tuple[int, int]]:
    flags: dict[str, list[bool]] = {}
    for row in rows:
        figures = numbers(row.get("figures"))
        for name, band in bands(retrained_models(row)).items():
            if name in figures:
                flags.setdefault(name, []).append(band.holds(figures[name]))
    return {name: (sum(found), len(found)) for name, found in flags.items()}


def _floors(models: list[dict[str, float]]) -> dict[str, float]:
    """Each figure's mean absolute gap from one retrained model to the mean of the others; empty for fewer than two."""
    others = [models[:place] + models[place + 1 :] for place in range(len(models))]
    gaps = [signed_gaps(model, mean_figures(rest)) for model, rest in zip(models, others, strict=True)]
    return mean_figures([{name: abs(gap) for name, gap in found.items()} for found in gaps])


def _if_whole(gap: float | None, *models: dict[str, float]) -> float | None:
    """An average gap over all its figures: one over fewer is no rival to it."""
    return gap if all(name in model for model in models for name in GAP_FIGURES) else None


def _spreads(cells: list[dict]) -> dict[str, Spread]:
    return {name: spread(values) for name, values in columns_of(cells).items()}
