"""Ten deletion requests in a row against one request for all of their images, and against retraining.

    python -m benchmarks.sweeps.sequential
    python -m benchmarks.sweeps.sequential --summary True

Each request is a run of train_constrained_unlearning.py that goes on from the one before (--previous_run), within one
budget for all; one that finds nothing left of it is refused, and ends the chain. After each, accuracy is measured by
the first original on what is still retained, and on the images of every request so far. A finished chain is a line of
--output; it is not run again.
"""

import dataclasses
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import train
import train_constrained_unlearning as script
from benchmarks.leaderboard.cells import data_flags, short
from benchmarks.leaderboard.trained_models import Training
from benchmarks.sweeps.sequential_figure import draw_sequences
from benchmarks.sweeps.sweep import append_row, command_line, read_rows, run_all
from data.random_streams import random_state
from helper_functions.config import PositiveInt, ScriptParser, run_script
from helper_functions.errors import UserError
from helper_functions.files import key_of
from helper_functions.run_folder import run_quietly
from helper_functions.training.inference import predict
from unlearning.experiment import Experiment

# What the requests ask for: random training images, without which retraining itself falls by up to 1.1 points; or wrong
# labels, found out lot by lot. Until it is reported, a wrong label is retained, and forgetting the first lots corrects
# some others: that costs accuracy on given labels.
SETTINGS = {
    "random": {"forget": "", "forget_target": "unseen", "retain_budget": 2.0},
    "mislabelled": {"forget": "mislabelled:0.1", "forget_target": "chance", "retain_budget": 3.0},
}


@dataclasses.dataclass
class Args:
    """Flags of benchmarks/sweeps/sequential.py."""

    output: str = "docs/sequential_digits.jsonl"
    """JSON lines, one a chain of requests; chains that stand there are not run again."""
    figure: str = "docs/sequential_digits.png"
    """Where the figure is written."""
    config_file_of_runs: str = "configs/digits/train.yaml"
    """Flags of train.py, for the originals and the retrained models."""
    requests: PositiveInt = 10
    """Requests in a row."""
    images: PositiveInt = 14
    """Images in each of them; the wrong labels are shared out instead."""
    num_epochs: PositiveInt = 20
    """Passes over the forget set in each request."""
    seeds: PositiveInt = 6
    """Originals, with splits and requests of their own."""
    log_dir: str = "runs/sequential"
    """Where originals, retrained models and runs are kept."""
    workers: PositiveInt = 2
    """Processes of one thread each; 1 is a single one with all threads."""
    summary: bool = False
    """Only print the table of what stands in --output, and draw it."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.sweeps.sequential", __doc__)


def main(args: Args) -> dict:
    """Run the missing chains, print the table, draw the figure; returns the chains."""
    output = Path(args.output)
    finished = read_rows(output)
    if not args.summary:
        shared = {name: getattr(args, name) for name in ("requests", "images", "num_epochs", "config_file_of_runs")}
        chains = [{"setting": name, "seed": seed, **shared} for name in SETTINGS for seed in range(args.seeds)]
        missing = [{**chain, "log_dir": args.log_dir} for chain in chains if key_of(chain) not in finished]
        for _, row, error in run_all(run_chain, missing, args.workers, "chains"):
            if error is not None:
                raise error
            finished[row["key"]] = row
            append_row(output, row)
    rows = sorted(finished.values(), key=lambda row: (list(SETTINGS).index(row["setting"]), row["seed"]))
    print(summary(rows))
    if rows:
        draw_sequences(Path(args.figure), rows)
    return {"chains": rows}


def run_chain(chain: dict) -> dict:
    """All requests of one original in a row, then all of them at once, and a model retrained without them; the row."""
    asked = SETTINGS[chain["setting"]]
    training = Training(chain["config_file_of_runs"], chain["log_dir"])
    original = training.original(asked["forget"], chain["seed"])
    flags = {name: asked[name] for name in ("forget_target", "retain_budget")} | data_flags(training.config_file)
    flags |= {"num_epochs": chain["num_epochs"], "seed": chain["seed"], "judge": "validation", "figures": False}
    flags |= {"log_dir": chain["log_dir"], "weight_path": original / "model.pt"}
    ruler = _Ruler(training.config_file, original, chain["seed"])
    lots = ruler.lots(chain["requests"], chain["images"])
    name = f"{chain['setting']}-{chain['seed']}"
    row = {"key": key_of({key: value for key, value in chain.items() if key != "log_dir"}), **chain}
    row |= {"retain_budget": asked["retain_budget"], "original": ruler(original, lots), "requests_run": []}
    del row["log_dir"]
    for number, lot in enumerate(lots, start=1):
        file = _write(Path(chain["log_dir"]) / f"{name}-{number}.txt", lot)
        try:
            folder, report = run_quietly(script, command_line({**flags, "forget": file}), f"{name}-{number}")
        except UserError as refusal:
            if number == 1:
                raise
            row["refused"] = str(refusal)
            break
        row["requests_run"].append(_account(report) | ruler(folder, lots[:number]))
        flags = {key: value for key, value in flags.items() if key != "weight_path"} | {"previous_run": folder}
    flags = {key: value for key, value in flags.items() if key != "previous_run"}
    file = _write(Path(chain["log_dir"]) / f"{name}-all.txt", torch.cat(lots))
    at_once = {**flags, "weight_path": original / "model.pt", "forget": file}
    folder, report = run_quietly(script, command_line(at_once), f"{name}-all")
    row["at_once"] = _account(report) | ruler(folder, lots)
    without = {"seed": chain["seed"], "splits": original / "splits.npz", "forget": file, "retain_only": True}
    row["retrained"] = ruler(training.run("retrained", without), lots)
    return short(row)


def _write(path: Path, images: Tensor) -> str:
    path.write_text("\n".join(map(str, images.sort().values.tolist())) + "\n")
    return f"file:{path}"


def _account(report: dict) -> dict:
    """What a run says of itself."""
    return {
        "verdict": report["verdict"],
        "budget_spent": report.get("sequence", {}).get("budget_spent", 0.0),
        "multiplier": report["forget"]["multiplier"],
        "safeguard": len(report["forget"]["safeguard"]),
        "seconds": report["cost"]["unlearned"]["seconds"],
        "gradient_steps": report["cost"]["unlearned"]["gradient_steps"],
    }


class _Ruler:
    """Measures models on the data of one original: figures against it, by themselves, whatever their reports say."""

    def __init__(self, config_file: str, original: Path, seed: int) -> None:
        argv = ["--config_file", config_file, "--splits", str(original / "splits.npz"), "--seed", str(seed)]
        self.experiment = Experiment(train.get_parser().parse(argv))
        self.splits, self.seed = self.experiment.splits, seed
        self.held_out = torch.cat([self.splits.validation, self.splits.unseen]).sort().values
        self.original = self._model(original)

    def lots(self, requests: int, images: int) -> list[Tensor]:
        """What each request is for: the wrong labels in as many lots, or as many images drawn from train."""
        wrong, train_set = self.splits.forget, self.splits.train
        pool = wrong if len(wrong) else train_set
        order = pool[torch.from_numpy(random_state(self.seed, "requests").permutation(len(pool)))]
        return list(order.tensor_split(requests) if len(wrong) else order[: requests * images].split(images))

    def __call__(self, folder: Path, lots: list[Tensor]) -> dict:
        """Of a run's model, after it has forgotten these lots: fall of retain accuracy in points, figures of parts."""
        model, splits = self._model(folder), self.splits
        retain = splits.train[~torch.isin(splits.train, torch.cat(lots))]
        top1, before = (self._figures(which, retain)["top1"] for which in (model, self.original))
        parts = {"held_out": self.held_out, "test": splits.test, "forgotten": torch.cat(lots)}
        return {
            "fall": before - top1,
            **{name: self._figures(model, images) for name, images in parts.items()},
            "lots": [self._figures(model, lot) for lot in lots],
        }

    def _model(self, folder: Path) -> nn.Module:
        return self.experiment.model(str(folder / "model.pt"))

    def _figures(self, model: nn.Module, images: Tensor) -> dict[str, float]:
        logits, labels = predict(model, self.experiment.sets.evaluation(images), self.experiment.precision)
        right = (logits.argmax(1) == labels).double().mean().item()
        return {"top1": 100 * right, "loss": F.cross_entropy(logits, labels).item()}


def summary(rows: list[dict]) -> str:
    """Markdown: the original, each request, all at once, the retrained model; means over seeds, the largest fall.

    Below it, the requests that were refused. `n`: chains that came so far.
    """
    lines = [
        "| requests | n | after | fall of retain | largest | forgotten so far | its loss | held-out | its loss | test "
        "| steps | seconds |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for setting in SETTINGS:
        chains = [row for row in rows if row["setting"] == setting]
        if not chains:
            continue
        done = [row["requests_run"] for row in chains]
        steps: dict[str, list[dict]] = {"nothing": [row["original"] for row in chains]}
        for number in range(max(map(len, done))):
            steps[f"request {number + 1}"] = [requests[number] for requests in done if len(requests) > number]
        steps |= {"all at once": [row["at_once"] for row in chains], "retraining": [row["retrained"] for row in chains]}
        lines += [_line(setting, name, found) for name, found in steps.items()]
    lines += [_refusal(row) for row in rows if "refused" in row]
    return "\n".join(lines)


def _refusal(row: dict) -> str:
    return f"{row['setting']}, seed {row['seed']}, request {len(row['requests_run']) + 1} was refused: {row['refused']}"


def _line(setting: str, name: str, found: list[dict]) -> str:
    def mean(*path: str) -> float | None:
        values = found
        for key in path:
            values = [value.get(key) for value in values]
        return None if None in values else sum(values) / len(values)

    forms = {
        ("fall",): "+.2f", ("forgotten", "top1"): ".1f", ("forgotten", "loss"): ".3f",
        ("held_out", "top1"): ".1f", ("held_out", "loss"): ".3f", ("test", "top1"): ".1f",
        ("gradient_steps",): ".0f", ("seconds",): ".1f",
    }  # fmt: skip
    cells = ["–" if mean(*path) is None else f"{mean(*path):{form}}" for path, form in forms.items()]
    cells.insert(1, f"{max(each['fall'] for each in found):+.2f}")
    return f"| {setting} | {len(found)} | {name} | " + " | ".join(cells) + " |"


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
