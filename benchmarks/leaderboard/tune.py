"""Tune every method with equally many trials, on validation images: no test image, no retrained model.

    python -m benchmarks.leaderboard.tune --config_file configs/leaderboard/digits_tuning.yaml

The best flags of a method on a kind of forget set become TUNED/KIND/METHOD.yaml; every trial is a line of the record.
The objective, subject to the retain budget: for random sets |forget accuracy - unseen accuracy|, for classes the
forget accuracy, for mislabelled sets the accuracy on the given wrong labels. Trials of the record are not run again.
"""

import dataclasses
import math
import sys
import tempfile
from pathlib import Path

import optuna
import yaml
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where this file is run by its path

import train_constrained_unlearning as script
from benchmarks.leaderboard.cells import VARIANTS, applies, data_flags, kind_of
from benchmarks.leaderboard.trained_models import Training, cache_of, train_originals
from benchmarks.sweeps.sweep import EngineArgs, append_row, command_line, engine_of, read_rows
from helper_functions.config import NonNegativeFloat, PositiveInt, ScriptParser, Seed, run_script
from helper_functions.errors import NotFinite, UserError
from helper_functions.files import key_of, write_bytes
from helper_functions.run_folder import run_quietly
from unlearning.arguments import FINETUNE_EPOCHS, FINETUNE_RATE, MethodArgs
from unlearning.experiment import TARGETS
from unlearning.methods import METHODS, defaults_of, get_method
from unlearning.methods.method import RETAIN_EPOCHS, Log, Search, Span
from unlearning.methods.own import check_labels, fingerprint, is_own, label_of, stem_of

VALIDATION_WEIGHT = 0.01  # objective per point of validation accuracy: decides between equally good trials
OVER_BUDGET = 200.0  # least objective of a trial over the budget; larger than any within it
FAR_OVER_BUDGET = 100.0  # excess of a trial whose figures became NaN or infinite


@dataclasses.dataclass(frozen=True)
class Space:
    """Flags of a row that are fixed, and those that are searched, by name."""

    fixed: dict[str, object]
    searched: Search

    def distributions(self, most_retain_epochs: int) -> dict[str, BaseDistribution]:
        """Optuna's distributions, with at most so many passes over the retain set."""
        found = {name: _distribution(values) for name, values in self.searched.items()}
        low, high = (min(bound, most_retain_epochs) for bound in RETAIN_EPOCHS)
        capped = [name for name, values in self.searched.items() if values is RETAIN_EPOCHS]
        return found | {name: IntDistribution(low, high) for name in capped}


def _distribution(values: Span | tuple[object, ...]) -> BaseDistribution:
    if not isinstance(values, Span):
        return CategoricalDistribution(values)
    whole = isinstance(values.low, int) and isinstance(values.high, int)
    return IntDistribution(*values) if whole else FloatDistribution(*values, log=isinstance(values, Log))


# A discriminator's own criterion ends at an AUC of 0.55; the epoch nearest to unseen images often comes later.
SPACES: dict[str, Space] = {
    name: Space({"method": name} | ({"stop_criterion": "none"} if method.discriminates else {}), method.search)
    for name, method in METHODS.items() if method.search
}  # fmt: skip
SPACES |= {row: Space(fixed, METHODS[fixed["method"]].search) for row, fixed in VARIANTS.items()}


def space_of(method: str) -> Space:
    """What is searched of a row of `SPACES`, or of the user's own `FILE.py:METHOD`; UserError if nothing is."""
    if not is_own(method):
        if method not in SPACES:
            raise UserError(f"--methods {method}: one of {', '.join(SPACES)}, or FILE.py:METHOD")
        return SPACES[method]
    if not (searched := get_method(method).search):
        raise UserError(f"--methods {method}: it has nothing to tune; state search= in its file (CONTRIBUTING.md)")
    return Space({"method": method}, searched)


def start(space: Space, distributions: dict[str, BaseDistribution]) -> dict[str, object]:
    """The method's own defaults, moved into the bounds where they lie outside: the first trial of every search."""
    ours = MethodArgs(finetune_num_epochs=FINETUNE_EPOCHS, finetune_learning_rate=FINETUNE_RATE)
    own = vars(ours) | defaults_of(space.fixed["method"])
    return {name: _nearest(own[name], distribution) for name, distribution in distributions.items()}


def _nearest(value: object, distribution: BaseDistribution) -> object:
    if isinstance(distribution, CategoricalDistribution):
        choices = distribution.choices
        return value if value in choices else min(choices, key=lambda choice: abs(choice - value))
    return min(max(value, distribution.low), distribution.high)


def rounded(values: dict[str, object], distributions: dict[str, BaseDistribution]) -> dict[str, object]:
    """Drawn real values to two digits, so that a file can hold them as they were tried."""
    drawn = {name for name, distribution in distributions.items() if isinstance(distribution, FloatDistribution)}
    return {name: float(f"{value:.2g}") if name in drawn else value for name, value in values.items()}


@dataclasses.dataclass
class Args(EngineArgs):
    """Flags of benchmarks/leaderboard/tune.py."""

    methods: list[str] = dataclasses.field(default_factory=lambda: list(SPACES))
    """Methods that are tuned, scrub_r, and FILE.py:METHOD of your own."""
    forget: list[str] = dataclasses.field(default_factory=lambda: ["random:0.1"])
    """One forget set of each kind."""
    trials: PositiveInt = 30
    """Trials for each method and forget set; the first one has the method's defaults."""
    seed: Seed = 100
    """Seed of splits, original and search; choose one that the leaderboard does not report."""
    most_retain_epochs: PositiveInt = 10
    """Upper limit of passes over the retain set, for every method."""
    train_config: str = "configs/digits/train.yaml"
    """Flags of train.py, for the original."""
    retain_budget: NonNegativeFloat = 2.0
    """Accuracy points on the retain set that unlearning may cost."""
    tuned: str = "configs/digits"
    """Folder in which KIND/METHOD.yaml is written."""
    record: str = "docs/leaderboard/digits/tuning.jsonl"
    """JSON lines, one a trial; recorded trials are not run again."""
    log_dir: str = "runs/leaderboard"
    """Folder of the originals."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.leaderboard.tune", __doc__)


def main(args: Args) -> dict:
    """Run the missing trials, write the best flags; returns the best trial of each method and forget set."""
    check_labels(args.methods)
    for method in args.methods:
        space_of(method)
    training = Training(args.train_config, f"{args.log_dir}/models")
    labels = data_flags(args.train_config).get("labels")
    places = [{**dataclasses.asdict(training), "forget": forget, "seed": args.seed} for forget in args.forget]
    best = {}
    with engine_of(args, args.log_dir) as run_all:
        train_originals(places, run_all)
        originals = {forget: training.original(forget, args.seed) for forget in args.forget}
        searches = [
            # The key by which an original is found stands in its name.
            {"method": method, "forget": forget, "original": str(original), "trained": original.name.split("-")[1],
             "args": dataclasses.asdict(args)}
            for forget, original in originals.items() for method in args.methods
            if applies(method, kind_of(forget, labels))
        ]  # fmt: skip
        for search, trials, error in run_all(run_search, searches, title="searches"):
            if error is not None:
                raise UserError(f"{search['method']} on {search['forget']}: {error}")
            winner = min(trials, key=lambda trial: trial["value"])
            best[f"{search['method']} {search['forget']}"] = winner
            write_best(args, search["method"], search["forget"], kind_of(search["forget"], labels), winner, len(trials))
            what = f"{label_of(search['method']):20s} {search['forget']:16s}"
            print(f"{what} {winner['value']:8.3f}  {winner['flags']}", flush=True)
    return {"best": best}


def run_search(search: dict) -> list[dict]:
    """All trials of one method on one forget set, in order; recorded ones are not run again."""
    args = Args(**search["args"])
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    space, trials, study = space_of(search["method"]), [], optuna.create_study()
    distributions = space.distributions(args.most_retain_epochs)
    study.enqueue_trial(start(space, distributions))
    known, fixed = read_rows(Path(args.record)), data_flags(args.train_config)
    fixed |= {**space.fixed, "retain_budget": args.retain_budget, "forget": search["forget"], "seed": args.seed}
    for number in range(args.trials):
        # A draw depends on its number and on the earlier trials alone, whether these were run or read.
        study.sampler = optuna.samplers.TPESampler(n_startup_trials=args.trials // 3, seed=args.seed * 1000 + number)
        trial = study.ask(distributions)
        values = rounded(trial.params, distributions)
        what = {"method": fingerprint(fixed["method"]), "row": label_of(search["method"])}
        key = key_of({**fixed, **values, **what, "number": number, "trained": search["trained"]})
        if key not in known:
            row = {"key": key, "method": what["row"], "forget": search["forget"], "number": number}
            known[key] = {**row, "flags": values, **run_trial(search["original"], {**fixed, **values}, key)}
            append_row(Path(args.record), known[key])
        trials.append(known[key])
        study.tell(trial, trials[-1]["value"])
    return trials


def run_trial(original: str, flags: dict, key: str) -> dict:
    """Unlearn once with these flags; returns the objective as `value`, and the figures behind it."""
    with tempfile.TemporaryDirectory() as folder:
        own = {"weight_path": f"{original}/model.pt", "judge": "validation", "figures": False, "log_dir": folder}
        try:
            _, report = run_quietly(script, command_line({**cache_of(original), **flags, **own}), key)
        except NotFinite:  # worse than any trial with finite figures
            figures = {"figures": {}, "seconds": None, "gradient_steps": None}
            return {"value": OVER_BUDGET + FAR_OVER_BUDGET, "feasible": False, "slack": None, **figures}
    figures, verdict, cost = report["models"]["unlearned"], report["verdict"], report["cost"]["unlearned"]
    shown = {name: figures[name] for name in ("retain_top1", "forget_top1", "unseen_top1", "validation_top1")}
    value = objective(figures, verdict, kind_of(flags["forget"], flags.get("labels")))
    return {
        "value": value, "feasible": verdict["feasible"], "slack": verdict["slack"], "figures": shown,
        "seconds": cost["seconds"], "gradient_steps": cost["gradient_steps"],
    }  # fmt: skip


def objective(figures: dict, verdict: dict, kind: str) -> float:
    """What a search minimises; over the budget it grows with the excess, which leads the search back."""
    if not verdict["feasible"]:
        overdrawn = -verdict["slack"]
        return OVER_BUDGET + (overdrawn if math.isfinite(overdrawn) else FAR_OVER_BUDGET)
    unseen = figures["unseen_top1"] if TARGETS.get(kind, "unseen") == "unseen" else 0.0
    return abs(figures["forget_top1"] - unseen) + VALIDATION_WEIGHT * (100 - figures["validation_top1"])


def write_best(args: Args, method: str, forget: str, kind: str, winner: dict, trials: int) -> None:
    """Write the flags of the best trial as a configuration of the main script."""
    path = Path(args.tuned) / kind / f"{stem_of(method)}.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    state = "within" if winner["feasible"] else "beyond, as all of them,"
    about = f"Best of {trials} trials on {forget}, seed {args.seed}: {winner['value']:.3g}, {state} a budget of"
    flags = yaml.safe_dump({**space_of(method).fixed, **winner["flags"]}, sort_keys=False)
    write_bytes(path, f"# {about} {args.retain_budget:g}.\n{flags}".encode())


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main, goes_on=True))
