"""How the cost of unlearning grows with the forget set, the data set, the number of classes and the model.

    python -m benchmarks.speed.growth --output docs/performance
    python -m benchmarks.speed.growth --quick

One pass over the forget set by the method `constrained`, on subsets of CIFAR-100, one factor at a time. All settings
take turns in each round, so that a slower machine slows all of them; a figure is the median over the rounds. A slope
is that of the logarithms: 1 is growth in proportion, 0 none.
"""

import dataclasses
import statistics
import sys
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where this file is run by its path

from benchmarks.speed.bench import images_from
from benchmarks.speed.forgetting_cost import BATCH_SIZE, HELD_OUT, Forgetting, Setting
from helper_functions.config import PositiveInt, ScriptParser, Seed, run_script
from helper_functions.files import make_folder, whole_file, write_json
from helper_functions.training.devices import choose_device, choose_precision, describe_environment

TITLES = {  # of the x axis of each factor
    "forget": "forget images", "images": "training images", "classes": "classes",
    "model": "operations of a forward pass, one image",
}  # fmt: skip
COLOURS = {"unlearning_seconds": "#d1495b", "evaluation_seconds": "#2e4057"}


@dataclasses.dataclass
class Args:
    """Flags of benchmarks.speed.growth."""

    data_dir: str = "data/cifar100"
    """Folder of CIFAR-100; where it is absent, the images are random ones of the same shape."""
    output: str = "runs/growth"
    """Folder for growth.json and growth.png, made where it is absent; files of these names are replaced."""
    rounds: PositiveInt | None = None
    """Measurements of each setting: 3, or 1 with --quick."""
    quick: bool = False
    """Few and small settings, to see that everything works."""
    seed: Seed = 0
    """Seed of the subsets, the originals and the order of the images."""
    device: str = "auto"
    """auto takes CUDA, then MPS, then the CPU; or cpu, cuda, cuda:N, mps."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.speed.growth", __doc__)


def factors(quick: bool) -> dict[str, list[Setting]]:
    """Settings by the factor that differs between them."""

    def vary(base: Setting, name: str, *values: int) -> list[Setting]:
        return [dataclasses.replace(base, **{name: value}) for value in values]

    if quick:
        base = Setting(forget=256, images=700, classes=10, model="resnet8", width=4)
        found = {"forget": vary(base, "forget", 10, 256, 512), "images": vary(base, "images", 700, 1400)}
        return {**found, "classes": vary(base, "classes", 10, 20), "model": vary(base, "width", 4, 8)}
    base, deep = (Setting(forget=500, images=5000, classes=100, model=f"resnet{n}", width=16) for n in (8, 20))
    return {
        "forget": vary(dataclasses.replace(base, images=50_000), "forget", 10, 30, 100, 300, 1000, 3000, 10_000),
        "images": vary(base, "images", 1000, 2000, 5000, 10_000, 20_000, 50_000),
        "classes": vary(base, "classes", 10, 20, 50, 100),
        "model": vary(base, "width", 8, 16, 32) + vary(deep, "width", 16, 32)
        + [dataclasses.replace(base, model="resnet18", width=64)],
    }  # fmt: skip


def summarise(name: str, settings: list[Setting], measured: dict[Setting, list[dict]]) -> dict:
    """The costs of one factor's settings, as medians with ranges, and the slopes."""
    rows = []
    for setting in settings:
        costs = measured[setting]
        row = {**dataclasses.asdict(setting), **{key: value for key, value in costs[0].items() if key not in COLOURS}}
        row["x"] = row["forward_flops"] if name == "model" else row[name]
        row |= {key: statistics.median(cost[key] for cost in costs) for key in COLOURS}
        row["ranges"] = {key: [min(c[key] for c in costs), max(c[key] for c in costs)] for key in COLOURS}
        rows.append(row)
    rows.sort(key=lambda row: row["x"])
    # A smaller forget set is one gradient step all the same, with a whole batch of retain images.
    fitted = [row for row in rows if name != "forget" or row["x"] >= BATCH_SIZE]
    xs = [row["x"] for row in fitted]
    logarithms = {key: np.log([row[key] for row in fitted]) for key in COLOURS}
    slopes = {key: float(np.polyfit(np.log(xs), ys, 1)[0]) for key, ys in logarithms.items()}
    return {"x": TITLES[name], "settings": rows, "fitted_from": min(xs), "slopes": slopes}


def print_table(name: str, factor: dict) -> None:
    """One factor: a row a setting, then the slopes."""
    print(f"\n{factor['x']:<40}{'steps':>8}{'images':>10}{'unlearning, s':>26}{'evaluation, s':>26}")
    for row in factor["settings"]:
        label = f"{row['x']:,}" if name != "model" else f"{row['x']:,} ({row['model']}, width {row['width']})"
        seconds = [f"{row[key]:.3f} [{low:.3f}-{high:.3f}]" for key, (low, high) in row["ranges"].items()]
        cells = "".join(f"{cell:>26}" for cell in seconds)
        print(f"{label:<40}{row['gradient_steps']:>8,}{row['gradient_images']:>10,}{cells}")
    slopes = "".join(f"{value:>26.2f}" for value in factor["slopes"].values())
    print(f"{'slope, from ' + format(factor['fitted_from'], ',') + ' on':<58}{slopes}", flush=True)


def draw(path: Path, factors: dict[str, dict]) -> None:
    """Draw seconds over each factor on logarithmic scales: medians with ranges, slopes in the legend; a PNG."""
    figure = Figure(figsize=(3.4 * len(factors), 3), layout="constrained")
    axes = figure.subplots(1, len(factors), sharey=True)
    for axis, factor in zip(axes, factors.values(), strict=True):
        rows, xs = factor["settings"], [row["x"] for row in factor["settings"]]
        for key, colour in COLOURS.items():
            label = f"{key.removesuffix('_seconds')}, slope {factor['slopes'][key]:.2f}"
            axis.plot(xs, [row[key] for row in rows], "o-", color=colour, markersize=3, label=label)
            low, high = zip(*[row["ranges"][key] for row in rows], strict=True)
            axis.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set(xscale="log", yscale="log", xlabel=factor["x"])
        axis.legend(fontsize=8)
    axes[0].set_ylabel("seconds")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)


def main(args: Args) -> dict:
    """Measure all settings; returns what growth.json holds."""
    device, folder = choose_device(args.device), make_folder("output", args.output)
    dataset, precision = images_from(args.data_dir), choose_precision(device)
    forgetting = Forgetting(dataset, precision, args.seed)
    planned, rounds = factors(args.quick), args.rounds or (1 if args.quick else 3)
    measured: dict[Setting, list[dict]] = {setting: [] for group in planned.values() for setting in group}
    for _ in range(rounds):
        for setting, costs in measured.items():
            costs.append(forgetting.cost(setting))

    print(f"one pass of constrained over forget images of {dataset.name}, median [range] of {rounds} rounds")
    print(f"resnet8 of width 16 unless said otherwise; {HELD_OUT} unseen and {HELD_OUT} validation images")
    found = {name: summarise(name, group, measured) for name, group in planned.items()}
    for name, factor in found.items():
        print_table(name, factor)
    result = {"factors": found, "rounds": rounds, "seed": args.seed, "dataset": dataset.name}
    result["environment"] = {**describe_environment(device), "our_dtype": str(precision.dtype)}
    write_json(folder / "growth.json", result)
    draw(folder / "growth.png", found)
    return result


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
