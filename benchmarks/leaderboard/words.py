"""Columns of the leaderboard's tables, and the sentences of its pages."""

import dataclasses

from benchmarks.leaderboard.summary import LEAST_PROGRESS, Board, Entry
from evaluation.report.tables import FIGURES, digits_of

READING = (
    "AvgGap is the mean absolute distance to the same seed's retrained models, which never saw the forget set, over "
    "forget, retain and test accuracy and 100 × MIA AUC, in points: lower is better. It hides which of the four is off "
    "and in which direction. The noise floor is the AvgGap of a retrained model to the others of its seed: a smaller "
    "gap is no improvement. Ranked are the methods that kept the retain budget in every seed and forgot something; "
    f"“did nothing” marks those that moved the forget set's loss less than {100 * LEAST_PROGRESS:g} % of the way from "
    "the original to the retrained models."
)


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of a table: the name of an entry's value, its heading and a note on it, and how it is written."""

    name: str
    title: str
    note: str = ""
    digits: int = 2
    scale: float = 1.0

    def text(self, entry: Entry) -> tuple[str, str]:
        """The mean and the standard deviation as written; an en dash for no value, nothing for no deviation."""
        value = entry.values.get(self.name)
        if value is None:
            return "–", ""
        if self.name == "kept":
            return f"{value.mean * value.n:.0f}/{entry.seeds}", ""
        mean, sd = (f"{(part or 0) * self.scale:,.{self.digits}f}" for part in (value.mean, value.sd))
        return mean, sd if value.sd else ""


def _figure(name: str, title: str, note: str = "") -> Column:
    return Column(name, title, note, digits_of(name))


# After the columns that decide between methods, before all other figures.
FURTHER = [
    *(Column(f"gap.{part}_top1", f"gap, {part}", "Signed gap to the retrained models, points")
      for part in ("forget", "retain", "test")),
    Column("gap.mia_auc", "gap, MIA AUC", "Signed gap to the retrained models", 3),
    Column("gap.ulira_auc", "gap, U-LiRA AUC", "Signed gap to the retrained models", 3),
    Column("progress", "progress, %", "Way of the forget set's loss from original to retrained models", 0, 100),
    Column("avg_gap_salun", "AvgGap, efficacy", "AvgGap with MIA efficacy instead of the attack's AUC"),
    Column("tug_of_war", "ToW", "Product of 1 − gap over forget, retain and test accuracy; 1: no gap", 3),
    Column("inside_band", "inside band", "Figures of AvgGap, of four, within the range of the retrained models"),
    Column("cost.gradient_steps", "steps", "Gradient steps", 0),
    Column("share.gradient_steps", "steps, % of retraining", "", 1, 100),
    Column("cost.seconds", "seconds", "Seconds on the hardware of the runs", 1),
    Column("cost.images", "images", "Images processed", 0),
    Column("cost.peak_memory_bytes", "peak memory, MiB", "", 0, 2**-20),
]  # fmt: skip


# The four that tell methods apart, beside AvgGap: of all figures, the variance of their gaps to the retrained models
# between methods is largest in these over that between seeds (the geometric mean over eight forget sets of our records
# is 67, 62, 25 and 21; of the attack's AUC 10). Of two that say the same, such as both distances, one is here.
SEPARATING = {
    "js_divergence": "Distance of the answers on forget images to the retrained models', nats; 0: the same answers",
    "mia_efficacy": "Forget images that an attacker takes for never seen, %; as many as of the retrained models",
    "rmia_auc": "AUC of likelihood ratios to the retrained models; 0.5: indistinguishable from test images",
    "forget_top1": "Top-1 accuracy on the forget set, %; as high as the retrained models'",
}
SHORT = {"forget_top1": "forget"}


def columns(board: Board, top5: bool, every: bool = True) -> list[Column]:
    """The columns that decide between methods, with `every` all others as well; only those with a value."""
    accuracies = [
        _figure(f"{part}_top{k}", part if k == 1 else f"{part} top-5", f"Top-{k} accuracy on the {part} set, %")
        for part in ("forget", "retain", "test") for k in ((1, 5) if top5 else (1,))
        if f"{part}_top{k}" not in SEPARATING
    ]  # fmt: skip
    shown = [
        Column("avg_gap", "AvgGap", "Mean absolute gap to the retrained models, points; beside retrained: noise floor"),
        *(_figure(name, SHORT.get(name, FIGURES[name]), note) for name, note in SEPARATING.items()),
        Column("share.seconds", "% of retraining", "Seconds in per cent of those of retraining", 1, 100),
        Column("kept", "within budget", "Seeds in which the retain budget was kept"),
        *accuracies,
        *(_figure(f"test_{part}_top1", f"test, {part}") for part in ("remaining", "adjacent", "remote")),
        _figure("mia_auc", "MIA AUC", "AUC of the loss attack, forget against test images; 0.5: indistinguishable"),
        _figure("ulira_auc", "U-LiRA AUC", "Attack with shadow models; 0.5: indistinguishable from unseen images"),
    ]
    if every:
        known = {column.name for column in shown}
        others = (_figure(*item) for item in FIGURES.items() if top5 or not item[0].endswith("_top5"))
        shown += [*FURTHER, *(column for column in others if column.name not in known)]
    entries = [*board.references, *board.methods]
    return [column for column in shown if any(column.name in entry.values for entry in entries)]


def answer(board: Board) -> tuple[str, str]:
    """Which method for this forget set: a sentence in two parts, of which the first one is the answer."""
    original, floor = board.original_gap, board.floor
    if None not in (original, floor) and original <= floor:
        away = f"the original itself lies {original:.2f} points from retraining, within the noise floor of {floor:.2f}."
        return "AvgGap does not separate the methods:", away + _by_ulira(board)
    best = next((entry for entry in board.methods if entry.rank and "avg_gap" in entry.values), None)
    if best is None:
        return "No method", "kept the budget and forgot something."
    if original is not None and best.mean("avg_gap") >= original:
        return "No method", f"comes closer to retraining than the original, at {original:.2f} points."
    level = [entry for entry in board.methods if board.level(entry) and "share.seconds" in entry.values]
    cheapest = min(level, key=lambda entry: entry.mean("share.seconds"), default=best)
    other = "" if floor is None or level else f"; the noise floor is {floor:.3g}"
    if cheapest is not best:
        other = f"; {cheapest.method} is the cheapest of {len(level)} within the noise floor: {_costs(cheapest)}"
    return best.method, f"comes closest to retraining: {_costs(best)}{other}."


def _by_ulira(board: Board) -> str:
    found = [entry for entry in board.methods if entry.rank and "gap.ulira_auc" in entry.values]
    if not found:
        return ""
    best = min(found, key=lambda entry: abs(entry.mean("gap.ulira_auc")))
    values = ", ".join(f"{entry.method} {entry.mean('ulira_auc'):.3f}" for entry in (best, *board.references[::-1]))
    return f" {best.method} comes closest in U-LiRA AUC: {values}."


def _costs(entry: Entry) -> str:
    share = entry.mean("share.seconds")
    return f"{entry.mean('avg_gap'):.2f} points" + ("" if share is None else f" at {100 * share:.0f} % of its time")


def floor_sentences(board: Board) -> str:
    """Noise floor, retrained models and budget of a forget set."""
    models = f"{board.retrained} retrained model{'' if board.retrained == 1 else 's'}"
    if board.floor is None:
        floor = f"No noise floor: it needs two retrained models of one seed ({models} in all)."
    else:
        floor = f"Noise floor {board.floor:.2f} points ({models})."
    return floor + "".join(f" Retain budget: {budget:g} points." for budget in board.budgets)


def counts_sentence(rows: list[dict]) -> str:
    """How many methods, forget sets and seeds were compared."""
    counts = [(len({row[name] for row in rows}), noun)
              for name, noun in (("method", "method"), ("forget", "forget set"), ("seed", "seed"))]  # fmt: skip
    counts.append((len(rows), "run"))
    return ", ".join(f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts) + "."


def environment_lines(rows: list[dict]) -> list[str]:
    """Hardware and versions, a line for each environment of the cells."""
    known = [{"code": "version not recorded", **row["environment"]} for row in rows if row.get("environment")]
    words = [", ".join(f"{name.replace('_', ' ')} {value}" for name, value in sorted(each.items())) for each in known]
    return [f"{words.count(line)} runs: {line}" for line in dict.fromkeys(words)]
