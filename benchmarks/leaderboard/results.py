"""Finished cells: how they are stored, and the flat line of figures that each becomes in the CSV file and the pages."""

import math
from pathlib import Path

from benchmarks.sweeps.sweep import append_row, read_rows
from evaluation.gaps import (
    GAP_FIGURES,
    Figures,
    avg_gap,
    avg_gap_salun,
    bands,
    mean_figures,
    noise_floor,
    signed_gaps,
    tug_of_war,
)
from helper_functions.keys import key_of

# Figures that all methods on a forget set and seed share: a line of references.jsonl, stored once.
SHARED = ("original", "retrained")
REFERENCES = "references.jsonl"
# Flags that only locate files on the machine of the run.
PLACES = {
    "config_file", "data_dir", "log_dir", "name_prefix", "resume", "retrained_weight_path", "splits", "weight_path",
}  # fmt: skip
COSTS = ("gradient_steps", "seconds", "images", "peak_memory_bytes")
GROUPS = ("gap", "verdict", "cost", "share", "original", "retrained", "retrained_cost", "config", "environment")


def read_cells(path: Path) -> dict[str, dict]:
    """Finished cells by key, each with the figures of its original and its retrained models.

    Raises:
        UserError: a line of results.jsonl, or of references.jsonl beside it, is damaged.
    """
    references = read_rows(path.with_name(REFERENCES))
    return {key: {**references.get(row.get("reference"), {}), **row} for key, row in read_rows(path).items()}


def append_cell(path: Path, row: dict) -> None:
    """Add a finished cell, and the figures that it shares with other cells unless they are stored already."""
    shared = {name: row[name] for name in SHARED}
    key, references = key_of(shared), path.with_name(REFERENCES)
    if key not in read_rows(references):
        append_row(references, {"key": key, **shared})
    append_row(path, {**{name: value for name, value in row.items() if name not in SHARED}, "reference": key})


def flags_of(config: dict | None) -> dict[str, object]:
    """The flags of a run without those that only locate files."""
    return {name: value for name, value in (config or {}).items() if name not in PLACES}


def line_of(row: dict) -> dict[str, object]:
    """A cell as one flat line: its figures by name, averages over them, all else with the prefix of its group.

    `moved` is AvgGap to the original instead of the retrained models; `inside_band` counts the four figures of AvgGap
    that lie within the retrained models' range; `retrained.` figures are means over the cell's retrained models,
    `gap.` figures the signed distance to these; `share.` is a cost divided by that of retraining.
    """
    figures, models = numbers(row.get("figures")), retrained_models(row)
    retrained, band = mean_figures(models), bands(models)
    inside = [band[name].holds(figures[name]) for name in GAP_FIGURES if name in band and name in figures]
    groups = {
        **row,
        "gap": signed_gaps(figures, retrained),
        "config": flags_of(row.get("config")),
        "retrained": {**retrained, "n": len(models)},
        "share": {name: _share(row, name) for name in COSTS},
    }
    line = {name: row.get(name) for name in ("forget", "method", "seed", "key")} | dict(row.get("figures") or {})
    line |= {
        "avg_gap": if_whole(avg_gap(figures, retrained), figures, retrained),
        "avg_gap_salun": avg_gap_salun(figures, retrained),
        "tug_of_war": tug_of_war(figures, retrained),
        "moved": if_whole(avg_gap(figures, original := numbers(row.get("original"))), figures, original),
        "inside_band": sum(inside) if inside else None,
    }
    for group in GROUPS:
        line |= {f"{group}.{name}": value for name, value in (groups.get(group) or {}).items()}
    return line


def floor_of(row: dict) -> float | None:
    """The noise floor between a cell's retrained models, in points; None unless two or more have all four figures."""
    models = retrained_models(row)
    return if_whole(noise_floor(models), *models)


def floors_of(row: dict) -> dict[str, float]:
    """The noise floor of each figure, in its units: mean absolute gap of a retrained model to the others' mean."""
    models = retrained_models(row)
    others = [mean_figures(models[:place] + models[place + 1 :]) for place in range(len(models))]
    gaps = [signed_gaps(model, rest) for model, rest in zip(models, others, strict=True)]
    return mean_figures([{name: abs(gap) for name, gap in found.items()} for found in gaps])


def retrained_models(row: dict) -> list[dict[str, float]]:
    """The finite figures of each retrained model of a cell."""
    return [numbers(model) for model in row.get("retrained") or []]


def if_whole(gap: float | None, *models: Figures) -> float | None:
    """An average gap where every model has all four of its figures, else None: averages over fewer do not compare."""
    return gap if all(name in model for model in models for name in GAP_FIGURES) else None


def numbers(figures: dict | None) -> dict[str, float]:
    """The figures that are finite numbers."""
    return {name: value for name, value in (figures or {}).items() if is_number(value)}


def is_number(value: object) -> bool:
    """Whether a value is a finite number and no truth value."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _share(row: dict, name: str) -> float | None:
    cost, whole = ((row.get(part) or {}).get(name) for part in ("cost", "retrained_cost"))
    return cost / whole if is_number(cost) and is_number(whole) and whole > 0 else None
