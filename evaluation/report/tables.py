"""The report of a run: a table for the terminal, the same figures for `report.json`."""

import dataclasses
import math

from evaluation.gaps import (
    Band,
    Figures,
    avg_gap,
    avg_gap_salun,
    bands,
    is_retrained,
    mean_figures,
    noise_floor,
    retrained_of,
    signed_gaps,
    tug_of_war,
)
from helper_functions.training.loop import Cost

FIGURES = {
    **{
        f"{part}_{figure}": f"{title.replace('*', name)}"
        for figure, name in (("top1", "top-1"), ("top5", "top-5"), ("loss", "loss"))
        for part, title in {
            "retain": "retain *",
            "forget": "forget *, given labels",
            "forget_true": "forget *, true labels",
            "forgotten": "forgotten before, *",
            "unseen": "unseen *",
            "validation": "validation *",
            "test": "test *",
            "test_remaining": "test *, other classes",
            "test_adjacent": "test *, adjacent ones",
            "test_remote": "test *, remote ones",
        }.items()
    },
    "mia_auc": "membership attack AUC",
    "mia_accuracy": "membership accuracy, %",
    "mia_tpr": "membership TPR at 1 %, %",
    "mia_efficacy": "MIA efficacy, %",
    "rmia_auc": "RMIA AUC",
    "rmia_tpr": "RMIA TPR at 1 %, %",
    "ulira_auc": "U-LiRA AUC",
    "ulira_accuracy": "U-LiRA accuracy, %",
    "ulira_tpr": "U-LiRA TPR at 1 %, %",
    "discriminator_auc": "discriminator AUC",
    "js_divergence": "JS divergence, nats",
    "activation_distance": "activation distance",
    "relearn_steps": "relearn time, steps",
    "linear_probe_top1": "linear probe on forget",
}
# What the table at the end of a run shows; `test.py` shows all of them.
HEADLINES = tuple(
    name
    for name in FIGURES
    if name.endswith(("_top1", "_auc")) or name in ("mia_efficacy", "js_divergence", "activation_distance")
)
GAPS = {"AvgGap": (avg_gap, ".2f"), "AvgGap (SalUn)": (avg_gap_salun, ".2f"), "ToW": (tug_of_war, ".3f")}
MARK = "*"
LONGEST_NAME = 14


@dataclasses.dataclass(frozen=True)
class _Columns:
    """What a table has side by side: models, the retrained ones as one, their band, and whose gaps."""

    shown: dict[str, Figures]
    band: dict[str, Band]
    compared: dict[str, Figures]

    @property
    def heads(self) -> list[str]:
        short = self.short
        gaps = [f"gap of {short[name]}" + " " * bool(self.band) for name in self.compared]
        return [*(short[name] for name in self.shown), *(["band"] if self.band else []), *gaps]

    @property
    def short(self) -> dict[str, str]:
        """What stands above a model's column: its name, or, for a long one such as a path, `model` and a number."""
        return {
            name: f"model {number}" if len(name) > LONGEST_NAME else name
            for number, name in enumerate(self.shown, start=1)
        }

    def cells(self, figure: str) -> list[str]:
        form = _form(figure)
        cells = [_cell(values.get(figure), form) for values in self.shown.values()]
        band = self.band.get(figure)
        if self.band:
            cells.append("" if band is None else f"{band.low:{form}}–{band.high:{form}}")
        for values in self.compared.values():
            gap = signed_gaps(values, self.shown["retrained"]).get(figure)
            inside = gap is not None and band is not None and band.holds(values[figure])
            cells.append(_cell(gap, f"+{form}") + (MARK if inside else " ") * bool(self.band))
        return cells


def table(models: dict[str, Figures], figures: tuple[str, ...] = HEADLINES) -> str:
    """Figures of the models side by side; with retrained models, each other's signed gap to their mean.

    Several retrained models stand in one column, their mean, with the band from the lowest to the highest beside it;
    gaps of figures inside the band are marked. Below a figure that has one, its 95 % interval, from `figure_low` to
    `figure_high`. Last AvgGap, AvgGap (SalUn) and ToW of each model, what retrained models say of noise, long names.
    """
    retrained = list(retrained_of(models).values())
    shown = {name: values for name, values in models.items() if not is_retrained(name)}
    compared = dict(shown) if retrained else {}
    if retrained:
        shown["retrained"] = mean_figures(retrained)
    columns = _Columns(shown, bands(retrained), compared)
    widths = [max(len(head) + 2, 16 if head == "band" else 12) for head in columns.heads]
    lines = [_line("", columns.heads, widths)]
    for figure in figures:
        if all(values.get(figure) is None for values in shown.values()):
            continue
        lines.append(_line(FIGURES[figure], columns.cells(figure), widths))
        intervals = [_interval(values, figure) for values in shown.values()]
        if any(intervals):
            lines.append(_line("  95 % interval", intervals + [""] * (len(widths) - len(shown)), widths))
    for title, (measure, form) in GAPS.items():
        gaps = [measure(values, shown["retrained"]) for values in compared.values()]
        if any(gap is not None for gap in gaps):
            blanks = [""] * (len(widths) - len(gaps))
            lines.append(_line(title, blanks + [_cell(gap, form) for gap in gaps], widths))
    legend = [f"{short}: {name}" for name, short in columns.short.items() if short != name]
    return "\n".join([*lines, *_noise(retrained), *legend])


def _noise(retrained: list[Figures]) -> list[str]:
    if len(retrained) < 2:
        return []
    floor = noise_floor(retrained)
    said = "" if floor is None else f"; noise floor {floor:.2f}, their AvgGap to the mean of the others"
    return [f"{MARK} inside the band between {len(retrained)} retrained models{said}"]


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


def _form(figure: str) -> str:
    """How a figure's number is written: steps whole, percentages with two digits, anything else with three."""
    if figure.endswith("_steps"):
        return ".0f"
    return ".2f" if "_top" in figure or figure.endswith(("_accuracy", "_tpr", "_efficacy")) else ".3f"


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _interval(model: Figures, figure: str) -> str:
    low, high = (model.get(f"{figure}_{end}") for end in ("low", "high"))
    return "" if low is None or high is None else f"{low:.3f}–{high:.3f}"
