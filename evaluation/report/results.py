"""The weights that a run ends with: under which names, and in which form, they lie in its folder."""

from pathlib import Path

from torch import nn

from evaluation.verdict import Verdict
from helper_functions.files import save_tensors
from helper_functions.run_folder import INFEASIBLE, RESULT
from helper_functions.training.distribution import on_main
from models.weight_files import WeightFile, shown, write_weight_file
from unlearning.setup import PreparedRun

# Entries of a checkpoint that are named when they are left out.
NAMED_ENTRIES = 6


def save_result(run: PreparedRun, name: str, verdict: Verdict | None = None) -> str:
    """Write the weights of the model called `name`; gives the lines that say where they are.

    A state_dict, and beside it, where the run began with weights in another form, that form; under names of their own
    where the verdict is that the budget was overdrawn, so that nobody deploys them by mistake.
    """
    model, record = run.models[name], run.record
    feasible = verdict is None or verdict.feasible
    path, form = record.path(RESULT if feasible else INFEASIBLE), run.weight_file
    save_tensors(model.state_dict(), path)
    _remove(record.path(INFEASIBLE if feasible else RESULT))
    lines = [f"weights  {path}"]
    if verdict is not None and form is not None and not form.is_plain(model):
        lines += _save_as_given(model, form, record.folder, feasible, run.args.weight_path)
    if not feasible:
        lines.append("         over the budget: the best that was found, not to be deployed")
    return "\n".join(lines)


def _save_as_given(model: nn.Module, form: WeightFile, folder: Path, feasible: bool, source: str) -> list[str]:
    names = {True: f"unlearned{form.suffix}", False: f"infeasible{form.suffix}"}
    if names[False] == INFEASIBLE:  # which is the plain one
        names[False] = f"infeasible-unlearned{form.suffix}"
    write_weight_file(model, form, folder / names[feasible])
    _remove(folder / names[not feasible])
    lines = [f"         {folder / names[feasible]}, in the form of {source}"]
    if form.left_out:
        entries = ", ".join(shown(entry) for entry in form.left_out[:NAMED_ENTRIES])
        more = f" and {len(form.left_out) - NAMED_ENTRIES} more" if len(form.left_out) > NAMED_ENTRIES else ""
        lines.append(f"         left out of it, since they may hold what was learned: {entries}{more}")
    return lines


@on_main
def _remove(path: Path) -> None:
    """What an earlier end of the same run has left, before it was resumed."""
    path.unlink(missing_ok=True)
