"""What the leaderboard's pages have in common: columns, how cells are written, and sentences above the tables."""

import dataclasses
from collections.abc import Callable

from benchmarks.leaderboard.summary import Board, Entry, Spread, Summary
from evaluation.gaps import GAP_FIGURES
from evaluation.report.tables import FIGURES

MISSING = "–"


@dataclasses.dataclass(frozen=True)
class Column:
    """One column of figures.

    Attributes:
        read: the value of an entry; none where there is none.
        note: what the figure is, for a reader who rests on the heading.
        ascending: whether the lowest value stands first when the table is sorted by this column.
        chosen: whether it is shown before the reader chooses.
        always: whether it stands in the table of a forget set where no entry has a value, too.
        text: writes the cell where that is no mean and standard deviation.
    """

    key: str
    title: str
    note: str
    read: Callable[[Entry], Spread | None]
    digits: int = 2
    ascending: bool = True
    chosen: bool = True
    always: bool = True
    text: Callable[[Entry], str] | None = None

    def cell(self, entry: Entry) -> str:
        """The cell as text: mean ± standard deviation, or an en dash."""
        return self.text(entry) if self.text else written(self.read(entry), self.digits)


def written(value: Spread | None, digits: int) -> str:
    """`97.12 ± 0.31`; without the second part where there is one seed or all are alike; an en dash for no value."""
    if value is None:
        return MISSING
    mean = f"{value.mean:,.{digits}f}"
    return mean if not value.sd else f"{mean} ± {value.sd:,.{digits}f}"


def columns(top5: bool) -> list[Column]:
    """All columns between the method and the end of the line, in order; top-5 accuracy is chosen with `top5`."""
    return [
        Column("n", "n", "Seeds", lambda entry: _number(len(entry.seeds)), 0, text=lambda entry: str(len(entry.seeds))),
        Column("kept", "within budget", "Seeds in which the retain budget was kept", _kept, 0, False, text=_kept_text),
        *_accuracies(top5),
        *_kinship(),
        _figure("mia_auc", "MIA AUC", "Loss attack's AUC, forget against test images; 0.5: it sees no difference"),
        _figure("mia_efficacy", "MIA efficacy", "Share of the forget set that the attacker takes for non-members, %"),
        _figure("ulira_auc", "U-LiRA AUC", "By shadow models; 0.5: as if it had never seen them", always=False),
        Column("avg_gap", "AvgGap", "Mean absolute gap to the retrained models: forget, retain and test accuracy and "
               "100 × MIA AUC, in points; beside retrained: the noise floor", lambda entry: entry.avg_gap),
        Column("tug_of_war", "ToW", "Tug of war: product of 1 − gap over forget, retain and test accuracy; 1: no gap",
               lambda entry: entry.tug_of_war, 3, False),
        Column("inside", "inside band", "How often the four figures of AvgGap lie between that seed's retrained models",
               _inside, 0, False, text=_inside_text),
        Column("gradient_steps", "steps", "Gradient steps", lambda entry: entry.costs.get("gradient_steps"), 0),
        Column("seconds", "seconds", "Seconds on the hardware above", lambda entry: entry.costs.get("seconds"), 1),
        Column("relative", "% of retraining", "Seconds in per cent of what retraining took",
               lambda entry: _percent(entry, "seconds"), 1),
        *_further(),
    ]  # fmt: skip


def filled(candidates: list[Column], board: Board) -> list[Column]:
    """The columns that always stand there, and those that have a value in some entry of the board."""
    return [column for column in candidates if column.always or any(map(column.read, board.entries))]


def label(entry: Entry) -> str:
    """What keeps a method from being ranked; empty where nothing does."""
    if entry.kind != "method" or entry.within_budget:
        return ""
    return "not judged" if entry.within_budget is None else "over budget"


def floor_sentences(board: Board) -> str:
    """Noise floor, retrained models and budget of a forget set."""
    models = f"{board.retrained} retrained model{'' if board.retrained == 1 else 's'}"
    if board.floor is None:
        sentence = f"No noise floor: it takes two retrained models of one seed ({models} in all)."
    else:
        sentence = f"Noise floor {board.floor:.2f} points ({models}): a smaller AvgGap is no win."
    budgets = " and ".join(f"{budget:g}" for budget in board.budgets)
    return f"{sentence} Retain budget: {budgets} points." if budgets else sentence


def counts_sentence(summary: Summary) -> str:
    """How many methods, forget sets and seeds were compared."""
    methods = {entry.method for board in summary.boards for entry in board.entries if entry.kind == "method"}
    seeds = {seed for board in summary.boards for entry in board.entries for seed in entry.seeds}
    counts = ((len(methods), "method"), (len(summary.boards), "forget set"), (len(seeds), "seed"))
    words = [f"{count} {noun}{'' if count == 1 else 's'}" for count, noun in counts]
    return f"{', '.join(words)}; {summary.cells} run{'' if summary.cells == 1 else 's'}."


def environment_lines(summary: Summary) -> list[str]:
    """Hardware and versions, a line for each environment that cells ran in."""
    total = len(summary.environments)
    lines = []
    for environment, cells in summary.environments:
        words = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in environment.items())
        lines.append(f"{cells} runs: {words}" if total > 1 else words)
    return lines


def figure_title(name: str) -> str:
    """A figure's name for readers."""
    return FIGURES.get(name, name.replace("_", " "))


def figure_digits(name: str) -> int:
    """Digits after the point: none for steps, two for percentages, three for all else."""
    if name.endswith("_steps"):
        return 0
    return 2 if "_top" in name or name.endswith(("_accuracy", "_tpr", "_efficacy")) else 3


def _accuracies(top5: bool) -> list[Column]:
    return [
        _figure(f"{part}_top{k}", part if k == 1 else f"{part} top-5", f"Top-{k} accuracy on the {part} set, %",
                ascending=False, chosen=k == 1 or top5, always=k == 1 or top5)
        for part in ("retain", "forget", "test")
        for k in (1, 5)
    ]  # fmt: skip


def _kinship() -> list[Column]:
    """Test images by how near their class is to forgotten ones: where no whole class is forgotten there are none."""
    return [
        _figure(f"test_{part}_top1", f"test, {part}", figure_title(f"test_{part}_top1"), ascending=False, always=False)
        for part in ("remaining", "adjacent", "remote")
    ]


def _further() -> list[Column]:
    """Columns that a reader may add."""
    percent = ("forget_true_top1", "unseen_top1", "validation_top1", "mia_accuracy", "mia_tpr", "rmia_tpr",
               "ulira_tpr", "ulira_accuracy", "linear_probe_top1")  # fmt: skip
    others = ("forget_loss", "rmia_auc", "discriminator_auc", "js_divergence", "activation_distance",
              "relearn_steps")  # fmt: skip
    gap = Column("avg_gap_salun", "AvgGap, efficacy", "AvgGap with MIA efficacy in the place of the attack's AUC",
                 lambda entry: entry.avg_gap_salun)  # fmt: skip
    found = [
        gap,
        *(_figure(name, figure_title(name), "", ascending=False) for name in percent),
        *(_figure(name, figure_title(name), "") for name in others),
        Column("relative_steps", "steps, % of retraining", "", lambda entry: _percent(entry, "gradient_steps"), 1),
        Column("images", "images", "Images seen", lambda entry: entry.costs.get("images"), 0),
        Column("memory", "peak memory, MiB", "", _mebibytes, 0),
    ]
    return [dataclasses.replace(column, chosen=False, always=False) for column in found]


def _figure(name: str, title: str, note: str, ascending: bool = True, **shown: bool) -> Column:
    return Column(name, title, note, lambda entry: entry.figures.get(name), figure_digits(name), ascending, **shown)


def _number(value: float) -> Spread:
    return Spread(float(value), None, 1)


def _kept(entry: Entry) -> Spread | None:
    kept, judged = entry.kept
    return _number(kept / judged) if judged else None


def _kept_text(entry: Entry) -> str:
    return "{}/{}".format(*entry.kept) if entry.kept[1] else MISSING


def _inside_of(entry: Entry) -> tuple[int, int]:
    found = [entry.inside[name] for name in GAP_FIGURES if name in entry.inside]
    return sum(inside for inside, _ in found), sum(seeds for _, seeds in found)


def _inside(entry: Entry) -> Spread | None:
    inside, seeds = _inside_of(entry)
    return _number(inside / seeds) if seeds else None


def _inside_text(entry: Entry) -> str:
    inside, seeds = _inside_of(entry)
    return f"{inside}/{seeds}" if seeds else MISSING


def _percent(entry: Entry, cost: str) -> Spread | None:
    return _number(100 * entry.relative[cost]) if cost in entry.relative else None


def _mebibytes(entry: Entry) -> Spread | None:
    memory = entry.costs.get("peak_memory_bytes")
    return _number(memory.mean / 2**20) if memory else None
