"""Figures of a cell that cost more than a pass, by test.py: relearn time, a linear probe, U-LiRA with shadow models."""

import contextlib
import dataclasses
import io
from pathlib import Path

import test as script
from benchmarks.sweeps.sweep import command_line
from helper_functions.config import NonNegativeInt
from helper_functions.run_folder import result_weights


@dataclasses.dataclass
class FurtherArgs:
    """What is measured beside the figures of the main script; each is a flag of test.py."""

    relearn: bool = False
    """Count the gradient steps until the forget set is as well known again as to the original."""
    linear_probe: bool = False
    """Refit a linear classifier on frozen features, and judge it on the forget set."""
    shadow_models: NonNegativeInt = 0
    """Shadow models of U-LiRA for each cell, each trained and unlearned: an even number, at least 4."""


def asked_of(args: FurtherArgs) -> dict[str, object]:
    """The flags that ask for something."""
    values = {field.name: getattr(args, field.name) for field in dataclasses.fields(FurtherArgs)}
    return {name: value for name, value in values.items() if value}


def add_further(row: dict, run: Path, asked: dict, original: str, retrained: tuple[str, ...], flags: dict) -> None:
    """Add what is asked for to the row's figures: of the unlearned model, the original and the retrained ones.

    Args:
        row: with `figures`, `original` and `retrained`.
        run: folder of the main script's run.
        asked: of `asked_of`.
        original: run folder of the original.
        retrained: run folders of the retrained models.
        flags: of the main script; those of data, model and device are taken over.
    """
    weights = str(result_weights(run))
    shared = {field.name for field in dataclasses.fields(script.Args)} - {"forget"}
    own = {name: value for name, value in flags.items() if name in shared and value is not None}
    own |= {"weight_path": weights, "splits": run / "splits.npz", "original_weight_path": f"{original}/model.pt"}
    own |= {"retrained_weight_path": [f"{folder}/model.pt" for folder in retrained]}
    if "shadow_models" in asked:
        own |= {"shadow_config": run / "config.yaml", "shadow_dir": run.parent.parent / "shadows"}
    with contextlib.redirect_stdout(io.StringIO()):
        models = script.main(script.get_parser().parse(command_line({**own, **asked})))["models"]
    others = [figures for name, figures in models.items() if name.startswith("retrained")]
    parts = [row["figures"], row["original"], *row["retrained"]]
    for figures, further in zip(parts, [models[weights], models["original"], *others], strict=True):
        figures |= {name: value for name, value in further.items() if name not in figures}
