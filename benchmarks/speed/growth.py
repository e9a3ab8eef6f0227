"""How the cost of unlearning grows with the forget set, the data set, the number of classes and the model.

    python -m benchmarks.speed.growth --output docs/performance
    python -m benchmarks.speed.growth --quick

One pass over the forget set by the method `constrained`, on subsets of CIFAR-100, one factor at a time. All settings
take their turns in each round, so that a machine that slows down slows all of them; a figure is the median over the
rounds. A slope is that of the logarithms: 1 is growth in proportion, 0 none.
"""

import dataclasses
import statistics
import sys
from pathlib import Path

import numpy as np

from benchmarks.speed.bench import images_from
from benchmarks.speed.forgetting_cost import BATCH_SIZE, HELD_OUT, Forgetting, Setting
from benchmarks.speed.growth_figure import draw_growth
from helper_functions.config import PositiveInt, ScriptParser, Seed, run_script
from helper_functions.errors import UserError
from helper_functions.files import write_json
from helper_functions.training.devices import choose_device, choose_precision, describe_environment

# What each factor is plotted over.
TITLES = {
    "forget": "forget images",
    "images": "training images",
    "classes": "classes",
    "model": "operations of a forward pass, one image",
}
# A smaller forget set is one gradient step all the same, with a whole batch of retain images.
FITTED_FROM = {"forget": BATCH_SIZE}
MEASURED = ("unlearning_seconds", "evaluation_seconds")


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
    """Of the subsets, the originals and the order of the images."""
    device: str = "auto"
    """auto takes CUDA, then MPS, then the CPU; or cpu, cuda, cuda:N, mps."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.speed.growth", __doc__)


def factors(quick: bool) -> dict[str, list[Setting]]:
    """Settings by the factor that differs between them."""
    if quick:
        base = Setting(forget=256, images=1000, classes=10, model="resnet8", width=4)
        return {
            "forget": [base.but(forget=number) for number in (10, 256, 512)],
            "images": [base.but(images=number) for number in (1000, 4000)],
            "classes": [base.but(classes=number) for number in (10, 20)],
            "model": [base, base.but(width=8)],
        }
    base = Setting(forget=500, images=5000, classes=100, model="resnet8", width=16)
    sizes = [("resnet8", 8), ("resnet8", 16), ("resnet8", 32), ("resnet20", 16), ("resnet20", 32), ("resnet18", 64)]
    return {
        "forget": [base.but(forget=n, images=50_000) for n in (10, 30, 100, 300, 1000, 3000, 10_000)],
        "images": [base.but(images=number) for number in (1000, 2000, 5000, 10_000, 20_000, 50_000)],
        "classes": [base.but(classes=number) for number in (10, 20, 50, 100)],
        "model": [base.but(model=name, width=width) for name, width in sizes],
    }


def slope(xs: list[float], ys: list[float]) -> float:
    """Least-squares slope of log y over log x."""
    return float(np.polyfit(np.log(xs), np.log(ys), 1)[0])


def summarise(name: str, settings: list[Setting], measured: dict[Setting, list[dict]]) -> dict:
    """What one factor's settings cost, as medians with ranges, and the slopes."""
    rows = []
    for setting in settings:
        costs = measured[setting]
        row = {**dataclasses.asdict(setting), **{key: value for key, value in costs[0].items() if key not in MEASURED}}
        row["x"] = row["forward_flops"] if name == "model" else row[name]
        row |= {key: statistics.median(cost[key] for cost in costs) for key in MEASURED}
        row["ranges"] = {key: [min(c[key] for c in costs), max(c[key] for c in costs)] for key in MEASURED}
        rows.append(row)
    rows.sort(key=lambda row: row["x"])
    fitted = [row for row in rows if row["x"] >= FITTED_FROM.get(name, 0)]
    xs = [row["x"] for row in fitted]
    return {
        "x": TITLES[name],
        "settings": rows,
        "fitted_from": min(xs),
        "slopes": {key: slope(xs, [row[key] for row in fitted]) for key in MEASURED},
    }


def print_table(name: str, factor: dict) -> None:
    """One factor: a row a setting, then the slopes."""
    print(f"\n{factor['x']:<40}{'steps':>8}{'images':>10}{'unlearning, s':>26}{'evaluation, s':>26}")
    for row in factor["settings"]:
        label = f"{row['x']:,}" if name != "model" else f"{row['x']:,} ({row['model']}, width {row['width']})"
        cells = [_seconds(row, key) for key in MEASURED]
        print(f"{label:<40}{row['gradient_steps']:>8,}{row['gradient_images']:>10,}" + "".join(cells))
    slopes = "".join(f"{factor['slopes'][key]:>26.2f}" for key in MEASURED)
    print(f"{'slope, from ' + format(factor['fitted_from'], ',') + ' on':<58}{slopes}", flush=True)


def _seconds(row: dict, key: str) -> str:
    low, high = row["ranges"][key]
    return f"{f'{row[key]:.3f} [{low:.3f}-{high:.3f}]':>26}"


def main(args: Args) -> dict:
    """Measure all settings; returns what growth.json holds."""
    device = choose_device(args.device)
    folder = Path(args.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output {folder}: no folder can be made there ({error.strerror})") from None
    dataset, precision = images_from(args.data_dir), choose_precision(device)
    forgetting = Forgetting(dataset, precision, args.seed)
    planned, rounds = factors(args.quick), args.rounds or (1 if args.quick else 3)
    settings = list(dict.fromkeys(setting for group in planned.values() for setting in group))
    measured: dict[Setting, list[dict]] = {setting: [] for setting in settings}
    for _ in range(rounds):
        for setting in settings:
            measured[setting].append(forgetting.cost(setting))

    print(f"one pass of constrained over forget images of {dataset.name}, median [range] of {rounds} rounds")
    print(f"resnet8 of width 16 unless said otherwise; {HELD_OUT} unseen and {HELD_OUT} validation images")
    found = {name: summarise(name, group, measured) for name, group in planned.items()}
    for name, factor in found.items():
        print_table(name, factor)
    result = {"factors": found, "rounds": rounds, "seed": args.seed, "dataset": dataset.name}
    result["environment"] = {**describe_environment(device), "our_dtype": str(precision.dtype)}
    write_json(folder / "growth.json", result)
    draw_growth(folder / "growth.png", found)
    return result


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
