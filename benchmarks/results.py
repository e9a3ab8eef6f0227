"""Write docs/results.md from its template and the records in docs/, so that no figure of a record is typed by hand.

    python -m benchmarks.results
    python -m benchmarks.results --add runs/NAME --name saturated    # add single runs to the record of such runs

A template of Jinja has `board(NAME)`, a `Record` of the leaderboard; `rows(FILE)`, the lines of another record;
`runs(NAME)`, single runs that were added under a name; `robustness` and `sequential`, tables of these sweeps. Filters:
`f(2)` decimals, `s(2)` with the sign, `span`, `each` and `mean` of several figures, `word` for a small number, `titles`
of methods, and `ensure(condition)`: the words before it, and an error with them where the records do not support them.
"""

import dataclasses
import functools
import json
import math
import re
import shlex
import statistics
import sys
import textwrap
import traceback
from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path

import jinja2

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # where this file is run by its path

from benchmarks.leaderboard.board import latest
from benchmarks.leaderboard.cells import PLACES, read_cells, short
from benchmarks.leaderboard.summary import line_of, retrained_models, summarise
from benchmarks.sweeps import robustness, sequential
from benchmarks.sweeps.sweep import append_row, command_line, read_rows
from evaluation.gaps import noise_floor
from helper_functions.code_version import code_words
from helper_functions.config import ScriptParser, run_script
from helper_functions.errors import UserError
from helper_functions.files import check_file, key_of, load_config, write_bytes

WIDTH = 120
WORDS = ["no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve"]
TITLES = {
    "bad_teacher": "bad teacher", "ct": "CT", "delete": "DELETE", "eu_k": "EU-k", "finetune": "fine-tuning",
    "msg": "MSG", "neggrad_plus": "NegGrad+", "random_labels": "random labels", "salun": "SalUn", "scrub": "SCRUB",
    "scrub_r": "SCRUB+R", "ssd": "SSD", "ugradsl_plus": "UGradSL+", "unsir": "UNSIR",
}  # fmt: skip


@dataclasses.dataclass
class Args:
    """Flags of benchmarks/results.py."""

    template: str = "docs/results.md.jinja"
    """The text, with expressions for figures."""
    output: str = "docs/results.md"
    """What is written from it."""
    boards: str = "docs/leaderboard"
    """Folder of the leaderboards' records."""
    record: str = "docs/runs.jsonl"
    """Record of single runs, a line each."""
    add: list[str] = dataclasses.field(default_factory=list)
    """Folders of finished runs that are added to the record; nothing else is done."""
    name: str | None = None
    """Under which name they are added."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.results", __doc__)


def main(args: Args) -> dict:
    """Write the document, or add runs to the record; returns the text, or the rows."""
    if args.add:
        return {"rows": add_runs(args)}
    check_file("template", args.template)
    text = render(Path(args.template), Path(args.boards), Path(args.record))
    write_bytes(Path(args.output), text.encode())
    print(f"{args.output}: {len(text.splitlines())} lines, {len(text.split()):,} words")
    return {"text": text}


class Record:
    """The latest rows of a leaderboard.

    Figures have the names of its CSV file and are means over seeds; of several methods, means over these as well. Those
    of `retrained` are means over the models, and its `avg_gap` is the noise floor. Without `forgets`, all are meant.
    """

    def __init__(self, path: Path) -> None:
        check_file("boards", path)
        self.name, self.rows = path.parent.name, latest(read_cells(path))
        self.boards = {board.forget: board for board in summarise(self.rows)}

    def lines(self, *forgets: str, merged: Iterable[list[str]] = ()) -> list[list[str]]:
        """The methods, each a line, those of a list in `merged` together.

        First those that kept the budget in every run, by the sum of their gaps; then those that did not, and those that
        lack a forget set.
        """
        found = dict.fromkeys(row["method"] for row in self._rows([], forgets))

        def place(method: str) -> tuple:
            return not (self.within(method, *forgets) and self.complete(method, *forgets)), self.total(method, *forgets)

        groups = {method: [each for each in group if each in found] for group in merged for method in group}
        lines = [groups.get(method, [method]) for method in sorted(found, key=place)]
        return [line for number, line in enumerate(lines) if line not in lines[:number]]

    def _rows(self, methods: list[str], forgets: tuple[str, ...]) -> list[dict]:
        return [row for row in self.rows
                if (not methods or row["method"] in methods) and (not forgets or row["forget"] in forgets)]  # fmt: skip

    def has(self, method: str | list[str], forget: str) -> bool:
        """Whether there is a row on this forget set."""
        return bool(self._rows(_listed(method), (forget,)))

    def complete(self, method: str | list[str], *forgets: str) -> bool:
        """Whether there are rows on all of the forget sets."""
        return all(self.has(each, forget) for each in _listed(method) for forget in forgets or self.boards)

    def kept(self, method: str | list[str], *forgets: str) -> str:
        """In how many runs the budget was kept, such as 8/9."""
        found = [bool(row["verdict"]["feasible"]) for row in self._rows(_listed(method), forgets)]
        return f"{sum(found)}/{len(found)}"

    def within(self, method: str | list[str], *forgets: str) -> bool:
        """Whether the budget was kept in every run."""
        return all(row["verdict"]["feasible"] for row in self._rows(_listed(method), forgets))

    def value(self, method: str | list[str], forget: str, name: str) -> float:
        """A figure."""
        return statistics.fmean(self.values(method, forget, name))

    def values(self, method: str | list[str], forget: str, name: str) -> list[float]:
        """A figure of each of several methods."""
        board = self.boards.get(forget)
        entries = {entry.method: entry for entry in (*board.references, *board.methods)} if board else {}
        found = [entries[each].mean(name) if each in entries else None for each in _listed(method)]
        if None in found:
            raise UserError(f"the board {self.name} has no {name} of {method} on {forget}")
        return found

    def gap(self, method: str | list[str], forget: str) -> float:
        """AvgGap in points."""
        return self.value(method, forget, "avg_gap")

    def total(self, method: str | list[str], *forgets: str) -> float:
        """The sum of the gaps over the forget sets."""
        found = [forget for forget in forgets or self.boards if method == "retrained" or self.has(method, forget)]
        return math.fsum(self.gap(method, forget) for forget in found)

    def best(self, forget: str) -> str:
        """The method with the smallest gap of those that kept the budget in every run on this forget set."""
        kept = [method for (method,) in self.lines(forget) if self.within(method, forget)]
        return min(kept, key=lambda method: self.gap(method, forget))

    def by_seed(self, method: str, forget: str, name: str = "avg_gap") -> list[float]:
        """A figure of a method or of `original` on each seed; of `retrained` the noise floors."""
        rows = sorted(self._rows([], (forget,)), key=lambda row: row["seed"])
        seeds = {row["seed"]: row for row in rows}.values()
        if method == "retrained":
            return [noise_floor(retrained_models(row)) for row in seeds]
        found = [{**row, "figures": row["original"]} for row in seeds] if method == "original" else rows
        return [line_of(row)[name] for row in found if method in ("original", row["method"])]

    def order(self, forget: str, seed: int) -> list[str]:
        """The methods that kept the budget in every run, by their gaps on one seed."""
        rows = [row for row in self._rows([], (forget,)) if row["seed"] == seed and self.within(row["method"], forget)]
        return [row["method"] for row in sorted(rows, key=lambda row: line_of(row)["avg_gap"])]

    def models(self, forget: str, name: str) -> list[float]:
        """A figure of each retrained model."""
        seeds = {row["seed"]: row for row in self._rows([], (forget,))}.values()
        return [model[name] for row in seeds for model in retrained_models(row)]

    def code(self) -> str:
        """The commits of the rows, the most frequent first."""
        words = (str((row.get("environment") or {}).get("code")) for row in self.rows)
        found = (re.search(r" at ([0-9a-f]{7})[0-9a-f]*(, changed)?", each) for each in words)
        counts = Counter(f"`{each[1]}`{' with changes' * bool(each[2])}" if each else "not recorded" for each in found)
        return ", ".join(commit for commit, _ in counts.most_common())


def _listed(methods: str | list[str]) -> list[str]:
    return [methods] if isinstance(methods, str) else methods


def decimals(value: float, digits: int) -> str:
    """With so many decimals, and never -0."""
    return f"{round(value, digits) + 0.0:,.{digits}f}"


def signed(value: float, digits: int) -> str:
    """Likewise with a sign, but for 0."""
    return ("+" if round(value, digits) > 0 else "") + decimals(value, digits)


def span(values: Iterable[float], digits: int) -> str:
    """The lowest and the highest as written, or the one that they are."""
    values = list(values)
    return "–".join(dict.fromkeys(decimals(value, digits) for value in (min(values), max(values))))


def slashed(values: Iterable[float], digits: int) -> str:
    """Every figure, with slashes between them."""
    return "/".join(decimals(value, digits) for value in values)


def word(number: int) -> str:
    """A number as a word where that is short."""
    return WORDS[number] if number < len(WORDS) else f"{number:,}"


def titles(methods: Iterable[str]) -> str:
    """Methods in a sentence, by the names that their authors gave them."""
    names = [TITLES.get(method, f"`{method}`") for method in methods]
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def ensure(words: str, condition: object) -> str:
    """The words, if the records support them."""
    if not condition:
        raise UserError(f"the records do not support: {' '.join(words.split())}")
    return words


def render(template: Path, boards: Path, record: Path) -> str:
    """The text of the document; UserError with the line of the template for what the records do not give."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(template.parent), undefined=jinja2.StrictUndefined, trim_blocks=True,
        lstrip_blocks=True, keep_trailing_newline=True, extensions=["jinja2.ext.do"],
    )  # fmt: skip
    environment.filters |= {
        "f": decimals, "s": signed, "span": span, "each": slashed, "mean": statistics.mean, "word": word,
        "titles": titles, "ensure": ensure,
    }  # fmt: skip
    environment.globals |= {
        "board": functools.cache(lambda name: Record(boards / name / "results.jsonl")),
        "trials": lambda name, method, forget: [
            trial for trial in read_rows(boards / name / "tuning.jsonl").values()
            if (trial["method"], trial["forget"]) == (method, forget)
        ],
        "rows": functools.cache(lambda path: list(read_rows(Path(path)).values())),
        "runs": lambda name: [row for row in read_rows(record).values() if row["name"] == name],
        "robustness": robustness.summary, "sequential": lambda rows: sequential.summary(rows).partition("\n\n")[0],
    }  # fmt: skip
    try:
        return wrapped(environment.get_template(template.name).render())
    except (UserError, jinja2.TemplateError, ArithmeticError, LookupError, TypeError, ValueError) as error:
        frames = traceback.extract_tb(error.__traceback__)
        places = [frame.lineno for frame in frames if frame.filename == str(template)]
        line = getattr(error, "lineno", None) or (places[-1] if places else "?")
        raise UserError(f"{template}, line {line}: {error}") from None


def wrapped(text: str) -> str:
    """Paragraphs and items of lists filled to `WIDTH`; code, tables and headings as they are."""
    lines, paragraph, fenced = [], [], False

    def close() -> None:
        if paragraph:
            indent = "  " if paragraph[0].startswith("- ") else ""
            lines.extend(textwrap.wrap(" ".join(part.strip() for part in paragraph), WIDTH, subsequent_indent=indent,
                                       break_long_words=False, break_on_hyphens=False))  # fmt: skip
            paragraph.clear()

    for line in text.splitlines():
        fence = line.startswith("```")
        if fence or fenced or not line.strip() or line.startswith("#") or re.search(r"\| |-\|-", line):
            close()
            lines.append(line)
        else:
            if line.startswith("- "):
                close()
            paragraph.append(line)
        fenced ^= fence
    close()
    return "\n".join(lines) + "\n"


def add_runs(args: Args) -> list[dict]:
    """Append finished runs to the record; UserError, before any is added, for a folder without a report."""
    if not args.name:
        raise UserError("--add: give the runs a --name, by which the template finds them")
    known, rows = read_rows(Path(args.record)), []
    for folder in map(Path, args.add):
        check_file("add", folder / "report.json")
        report = json.loads((folder / "report.json").read_text())
        if "run" not in report:
            raise UserError(f"--add {folder}: it is no run of unlearning; its report holds the other models' figures")
        rows.append(row_of(args.name, report, load_config(folder / "config.yaml")))
    for row in rows:
        if row["key"] not in known:
            append_row(Path(args.record), row)
    print(f"{args.record}: {sum(row['key'] not in known for row in rows)} of {len(rows)} runs were new")
    return rows


def row_of(name: str, report: dict, config: dict) -> dict:
    """What the record keeps of a run: command, code, figures of all models, verdict, costs and environment."""
    run = report["run"]
    row = {
        "name": name, "run": run["name"], "command": command_of(run["script"], config), "seed": run["seed"],
        "method": run["method"], "forget": report["forget"]["request"], "code": code_words(run["code"]),
        "models": report["models"], "verdict": report["verdict"], "cost": report["cost"],
        **{name: report[name] for name in ("avg_gap", "held_out_discriminator_auc") if name in report},
        "environment": {each: run[each] for each in ("python", "torch", "device", "cpu", "cpu_threads", "precision")},
    }  # fmt: skip
    return {"key": key_of({"name": name, "run": run["name"], "created": report["created"]}), **short(row)}


def command_of(script: str, config: dict) -> str:
    """The command line of a run: the flags that are not the script's own; of paths, the last three parts."""
    parser = import_module(Path(script).stem).get_parser()
    defaults = vars(parser.parse(["--method", config["method"]] if "method" in config else []))
    defaults.pop("method", None)
    flags = {flag: value for flag, value in config.items() if value != defaults.get(flag) and flag != "log_dir"}
    for flag in PLACES & set(flags):
        paths = ["/".join(Path(str(value)).parts[-3:]) for value in _listed(flags[flag])]
        flags[flag] = paths if isinstance(flags[flag], list) else paths[0]
    return shlex.join(["python", script, *command_line(flags)])


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
