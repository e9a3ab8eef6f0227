"""Compare methods x forget sets x seeds: each cell is a run of the main script; a table, a CSV file and a page.

    python -m benchmarks.leaderboard --config_file configs/leaderboard/digits.yaml
    python -m benchmarks.leaderboard --config_file configs/leaderboard/cifar100_cpu.yaml --methods constrained scrub
    python -m benchmarks.leaderboard --config_file configs/leaderboard/cifar100_gpu.yaml --engine ray --address auto
    python -m benchmarks.leaderboard --check    # list rows that are older than their code, of every board in configs/

Finished cells are found by the hash of their configuration and are skipped. With --check nothing is run, and the exit
status is 3 where a row is listed; --config_file or --output names one board.
"""

import dataclasses
import re
import shlex
from pathlib import Path

from benchmarks.leaderboard.cells import (
    Cell,
    append_cell,
    applies,
    data_flags,
    is_tuned,
    kind_of,
    method_flags,
    read_cells,
    run_cell,
)
from benchmarks.leaderboard.pages import write_pages
from benchmarks.leaderboard.trained_models import Training, resolve, train_originals
from benchmarks.leaderboard.versions import older_rows
from benchmarks.sweeps.sweep import EngineArgs, RunAll, command_line, engine_of, results_of
from evaluation.checkpoints import FurtherArgs, check_shadow_models
from helper_functions.config import NonNegativeFloat, PositiveInt, ScriptParser, Seed
from helper_functions.errors import UserError
from helper_functions.files import load_config
from helper_functions.run_lock import RunLock
from unlearning.methods.own import check_labels, label_of

PRESETS = Path("configs/leaderboard")
# Flags that do not change the results.
ELSEWHERE = ("log_dir", "pages_only", "check", *(field.name for field in dataclasses.fields(EngineArgs)))


@dataclasses.dataclass
class Args(EngineArgs, FurtherArgs):
    """Flags of benchmarks/leaderboard/board.py."""

    methods: list[str] = dataclasses.field(default_factory=lambda: ["constrained", "scrub", "finetune"])
    """Rows. NAME takes the flags of TUNED/KIND/NAME.yaml, where KIND is that of the forget set; without such a file it
    is the method of that name with its defaults; FILE.py:METHOD is your own."""
    forget: list[str] = dataclasses.field(default_factory=lambda: ["random:0.1"])
    """Forget sets as --forget of the scripts names them, or memorised:low, memorised:middle, memorised:high; each may
    end with seeds of its own, as in class:rocket@0 or random:0.1@0,1."""
    seeds: list[Seed] = dataclasses.field(default_factory=lambda: [0])
    """Of the forget sets without their own; each has its own splits, original and retrained models."""
    retrained_models: PositiveInt = 1
    """Retrained models for each original; a noise floor needs two."""
    retrained_seed_step: PositiveInt = 1000
    """Difference of the seeds of two retrained models of the same original."""
    train_config: str = "configs/digits/train.yaml"
    """Flags of train.py, for originals and retrained models."""
    tuned: str | None = None
    """Folder of tuned flags, written by benchmarks.leaderboard.tune."""
    retain_budget: NonNegativeFloat = 2.0
    """Accuracy points on the retain set that unlearning may cost."""
    log_interval: PositiveInt = 10
    """Steps between two lines of a run's metrics.jsonl."""
    title: str = "Leaderboard"
    """Title of the pages."""
    top5: bool = False
    """Show top-5 accuracy beside top-1 on the pages."""
    output: str = "runs/leaderboard"
    """Folder of results.jsonl, references.jsonl, leaderboard.csv, leaderboard.md and leaderboard.html."""
    log_dir: str = "runs/leaderboard"
    """Folder of models and runs; weights of finished cells are removed."""
    pages_only: bool = False
    """Run nothing; rewrite the pages from results.jsonl."""
    check: bool = False
    """Run nothing; list the rows that are older than the code of their methods, or whose version is not known."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.leaderboard", __doc__)


def main(args: Args) -> dict:
    """Train missing models, run missing cells, write the pages; returns the cells as `rows`."""
    if args.check:
        return check(args)
    results = Path(args.output) / "results.jsonl"
    rows = read_cells(results)
    failed = []
    if not args.pages_only:
        with engine_of(args, args.log_dir) as run_all:
            failed = run_missing(args, rows, results, run_all)
    if not rows:
        raise UserError(f"{results}: no finished cell; {failed[0] if failed else 'run some first'}")
    current = latest(rows)
    shown = [{**row, "tuned": is_tuned(args.tuned, row)} for row in current]
    write_pages(shown, Path(args.output), args.title, command(args), top5=args.top5)
    print(f"{len(current)} cells in {results}, leaderboard.csv, leaderboard.md and leaderboard.html beside it")
    if failed:
        raise UserError(f"{len(failed)} cells could not be run, the first of them {failed[0]}")
    return {"rows": current}


def latest(rows: dict[str, dict]) -> list[dict]:
    """The rows without those that a later one for the same place replaces: it has newer flags."""
    return list({(row["method"], row["forget"], row["seed"]): row for row in rows.values()}.values())


def check(args: Args) -> dict:
    """Print the rows that are older than their code; `holds` is whether there are none."""
    folders = [args.output]
    if args.output == Args.output:
        folders = dict.fromkeys(preset["output"] for preset in presets().values())
    paths = (Path(folder) / "results.jsonl" for folder in folders)
    records = {path: rows for path in paths if (rows := latest(read_cells(path)))}
    if not records:
        raise UserError(f"--check: no finished cell in {', '.join(folders)}; run some first")
    lines = [f"{path.parent}: {line}" for path, rows in records.items() for line in older_rows(rows)]
    print("\n".join(lines) or f"no row of {sum(map(len, records.values()))} is older than its code")
    return {"holds": not lines}


def presets() -> dict[str, dict]:
    """The boards in configs/leaderboard, by path."""
    found = {str(path): load_config(path) for path in sorted(PRESETS.glob("*.yaml"))}
    flags = {field.name for field in dataclasses.fields(Args)}
    return {path: preset for path, preset in found.items() if set(preset) <= flags}


def run_missing(args: Args, rows: dict[str, dict], results: Path, run_all: RunAll) -> list[str]:
    """Train the models and run the cells that are not among the rows, and add them; returns a line for each failure."""
    flags = data_flags(args.train_config)
    check_labels(args.methods)
    for kind in {kind_of(forget, flags.get("labels")) for forget, _ in seeds_of(args)}:
        for method in args.methods:  # an unknown name is an error before any work
            method_flags(args.tuned, kind, method)
    check_shadow_models(args.shadow_models)
    results.parent.mkdir(parents=True, exist_ok=True)
    failed = []
    with RunLock(results.parent, f"--output {args.output}"):
        rows |= read_cells(results)  # another process may have finished in the meantime
        missing = {cell.key: dataclasses.asdict(cell) for cell in _cells(args, flags, run_all) if cell.key not in rows}
        for cell, row, error in run_all(run_cell, missing.values(), title="cells"):
            where = f"{cell['method']:20s} {cell['forget']:20s} seed {cell['seed']}"
            if error is not None:
                failed.append(f"{' '.join(where.split())}: {error}")
                continue
            rows[row["key"]] = row
            append_cell(results, row)
            print(f"{where}  {row['verdict']['slack']:+6.2f} points left  {row['cost']['seconds']:8.1f} s", flush=True)
    return failed


def _cells(args: Args, flags: dict, run_all: RunAll) -> list[Cell]:
    """All cells, after training the models that they need and that are missing."""
    steps = [number * args.retrained_seed_step for number in range(args.retrained_models)]
    training = {"config_file": args.train_config, "log_dir": f"{args.log_dir}/models", "retrained_seeds": steps}
    places = [{"forget": forget, "seed": seed, **training} for forget, seed in seeds_of(args)]
    train_originals(places, run_all)
    further = {field.name: getattr(args, field.name) for field in dataclasses.fields(FurtherArgs)}
    further, cells = {name: value for name, value in further.items() if value}, []
    for place, found in results_of(run_all(train_models, places, title="retrained models")):
        (resolved, *models), forget, seed = found, place["forget"], place["seed"]
        asked = {"forget": resolved, "seed": seed, "retain_budget": args.retain_budget}
        kind = kind_of(forget, flags.get("labels"))
        for method in (each for each in args.methods if applies(each, kind)):
            own = {**flags, **method_flags(args.tuned, kind, method), **asked}
            where = label_of(method), forget, seed
            cells.append(Cell(*where, own, *models, f"{args.log_dir}/cells", args.log_interval, further))
    return cells


def seeds_of(args: Args) -> list[tuple[str, int]]:
    """Forget sets, each with each of its seeds."""
    found = []
    for request in args.forget:
        forget, own = re.fullmatch(r"(.*?)(?:@(\d+(?:,\d+)*))?", request).groups()
        if "@" in forget and not forget.startswith("file:"):
            raise UserError(f"--forget {request}: after @ stand seeds, as in class:3@0 or random:0.1@0,1")
        found += [(forget, seed) for seed in (map(int, own.split(",")) if own else args.seeds)]
    return list(dict.fromkeys(found))


def train_models(place: dict) -> tuple[str, str, tuple[str, ...]]:
    """The resolved forget set of a place, and the folders of its original and of its retrained models."""
    training, seed = Training(place["config_file"], place["log_dir"]), place["seed"]
    forget = resolve(place["forget"], training, seed)
    retrained = tuple(str(training.retrained(forget, seed, step)) for step in place["retrained_seeds"])
    return forget, str(training.original(forget, seed)), retrained


def command(args: Args) -> str:
    """The shortest command line for these pages: a preset with the flags that differ from it, or flags alone."""

    def deciding(args: Args) -> dict:
        return {name: value for name, value in dataclasses.asdict(args).items() if name not in ELSEWHERE}

    found = []
    for start in ([], *(["--config_file", path] for path in presets())):
        own = deciding(get_parser().parse(start))
        differing = {name: value for name, value in deciding(args).items() if value != own[name]}
        found.append([*start, *command_line(differing)])
    return shlex.join(["python", "-m", "benchmarks.leaderboard", *min(found, key=len)])
