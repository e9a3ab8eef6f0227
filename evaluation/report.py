"""The report of a run: a table for the terminal, the same figures for `report.json`."""

import dataclasses
import math

from helper_functions.loop import Cost

FIGURES = {
    **{
        f"{part}_{figure}": f"{title.replace('*', name)}"
        for figure, name in (("top1", "top-1"), ("top5", "top-5"), ("loss", "loss"))
        for part, title in {
            "retain": "retain *",
            "forget": "forget *, given labels",
            "forget_true": "forget *, true labels",
            "unseen": "unseen *",
            "validation": "validation *",
            "test": "test *",
            "test_remaining": "test *, other classes",
        }.items()
    },
    "mia_auc": "membership attack AUC",
    "discriminator_auc": "discriminator AUC",
}
# What the table at the end of a run shows; `test.py` shows all of them.
HEADLINES = tuple(name for name in FIGURES if name.endswith(("_top1", "_auc")))
# Averaged for `mean_gap`: what earlier work compares, with the attack in points of AUC.
GAP_FIGURES = {"forget_top1": 1, "retain_top1": 1, "test_top1": 1, "mia_auc": 100}


def signed_gaps(model: dict[str, float], retrained: dict[str, float]) -> dict[str, float]:
    """Each figure minus the retrained model's, for the figures that both have."""
    shared = [name for name in model if model[name] is not None and retrained.get(name) is not None]
    return {name: model[name] - retrained[name] for name in shared}


def mean_gap(model: dict[str, float], retrained: dict[str, float]) -> float:
    """Mean absolute gap to the retrained model over forget, retain and test top-1 and 100 x attack AUC, in points."""
    gaps = signed_gaps(model, retrained)
    values = [abs(gaps[name]) * scale for name, scale in GAP_FIGURES.items() if name in gaps]
    return sum(values) / len(values)


def table(models: dict[str, dict[str, float]], figures: tuple[str, ...] = HEADLINES) -> str:
    """Figures of the models side by side; with a retrained model, each other's signed gap to it.

    Below a figure that has one, its 95 % interval, from `figure_low` to `figure_high`.
    """
    compared = [name for name in models if name != "retrained"] if "retrained" in models else []
    heads = [*models, *(f"gap of {name}" for name in compared)]
    widths = [max(len(head) + 2, 12) for head in heads]
    lines = [_line("", heads, widths)]
    for figure in figures:
        values = [models[name].get(figure) for name in models]
        if all(value is None for value in values):
            continue
        gaps = [signed_gaps(models[name], models["retrained"]).get(figure) for name in compared]
        digits = 2 if "_top" in figure else 3
        cells = [_cell(value, f".{digits}f") for value in values] + [_cell(gap, f"+.{digits}f") for gap in gaps]
        lines.append(_line(FIGURES[figure], cells, widths))
        intervals = [_interval(models[name], figure) for name in models]
        if any(intervals):
            lines.append(_line("  95 % interval", intervals + [""] * len(compared), widths))
    if compared and "forget_top1" in models["retrained"]:
        gaps = [f"{mean_gap(models[name], models['retrained']):.2f}" for name in compared]
        lines.append(_line("mean absolute gap", [""] * len(models) + gaps, widths))
    return "\n".join(lines)


def _line(title: str, cells: list[str], widths: list[int]) -> str:
    return f"{title:27s}" + "".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))


def cost_table(costs: dict[str, Cost]) -> str:
    """Seconds, gradient steps, images and peak memory of each model that was made in this run."""
    lines = [f"{'cost':12s}{'seconds':>12s}{'gradient steps':>18s}{'images':>14s}{'peak memory':>14s}"]
    for name, cost in costs.items():
        memory = f"{cost.peak_memory_bytes / 2**20:,.0f} MiB"
        lines.append(f"{name:12s}{cost.seconds:12,.1f}{cost.gradient_steps:18,}{cost.images:14,}{memory:>14s}")
    return "\n".join(lines)


def plain(value: object) -> object:
    """A value that JSON can hold: dataclasses become dicts, numbers that are none become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _interval(model: dict[str, float], figure: str) -> str:
    low, high = (model.get(f"{figure}_{end}") for end in ("low", "high"))
    return "" if low is None or high is None else f"{low:.3f}–{high:.3f}"
