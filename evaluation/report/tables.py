"""Tables of figures and costs for the terminal, and plain values for `report.json`."""

import dataclasses
import math

from evaluation.gaps import MEASURES, Figures, bands, is_retrained, mean_figures, noise_floor, retrained_of, signed_gaps
from helper_functions.training.loop import Cost

PARTS = {
    "retain": "retain *", "forget": "forget *, given labels", "forget_true": "forget *, true labels",
    "forgotten": "forgotten before, *", "unseen": "unseen *", "validation": "validation *", "test": "test *",
    "test_remaining": "test *, other classes", "test_adjacent": "test *, adjacent ones",
    "test_remote": "test *, remote ones",
}  # fmt: skip
FIGURES = {
    f"{part}_{figure}": title.replace("*", name)
    for figure, name in (("top1", "top-1"), ("top5", "top-5"), ("loss", "loss")) for part, title in PARTS.items()
} | {
    "mia_auc": "membership attack AUC", "mia_accuracy": "membership accuracy, %",
    "mia_tpr": "membership TPR at 1 %, %", "mia_worst_tenth": "membership worst tenth, %",
    "mia_efficacy": "MIA efficacy, %",
    "rmia_auc": "RMIA AUC", "rmia_tpr": "RMIA TPR at 1 %, %", "rmia_worst_tenth": "RMIA worst tenth, %",
    "ulira_auc": "U-LiRA AUC", "ulira_accuracy": "U-LiRA accuracy, %", "ulira_tpr": "U-LiRA TPR at 1 %, %",
    "ulira_worst_tenth": "U-LiRA worst tenth, %", "discriminator_auc": "discriminator AUC",
    "discriminator_worst_tenth": "discriminator tenth, %", "retain_mia_auc": "retain membership AUC",
    "retain_exposure": "retain exposure", "js_divergence": "JS divergence, nats",
    "activation_distance": "activation distance", "residual_knowledge": "residual knowledge",
    "relearn_steps": "relearn time, steps", "linear_probe_top1": "linear probe on forget",
    "prototype1_top1": "1-shot prototypes", "prototype10_top1": "10-shot prototypes",
    "klom_retain": "KLoM, retain, nats", "klom_forget": "KLoM, forget, nats",
    "klom_validation": "KLoM, validation, nats", "klom_shadows": "KLoM, shadow models, nats",
    "swap_advantage": "SWAP advantage", "validation_agreement": "validation, as the teacher",
    "test_agreement": "test, as the teacher",
}  # fmt: skip
# Figures in the table at the end of a run; `test.py` shows all.
HEADLINES = tuple(
    name
    for name in FIGURES
    if name.endswith(("_top1", "_auc", "_agreement"))
    or name in ("mia_efficacy", "retain_exposure", "js_divergence", "activation_distance", "residual_knowledge")
)
GAPS = {"avg_gap": ("AvgGap", ".2f"), "avg_gap_salun": ("AvgGap (SalUn)", ".2f"), "tug_of_war": ("ToW", ".3f")}
MARK = "*"
LONGEST_NAME = 14


def table(models: dict[str, Figures], figures: tuple[str, ...] = HEADLINES) -> str:
    """Figures of the models side by side; with retrained models, the signed gap of each other model to their mean.

    Several retrained models share one column, their mean, followed by a column with the band from lowest to highest;
    gaps of figures inside the band are marked. Below an AUC with a 95 % interval (`figure_low`, `figure_high`)
    stands the interval. The last rows are AvgGap, AvgGap (SalUn) and ToW of each model, the noise floor,
    and long names.
    """
    retrained = list(retrained_of(models).values())
    shown = {name: values for name, values in models.items() if not is_retrained(name)}
    compared = dict(shown) if retrained else {}
    if retrained:
        shown["retrained"] = mean_figures(retrained)
    short = {name: f"model {n}" if len(name) > LONGEST_NAME else name for n, name in enumerate(shown, start=1)}
    band, pad = bands(retrained), " " * (len(retrained) > 1)
    rows = [["", *short.values(), *["band"] * bool(band), *(f"gap of {short[name]}{pad}" for name in compared)]]
    widths = [27, *(max(len(head) + 2, 16 if head == "band" else 12) for head in rows[0][1:])]
    for figure in figures:
        if all(values.get(figure) is None for values in shown.values()):
            continue
        form, limits = f".{digits_of(figure)}f", band.get(figure)
        cells = [_cell(values.get(figure), form) for values in shown.values()]
        if band:
            cells.append("" if limits is None else f"{limits.low:{form}}–{limits.high:{form}}")
        for values in compared.values():
            gap = signed_gaps(values, shown["retrained"]).get(figure)
            inside = gap is not None and limits is not None and limits.holds(values[figure])
            cells.append(_cell(gap, f"+z{form}") + (MARK if inside else pad))
        rows.append([FIGURES[figure], *cells])
        # The page has those of other figures, which would double the table.
        intervals = [_interval(values, figure) for values in shown.values()] if figure.endswith("_auc") else []
        if any(intervals):
            rows.append(["  95 % interval", *intervals])
    for measure, (title, form) in GAPS.items():
        gaps = [MEASURES[measure](values, shown["retrained"]) for values in compared.values()]
        if any(gap is not None for gap in gaps):
            rows.append([title, *[""] * (len(widths) - 1 - len(gaps)), *(_cell(gap, form) for gap in gaps)])
    blank = [""] * len(widths)
    lines = [
        first.ljust(widths[0]) + "".join(map(str.rjust, [*cells, *blank], widths[1:])) for first, *cells in rows
    ]
    if len(retrained) > 1:
        floor = noise_floor(retrained)
        noise = "" if floor is None else f"; noise floor {floor:.2f}, their AvgGap to the mean of the others"
        lines.append(f"{MARK} inside the band between {len(retrained)} retrained models{noise}")
    return "\n".join([*lines, *(f"{number}: {name}" for name, number in short.items() if number != name)])


def cost_table(costs: dict[str, Cost]) -> str:
    """Seconds, gradient steps, images and peak memory of each model that this run trained."""
    lines = [f"{'cost':12s}{'seconds':>12s}{'gradient steps':>18s}{'images':>14s}{'peak memory':>14s}"]
    for name, cost in costs.items():
        memory = f"{cost.peak_memory_bytes / 2**20:,.0f} MiB"
        lines.append(f"{name:12s}{cost.seconds:12,.1f}{cost.gradient_steps:18,}{cost.images:14,}{memory:>14s}")
    return "\n".join(lines)


def plain(value: object) -> object:
    """A value that JSON can hold: dataclasses become dicts, NaN and infinite numbers become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain(dataclasses.asdict(value))
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def digits_of(figure: str) -> int:
    """Digits of a figure behind the point: steps have none, percentages two, all others three."""
    if figure.endswith("_steps"):
        return 0
    return 2 if "_top" in figure or figure.endswith(("_accuracy", "_tpr", "_efficacy", "_worst_tenth")) else 3


def _cell(value: float | None, form: str) -> str:
    return "–" if value is None else f"{value:{form}}"


def _interval(model: Figures, figure: str) -> str:
    low, high = (model.get(f"{figure}_{end}") for end in ("low", "high"))
    return "" if low is None or high is None else f"{low:.3f}–{high:.3f}"
