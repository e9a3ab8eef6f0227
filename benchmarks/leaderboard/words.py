"""Columns of the leaderboard's tables, and the sentences of its pages."""

import dataclasses

from benchmarks.leaderboard.summary import Board, Entry, Summary
from evaluation.report.tables import FIGURES

MISSING = "–"
READING = (
    "AvgGap is the mean absolute distance to the same seed's retrained models, which never saw the forget set, over "
    "forget, retain and test accuracy and 100 × MIA AUC, in points: lower is better. It hides which of the four is off "
    "and in which direction; the signed gaps show it."
)
MARKS = (
    "The noise floor is the AvgGap of a retrained model to the others of its seed: a smaller gap is no improvement. "
    "Ranked are the methods that kept the retain budget in every seed and changed the model; “did nothing” marks one "
    "whose AvgGap to the original is at most the noise floor."
)


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table: the name of an entry's value, its heading and a note on it, and how it is written."""

    name: str
    title: str
    note: str = ""
    digits: int = 2
    scale: float = 1.0

    def mean(self, entry: Entry) -> float | None:
        """The mean in the units of the column; None where it is missing."""
        value = entry.mean(self.name)
        return None if value is None else value * self.scale

    def text(self, entry: Entry) -> tuple[str, str]:
        """The mean and the standard deviation as written; an en dash for no value, nothing for no deviation."""
        value = entry.values.get(self.name)
        if value is None:
            return MISSING, ""
        if self.name == "kept":
            return f"{round(value.mean * value.n)}/{entry.seeds}", ""
        sd = f"{value.sd * self.scale:,.{self.digits}f}" if value.sd else ""
        return f"{value.mean * self.scale:,.{self.digits}f}", sd


def deciding_columns(board: Board, top5: bool) -> list[Column]:
    """The columns that decide between methods, first those of the ranking; optional ones where a value exists."""
    accuracies = [
        _figure(f"{part}_top{k}", part if k == 1 else f"{part} top-5", f"Top-{k} accuracy on the {part} set, %")
        for part in ("forget", "retain", "test")
        for k in ((1, 5) if top5 else (1,))
    ]
    optional = [
        *(_figure(f"test_{part}_top1", f"test, {part}") for part in ("remaining", "adjacent", "remote")),
        _figure("ulira_auc", "U-LiRA AUC", "Attack with shadow models; 0.5: indistinguishable from unseen images"),
    ]
    return [
        Column("avg_gap", "AvgGap", "Mean absolute gap to the retrained models, points; beside retrained: noise floor"),
        Column("share.seconds", "% of retraining", "Seconds in per cent of those of retraining", 1, 100),
        Column("kept", "within budget", "Seeds in which the retain budget was kept"),
        *accuracies,
        _figure("mia_auc", "MIA AUC", "AUC of the loss attack, forget against test images; 0.5: indistinguishable"),
        *(column for column in optional if _filled(column, board)),
    ]


def all_columns(board: Board, top5: bool) -> list[Column]:
    """The deciding columns, then every other one with a value."""
    shown = deciding_columns(board, top5)
    known = {column.name for column in shown}
    further = [
        *(Column(f"gap.{name}", f"gap, {title}", "Signed gap to the retrained models, points", scale=scale)
          for name, title, scale in GAPS),
        Column("avg_gap_salun", "AvgGap, efficacy", "AvgGap with MIA efficacy instead of the attack's AUC"),
        Column("tug_of_war", "ToW", "Product of 1 − gap over forget, retain and test accuracy; 1: no gap", 3),
        Column("inside_band", "inside band", "Figures of AvgGap, of four, within the range of the retrained models"),
        Column("cost.gradient_steps", "steps", "Gradient steps", 0),
        Column("share.gradient_steps", "steps, % of retraining", "", 1, 100),
        Column("cost.seconds", "seconds", "Seconds on the hardware of the runs", 1),
        Column("cost.images", "images", "Images processed", 0),
        Column("cost.peak_memory_bytes", "peak memory, MiB", "", 0, 2**-20),
        *(_figure(name, title) for name, title in FIGURES.items() if top5 or not name.endswith("_top5")),
    ]  # fmt: skip
    return shown + [column for column in further if column.name not in known and _filled(column, board)]


# Figures of AvgGap, their short names, and their scale in points.
GAPS = (("forget_top1", "forget", 1), ("retain_top1", "retain", 1), ("test_top1", "test", 1), ("mia_auc", "MIA", 100))


def _figure(name: str, title: str, note: str = "") -> Column:
    digits = 0 if name.endswith("_steps") else 3
    if "_top" in name or name.endswith(("_accuracy", "_tpr", "_efficacy")):
        digits = 2
    return Column(name, title, note, digits)


def _filled(column: Column, board: Board) -> bool:
    return any(column.name in entry.values for entry in board.entries)


def answer(board: Board) -> tuple[str, str]:
    """Which method for this forget set: a sentence in two parts, of which the first one is the answer."""
    original, floor = board.original_gap, board.floor
    best = next((entry for entry in board.methods if not entry.mark and "avg_gap" in entry.values), None)
    if None not in (original, floor) and original <= floor:
        away = f"the original itself lies {original:.2f} points from retraining, within the noise floor of {floor:.2f}."
        return "AvgGap tells no methods apart:", away
    if best is None:
        return "No method", "kept the budget and changed the model."
    if original is not None and best.mean("avg_gap") >= original:
        return "No method", f"comes closer to retraining than the original, at {original:.2f} points."
    level = [entry for entry in board.methods if entry.within(floor) and "share.seconds" in entry.values]
    cheapest = min(level, key=lambda entry: entry.mean("share.seconds"), default=best)
    other = "" if floor is None or level else f"; the noise floor is {floor:.2f}"
    if cheapest is not best:
        other = f"; {cheapest.method} is the cheapest of {len(level)} within the noise floor: {_costs(cheapest)}"
    return best.method, f"comes closest to retraining: {_costs(best)}{other}."


def _costs(entry: Entry) -> str:
    share = entry.mean("share.seconds")
    return f"{entry.mean('avg_gap'):.2f} points" + ("" if share is None else f" at {100 * share:.0f} % of its time")


def floor_sentences(board: Board) -> str:
    """Noise floor, retrained models and budget of a forget set."""
    models = f"{board.retrained} retrained model{'' if board.retrained == 1 else 's'}"
    if board.floor is None:
        sentence = f"No noise floor: it needs two retrained models of one seed ({models} in all)."
    else:
        sentence = f"Noise floor {board.floor:.2f} points ({models})."
    budgets = " and ".join(f"{budget:g}" for budget in board.budgets)
    return f"{sentence} Retain budget: {budgets} points." if budgets else sentence


def counts_sentence(summary: Summary) -> str:
    """How many methods, forget sets and seeds were compared."""
    methods = {entry.method for board in summary.boards for entry in board.methods}
    seeds = max((entry.seeds for board in summary.boards for entry in board.entries), default=0)
    counts = ((len(methods), "method"), (len(summary.boards), "forget set"), (seeds, "seed"), (summary.cells, "run"))
    return ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts) + "."


def environment_lines(summary: Summary) -> list[str]:
    """Hardware and versions, a line for each environment of the cells."""
    lines = []
    for environment, cells in summary.environments:
        known = {"code": "version not recorded", **environment}
        words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in known.items())
        lines.append(f"{cells} runs: {words}" if len(summary.environments) > 1 else words)
    return lines
