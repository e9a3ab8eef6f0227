"""Rows of results.jsonl, one a cell, read so that whatever is missing or no number does no harm."""

import math

from evaluation.gaps import mean_figures, signed_gaps

PLACES = {
    "config_file", "data_dir", "log_dir", "name_prefix", "resume", "retrained_weight_path", "splits", "weight_path",
}  # fmt: skip


def cell_gaps(row: dict) -> dict[str, float]:
    """A cell's figures minus the mean of its retrained models'."""
    return signed_gaps(numbers(row.get("figures")), mean_figures(retrained_models(row)))


def retrained_models(row: dict) -> list[dict[str, float]]:
    """The figures of a cell's retrained models, without those that are missing or no finite numbers."""
    return [numbers(model) for model in row.get("retrained") or []]


def relative_cost(row: dict, name: str) -> float | None:
    """A cell's cost over retraining's; none where one of them is missing."""
    cost, whole = ((row.get(part) or {}).get(name) for part in ("cost", "retrained_cost"))
    return cost / whole if is_number(cost) and is_number(whole) and whole > 0 else None


def flags_of(row: dict) -> dict[str, object]:
    """A cell's flags without those that only say where its files lay on the machine that ran it."""
    return {name: value for name, value in (row.get("config") or {}).items() if name not in PLACES}


def shared_flags(configs: list[dict]) -> dict[str, object]:
    """The flags that have the same value in all configurations."""
    first = configs[0] if configs else {}
    return {name: value for name, value in first.items() if all(other.get(name) == value for other in configs)}


def columns_of(models: list[dict]) -> dict[str, list[float]]:
    """The values of each figure over the models that have it."""
    found = {name: [model[name] for model in models if is_number(model.get(name))] for name in _names(models)}
    return {name: values for name, values in found.items() if values}


def _names(models: list[dict]) -> list[str]:
    return list(dict.fromkeys(name for model in models for name in model))


def numbers(figures: dict | None) -> dict[str, float]:
    """The figures that are finite numbers."""
    return {name: value for name, value in (figures or {}).items() if is_number(value)}


def verdict_of(row: dict, name: str) -> object:
    """A field of a cell's verdict; none where there is none."""
    return (row.get("verdict") or {}).get(name)


def is_number(value: object) -> bool:
    """Whether a value is a finite number; truth values are none."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def grouped(rows: list[dict], name: str) -> dict:
    """Rows by the value of a field, in the order in which values first occur."""
    groups: dict = {}
    for row in rows:
        groups.setdefault(row[name], []).append(row)
    return groups
