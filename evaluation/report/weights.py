"""Weights and hashes that a run leaves: the result, in the form that it came in, and what later trainings leave out."""

from collections.abc import Iterable
from pathlib import Path

from torch import nn

from data.exclusion import HASHES, pixel_hashes
from evaluation.verdict import Verdict
from helper_functions.files import save_tensors, write_bytes
from helper_functions.record import RunRecord
from helper_functions.run_folder import INFEASIBLE, NOT_FORGOTTEN, RESULT, RESULTS
from helper_functions.training.distribution import on_main
from models.weight_files import WeightFile, shown, write_weight_file
from unlearning.setup import PreparedRun

# Entries of a checkpoint that are named when they are left out.
NAMED_ENTRIES = 6
# What weights are that do not fulfil the request, by their name.
MEANING = {
    INFEASIBLE: "budget not kept: the closest weights found, not to be deployed",
    NOT_FORGOTTEN: "budget kept, but not forgotten: they do not fulfil the request",
}


def save_result(run: PreparedRun, name: str, verdict: Verdict | None = None) -> str:
    """Write the weights of the model called `name`; returns the lines that say where they are.

    Written are a state_dict and, where the run began with weights in another form, a second file in that form. Where
    the budget was not kept, or nothing was forgotten, both have names of their own, so that nobody deploys them by
    mistake.
    """
    model, record, form = run.models[name], run.record, run.weight_file
    plain_name = RESULT if verdict is None else verdict.weights
    save_plain(model, record, plain_name)
    lines = [f"weights  {record.path(plain_name)}"]
    if verdict is not None and form is not None and not form.is_plain(model):
        lines += _save_as_given(model, form, record.folder, plain_name, run.args.weight_path)
    if plain_name in MEANING:
        lines.append(f"         {MEANING[plain_name]}")
    return "\n".join(lines)


def save_plain(model: nn.Module, record: RunRecord, name: str) -> None:
    """Write a model's state_dict by one of the names of `RESULTS`, and remove what has another one."""
    save_tensors(model.state_dict(), record.path(name))
    remove(record.path(other) for other in RESULTS if other != name)


@on_main
def save_hashes(run: PreparedRun) -> None:
    """Write a hash of each image of this request and of those before it, for train.py --exclude."""
    experiment, hashes = run.experiment, set()
    if getattr(run.args, "previous_run", None) is not None:
        before = Path(run.args.previous_run) / HASHES
        hashes |= set(before.read_text().split()) if before.is_file() else set()
    hashes |= set(pixel_hashes(experiment.dataset, experiment.splits.forget.tolist()))
    write_bytes(run.record.path(HASHES), "".join(f"{each}\n" for each in sorted(hashes)).encode())


def _save_as_given(model: nn.Module, form: WeightFile, folder: Path, plain_name: str, source: str) -> list[str]:
    stems = {RESULT: "unlearned", **{name: Path(name).stem for name in MEANING}}
    names = {name: f"{stem}{form.suffix}" for name, stem in stems.items()}
    # The plain state_dict may have the name already.
    names |= {name: f"{stems[name]}-unlearned{form.suffix}" for name in MEANING if names[name] == name}
    path = folder / names.pop(plain_name)
    write_weight_file(model, form, path)
    remove(folder / name for name in names.values())
    lines = [f"         {path}, in the form of {source}"]
    if form.left_out:
        entries = ", ".join(shown(entry) for entry in form.left_out[:NAMED_ENTRIES])
        more = f" and {len(form.left_out) - NAMED_ENTRIES} more" if len(form.left_out) > NAMED_ENTRIES else ""
        lines.append(f"         left out, since they may hold what was learned: {entries}{more}")
    return lines


@on_main
def remove(paths: Iterable[Path]) -> None:
    """Delete files where they exist."""
    for path in paths:
        path.unlink(missing_ok=True)
