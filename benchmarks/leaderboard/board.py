"""Methods x forget sets x seeds, each cell through the main script's main; a table, a CSV file and a page of figures.

    python -m benchmarks.leaderboard --config_file configs/leaderboard/digits.yaml
    python -m benchmarks.leaderboard --config_file configs/leaderboard/cifar100_cpu.yaml --methods constrained scrub
    python -m benchmarks.leaderboard --config_file configs/leaderboard/cifar100_gpu.yaml --engine ray --address auto

Results are keyed by the hash of each cell's configuration: a stopped sweep goes on where it was.
"""

import dataclasses
import shlex
from pathlib import Path

from benchmarks.leaderboard.cells import Cell, data_flags, method_flags, run_cell
from benchmarks.leaderboard.further_figures import FurtherArgs, asked_of
from benchmarks.leaderboard.memorisation import resolve
from benchmarks.leaderboard.pages import write_pages
from benchmarks.leaderboard.trained_models import Training, train_originals
from benchmarks.sweeps.engines import EngineArgs, RunAll, engine_of
from benchmarks.sweeps.sweep import append_row, command_line, read_rows
from evaluation.checkpoints import check_shadow_models
from helper_functions.config import NonNegativeFloat, PositiveInt, ScriptParser, Seed
from helper_functions.errors import UserError
from helper_functions.files import load_config
from helper_functions.run_lock import RunLock

PRESETS = Path("configs/leaderboard")
# Where and how a sweep is run, not what it finds.
ELSEWHERE = ("log_dir", "pages_only", *(field.name for field in dataclasses.fields(EngineArgs)))


@dataclasses.dataclass
class Args(EngineArgs, FurtherArgs):
    """Flags of benchmarks/leaderboard/board.py."""

    methods: list[str] = dataclasses.field(default_factory=lambda: ["constrained", "scrub", "finetune"])
    """Rows. NAME has the flags of TUNED/KIND/NAME.yaml, KIND that of the forget set; without such a file it is the
    method of that name with its own defaults."""
    forget: list[str] = dataclasses.field(default_factory=lambda: ["random:0.1"])
    """Forget sets, as --forget of the scripts names them, or memorised:low, memorised:middle, memorised:high."""
    seeds: list[Seed] = dataclasses.field(default_factory=lambda: [0])
    """Each has splits, an original and retrained models of its own."""
    retrained_models: PositiveInt = 1
    """Retrained models beside each original; two or more give a band."""
    retrained_seed_step: PositiveInt = 1000
    """Between the seeds of a retrained model and the next one of the same original."""
    train_config: str = "configs/digits/train.yaml"
    """Flags of train.py, for originals and retrained models."""
    tuned: str | None = None
    """Folder of tuned flags, which benchmarks/leaderboard/tune.py fills."""
    retain_budget: NonNegativeFloat = 2.0
    """Accuracy points on the retain set that forgetting may cost."""
    log_interval: PositiveInt = 10
    """Steps between two points of the traces."""
    title: str = "Leaderboard"
    """Of the pages."""
    top5: bool = False
    """On the pages, top-5 accuracy beside top-1."""
    output: str = "runs/leaderboard"
    """Folder of results.jsonl, leaderboard.csv, leaderboard.md and leaderboard.html."""
    log_dir: str = "runs/leaderboard"
    """Where models and runs are kept; the weights of finished cells are not."""
    pages_only: bool = False
    """Run nothing; write the pages anew from results.jsonl."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.leaderboard", __doc__)


def main(args: Args) -> dict:
    """Train what is missing, run what is missing, write the pages; returns their rows."""
    results = Path(args.output) / "results.jsonl"
    rows = read_rows(results)
    failed = []
    if not args.pages_only:
        with engine_of(args, args.log_dir) as run_all:
            failed = run_missing(args, rows, results, run_all)
    if not rows:
        raise UserError(f"{results}: no finished cell; {failed[0] if failed else 'run some first'}")
    # Of two rows for one place the later one counts: its flags have been tuned anew.
    latest = {(row["method"], row["forget"], row["seed"]): row for row in rows.values()}
    write_pages(list(latest.values()), Path(args.output), args.title, command(args), top5=args.top5)
    print(f"{len(latest)} cells in {results}, leaderboard.csv, leaderboard.md and leaderboard.html beside it")
    if failed:
        raise UserError(f"{len(failed)} cells could not be run, the first of them {failed[0]}")
    return {"rows": list(latest.values())}


def run_missing(args: Args, rows: dict[str, dict], results: Path, run_all: RunAll) -> list[str]:
    """Train the models and run the cells that are not among the rows yet, which gain them; says which failed.

    Raises:
        UserError: an unknown method, models that cannot be trained, or another process at work on the same results.
    """
    flags = data_flags(args.train_config)
    for kind in {forget.partition(":")[0] for forget in args.forget}:
        for method in args.methods:  # a name that does not exist is an error before any work
            method_flags(args.tuned, kind, method)
    check_shadow_models(args.shadow_models)
    results.parent.mkdir(parents=True, exist_ok=True)
    with RunLock(results.parent, f"--output {args.output}"):
        rows |= read_rows(results)  # another process may just have come to its end
        cells = _cells(args, flags, run_all)
        return _run_cells([cell for cell in cells if cell.key not in rows], rows, results, run_all)


def _cells(args: Args, flags: dict, run_all: RunAll) -> list[Cell]:
    """All cells; the models that they need are trained now where they are missing."""
    places = [{"forget": forget, "seed": seed, **_training(args)} for forget in args.forget for seed in args.seeds]
    train_originals(places, run_all)
    cells = []
    for place, models, error in run_all(train_models, places, title="retrained models"):
        if error is not None:
            raise error
        cells += [_cell(args, flags, method, place, models) for method in args.methods]
    return cells


def _run_cells(cells: list[Cell], rows: dict[str, dict], results: Path, run_all: RunAll) -> list[str]:
    failed, missing = [], {cell.key: dataclasses.asdict(cell) for cell in cells}
    for cell, row, error in run_all(run_cell, missing.values(), title="cells"):
        where = f"{cell['method']:20s} {cell['forget']:20s} seed {cell['seed']}"
        if error is not None:
            failed.append(f"{' '.join(where.split())}: {error}")
            continue
        rows[row["key"]] = row
        append_row(results, row)
        print(f"{where}  {row['verdict']['slack']:+6.2f} points left  {row['cost']['seconds']:8.1f} s", flush=True)
    return failed


def _training(args: Args) -> dict:
    return {
        "config_file": args.train_config, "log_dir": f"{args.log_dir}/models",
        "retrained_seeds": [number * args.retrained_seed_step for number in range(args.retrained_models)],
    }  # fmt: skip


def train_models(place: dict) -> dict:
    """The original and the retrained models of one forget set and seed: folders, and the request that they know."""
    training = Training(place["config_file"], place["log_dir"])
    forget = resolve(place["forget"], training, place["seed"])
    retrained = [training.retrained(forget, place["seed"], step) for step in place["retrained_seeds"]]
    original = training.original(forget, place["seed"])
    return {"forget": forget, "original": str(original), "retrained": tuple(map(str, retrained))}


def _cell(args: Args, flags: dict, method: str, place: dict, models: dict) -> Cell:
    own = method_flags(args.tuned, place["forget"].partition(":")[0], method)
    asked = {"forget": models["forget"], "seed": place["seed"], "retain_budget": args.retain_budget}
    return Cell(
        method, place["forget"], place["seed"], {**flags, **own, **asked}, models["original"], models["retrained"],
        f"{args.log_dir}/cells", args.log_interval, asked_of(args),
    )  # fmt: skip


def command(args: Args) -> str:
    """The shortest command line that gives these pages: a preset and what differs from it, or flags alone."""
    starts = [[]]
    for path in sorted(PRESETS.glob("*.yaml")):
        if set(load_config(path)) <= set(vars(args)):
            starts.append(["--config_file", str(path)])
    asked, found = _deciding(args), []
    for start in starts:
        own = _deciding(get_parser().parse(start))
        found.append([*start, *command_line({name: value for name, value in asked.items() if value != own[name]})])
    return shlex.join(["python", "-m", "benchmarks.leaderboard", *min(found, key=len)])


def _deciding(args: Args) -> dict:
    """The flags without those that change nothing on the pages."""
    return {name: value for name, value in dataclasses.asdict(args).items() if name not in ELSEWHERE}


