"""Ten deletion requests in a row against one request for all of their images, and against retraining.

    python -m benchmarks.sweeps.sequential
    python -m benchmarks.sweeps.sequential --summary True

Each request is a run of train_constrained_unlearning.py that continues the one before (--previous_run), within one
budget for all; a request for which no budget is left is refused, and ends the chain. Images that a request did not
forget join the next one. After each, accuracy is measured against the first original on what is still retained, and on
the images of every request so far. A finished chain is a line of --output and is skipped.
"""

import dataclasses
import statistics
import sys
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where this file is run by its path

import train_constrained_unlearning as script
from benchmarks.leaderboard.cells import data_flags, short
from benchmarks.leaderboard.summary import grouped
from benchmarks.leaderboard.trained_models import Measurement, Training
from benchmarks.sweeps.sweep import append_all, command_line, read_rows, run_all
from data.random_streams import random_state
from data.split_record import Splits
from helper_functions.code_version import code_words
from helper_functions.config import PositiveInt, ScriptParser, run_script
from helper_functions.errors import UserError
from helper_functions.files import key_of, whole_file
from helper_functions.run_folder import run_quietly

# Random training images, without which retraining itself falls by up to 1.1 points; or wrong labels, a share of them a
# request. A wrong label is retained until it is reported, and forgetting the first ones corrects some of the others:
# that costs accuracy on given labels. `axis`: label and least value of the figure's accuracies.
SETTINGS = {
    "random": {
        "forget": "", "forget_target": "unseen", "retain_budget": 2.0,
        "title": "14 random images a request", "axis": ("accuracy, %", 85),
    },
    "mislabelled": {
        "forget": "mislabelled:0.1", "forget_target": "chance", "retain_budget": 3.0,
        "title": "a tenth of the wrong labels a request", "axis": ("accuracy on the given labels, %", -3),
    },
}  # fmt: skip
SEQUENCE, AT_ONCE, RETRAINED, HELD_OUT = "#2e4057", "#d1495b", "#66a182", "#8d96a3"


@dataclasses.dataclass
class Args:
    """Flags of benchmarks/sweeps/sequential.py."""

    output: str = "docs/sequential_digits.jsonl"
    """JSON lines, one a chain of requests; finished chains are skipped."""
    figure: str = "docs/sequential_digits.png"
    """The PNG; a file of this name is replaced."""
    config_file_of_runs: str = "configs/digits/train.yaml"
    """Flags of train.py, for the originals and the retrained models."""
    requests: PositiveInt = 10
    """Requests in a row."""
    images: PositiveInt = 14
    """Images of each request; wrong labels are divided evenly instead."""
    seeds: PositiveInt = 6
    """Originals, each with its own splits and requests."""
    log_dir: str = "runs/sequential"
    """Folder of originals, retrained models and runs."""
    workers: PositiveInt = 2
    """Processes of one thread each; 1 is a single one with all threads."""
    summary: bool = False
    """Only print and draw the chains in --output."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.sweeps.sequential", __doc__)


def main(args: Args) -> dict:
    """Run the missing chains, print the table, draw the figure; returns the chains."""
    finished = read_rows(Path(args.output))
    if not args.summary:
        shared = {name: getattr(args, name) for name in ("requests", "images", "config_file_of_runs")}
        chains = [{"setting": name, "seed": seed, **shared} for name in SETTINGS for seed in range(args.seeds)]
        missing = [{**chain, "log_dir": args.log_dir} for chain in chains if key_of(chain) not in finished]
        append_all(Path(args.output), finished, run_all(run_chain, missing, args.workers, "chains"))
    rows = sorted(finished.values(), key=lambda row: (list(SETTINGS).index(row["setting"]), row["seed"]))
    print(summary(rows))
    if rows:
        draw(Path(args.figure), rows)
    return {"chains": rows}


def run_chain(chain: dict) -> dict:
    """All requests of one original in a row, then all of them at once, and a model retrained without them; the row."""
    asked, folder = SETTINGS[chain["setting"]], Path(chain["log_dir"])
    training = Training(chain["config_file_of_runs"], chain["log_dir"])
    original = training.original(asked["forget"], chain["seed"])
    flags = {name: asked[name] for name in ("forget_target", "retain_budget")} | data_flags(training.config_file)
    flags |= {name: chain[name] for name in ("seed", "log_dir")}
    flags |= {"judge": "validation", "figures": False}
    measure = Measurement(training, original, chain["seed"])
    requests = draw_requests(measure.splits, chain["seed"], chain["requests"], chain["images"])

    def run(name: str, images: Tensor, **further: object) -> tuple[Path, dict]:
        (folder / f"{name}.txt").write_text("\n".join(map(str, images.sort().values.tolist())) + "\n")
        return run_quietly(script, command_line({**flags, "forget": f"file:{folder / name}.txt", **further}), name)

    name = f"{chain['setting']}-{chain['seed']}"
    row = {key: value for key, value in chain.items() if key != "log_dir"}
    row = {"key": key_of(row), **row, "retain_budget": asked["retain_budget"]}
    row |= {"original": measure(original, requests), "requests_run": []}
    start = {"weight_path": original / "model.pt"}
    for number, images in enumerate(requests, start=1):
        try:
            last, report = run(f"{name}-{number}", images, **start)
        except UserError as refusal:
            if number == 1:
                raise
            row["refused"] = str(refusal)
            break
        row["requests_run"].append(_account(report) | measure(last, requests[:number]))
        start = {"previous_run": last}
    last, report = run(f"{name}-all", torch.cat(requests), weight_path=original / "model.pt")
    row |= {"at_once": _account(report) | measure(last, requests), "code": code_words(report["run"]["code"])}
    forget = f"file:{folder / name}-all.txt"
    without = {"seed": chain["seed"], "splits": original / "splits.npz", "forget": forget, "retain_only": True}
    row["retrained"] = measure(training.run("retrained", without), requests)
    return short(row)


def _account(report: dict) -> dict:
    """What a row keeps of a run's report."""
    cost = report["cost"]["unlearned"]
    return {
        "verdict": report["verdict"], "budget_spent": report.get("sequence", {}).get("budget_spent", 0.0),
        "multiplier": report["forget"]["multiplier"],
        "seconds": cost["seconds"], "gradient_steps": cost["gradient_steps"],
    }  # fmt: skip


def draw_requests(splits: Splits, seed: int, count: int, images: int) -> list[Tensor]:
    """Image indices of each request: shares of the wrong labels, or as many images drawn from train."""
    wrong, train_set = splits.forget, splits.train
    pool = wrong if len(wrong) else train_set
    order = pool[torch.from_numpy(random_state(seed, "requests").permutation(len(pool)))]
    return list(order.tensor_split(count) if len(wrong) else order[: count * images].split(images))


def summary(rows: list[dict]) -> str:
    """Markdown: the last request, all at once and the retrained model, means over seeds (largest); refused requests."""
    lines = ["requests | after | fall | forgotten so far | its loss | held-out | test | steps",
             "---|---|---:|---:|---:|---:|---:|---:"]  # fmt: skip
    for setting, chains in grouped(rows, "setting").items():
        last = max(len(chain["requests_run"]) for chain in chains)
        reached = [chain["requests_run"] for chain in chains if len(chain["requests_run"]) == last]
        ends = [{**each[-1], "gradient_steps": sum(one["gradient_steps"] for one in each)} for each in reached]
        some = f" ({len(ends)} chains)" if len(ends) < len(chains) else ""
        steps = {f"request {last}{some}": ends, "all at once": [chain["at_once"] for chain in chains]}
        steps["retraining"] = [chain["retrained"] for chain in chains]
        lines += [_line(setting, name, found) for name, found in steps.items()]
    return "\n".join(lines + [
        f"\n{row['setting']}, seed {row['seed']}, request {len(row['requests_run']) + 1} was refused: {row['refused']}"
        for row in rows if "refused" in row
    ])  # fmt: skip


def _after(chains: list[dict], number: int) -> list[dict]:
    """The figures after a request, from 0, of the chains that reached it."""
    return [chain["requests_run"][number] for chain in chains if len(chain["requests_run"]) > number]


def _line(setting: str, name: str, found: list[dict]) -> str:
    cells = [f"{_mean(found, 'fall'):.2f} ({max(each['fall'] for each in found):.2f})"]
    parts = (("forgotten", "top1"), ("forgotten", "loss"), ("held_out", "top1"), ("test", "top1"))
    cells += [f"{_mean(found, *part):{'.1f' if part[1] == 'top1' else '.3f'}}" for part in parts]
    cells.append(f"{_mean(found, 'gradient_steps'):.0f}" if "gradient_steps" in found[0] else "–")
    return " | ".join([setting, name, *cells])


def _mean(found: list[dict], *path: str | int) -> float:
    """The mean of the figures at the end of a path into each."""
    for key in path:
        found = [each[key] for each in found]
    return statistics.fmean(found)


def draw(path: Path, rows: list[dict]) -> None:
    """Draw, for each setting, the fall of retain accuracy by seed and the accuracy on every forget set; a PNG."""
    groups = grouped(rows, "setting")
    figure = Figure(figsize=(11, 3.6 * len(groups)), layout="constrained")
    axes = figure.subplots(len(groups), 2, squeeze=False)
    for (left, right), (setting, chains) in zip(axes, groups.items(), strict=True):
        label, lowest = SETTINGS[setting]["axis"]
        _draw_falls(left, chains)
        _draw_sets(right, chains)
        left.set(title=SETTINGS[setting]["title"], ylabel="fall of retain accuracy, points")
        right.set(title="the images of each request, mean", ylabel=label, ylim=(lowest, 101))
    for axis in axes[-1]:
        axis.set_xlabel("requests so far")
        # Chains share their names; the legend has each once.
        shown = {name: line for line, name in zip(*axis.get_legend_handles_labels(), strict=True)}
        axis.legend([*shown.values()], [*shown], fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)


def _draw_falls(axis, chains: list[dict]) -> None:
    """The fall from the first original, a line a seed; beside its end the single request and the retrained model."""
    budget, requests = chains[0]["retain_budget"], chains[0]["requests"]
    line = {"markersize": 3, "alpha": 0.8, "linewidth": 1, "label": "one after another, by seed"}
    for chain in chains:
        falls = [0.0, *(each["fall"] for each in chain["requests_run"])]
        axis.plot(range(len(falls)), falls, "o-", color=SEQUENCE, **line)
        axis.plot(requests + 0.4, chain["at_once"]["fall"], "D", color=AT_ONCE, markersize=5, label="all at once")
        axis.plot(requests + 0.7, chain["retrained"]["fall"], "^", color=RETRAINED, markersize=5, label="retrained")
    axis.axhline(budget, color="black", linestyle="--", linewidth=1, label="budget of the whole sequence")
    axis.set_ylim(bottom=-0.05 * budget)
    axis.set_xticks(range(requests + 1))


def _draw_sets(axis, chains: list[dict]) -> None:
    """Accuracy on each request's images from before the sequence to its end, means over the chains that reached it."""
    last, colours = max(len(chain["requests_run"]) for chain in chains), colormaps["viridis"]
    for number in range(last):
        before = _mean(chains, "original", "lots", number, "top1")
        after = [_mean(_after(chains, step), "lots", number, "top1") for step in range(number, last)]
        colour = colours(0.9 * number / max(1, last - 1))
        axis.plot(range(number, last + 1), [before, *after], "-", color=colour, linewidth=1)
        axis.plot(number + 1, after[0], "o", color=colour, markersize=4)
    held_out = [_mean(_after(chains, step), "held_out", "top1") for step in range(last)]
    before = _mean(chains, "original", "held_out", "top1")
    axis.plot(range(last + 1), [before, *held_out], "--", color=HELD_OUT, label="held-out images")
    for name, key, colour in (("all at once", "at_once", AT_ONCE), ("retrained", "retrained", RETRAINED)):
        level = _mean(chains, key, "forgotten", "top1")
        axis.axhline(level, color=colour, linestyle=":", label=f"{name}, all ten sets")
    axis.plot([], [], "o-", color=colours(0.4), markersize=4, label="one request's set, dot: its turn")
    axis.set_xticks(range(last + 1))


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
