"""Finished cells: how they are stored, and the flat line of figures that each becomes in the CSV file."""

import math
from pathlib import Path

from benchmarks.sweeps.sweep import append_row, read_rows
from evaluation import gaps
from helper_functions.keys import key_of

# Figures that all methods on a forget set and seed share: a line of references.jsonl, stored once.
SHARED, REFERENCES = ("original", "retrained"), "references.jsonl"
# Flags that only locate files on the machine of the run.
PLACES = {
    "config_file", "data_dir", "log_dir", "name_prefix", "resume", "retrained_weight_path", "splits", "weight_path",
}  # fmt: skip
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


def floor_of(row: dict) -> float | None:
    """The noise floor between a cell's retrained models, in points; None unless two or more have all four figures."""
    models = retrained_models(row)
    return _if_whole(gaps.noise_floor(models), *models)


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
