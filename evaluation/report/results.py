"""What a run leaves beside its report: weights, and what TensorBoard shows beside scalars."""

import dataclasses
import warnings
from pathlib import Path

import torch
from torch import nn

from evaluation.judge import Judgement
from evaluation.report.figures import draw_images, draw_losses
from evaluation.verdict import Verdict
from helper_functions.files import save_tensors
from helper_functions.run_folder import INFEASIBLE, RESULT
from helper_functions.training.distribution import on_main
from helper_functions.training.inference import evaluation_mode
from models.weight_files import WeightFile, shown, write_weight_file
from unlearning.experiment import Experiment
from unlearning.setup import PreparedRun

# Entries of a checkpoint that are named when they are left out.
NAMED_ENTRIES = 6
SHOWN_IMAGES = 25


def save_result(run: PreparedRun, name: str, verdict: Verdict | None = None) -> str:
    """Write the weights of the model called `name`; returns the lines that say where they are.

    Written are a state_dict and, where the run began with weights in another form, a second file in that form. Where
    the budget was not kept, both have names of their own, so that nobody deploys them by mistake.
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
        lines.append("         budget not kept: the closest weights found, not to be deployed")
    return "\n".join(lines)


def _save_as_given(model: nn.Module, form: WeightFile, folder: Path, feasible: bool, source: str) -> list[str]:
    names = {True: f"unlearned{form.suffix}", False: f"infeasible{form.suffix}"}
    if names[False] == INFEASIBLE:  # the name of the plain state_dict
        names[False] = f"infeasible-unlearned{form.suffix}"
    write_weight_file(model, form, folder / names[feasible])
    _remove(folder / names[not feasible])
    lines = [f"         {folder / names[feasible]}, in the form of {source}"]
    if form.left_out:
        entries = ", ".join(shown(entry) for entry in form.left_out[:NAMED_ENTRIES])
        more = f" and {len(form.left_out) - NAMED_ENTRIES} more" if len(form.left_out) > NAMED_ENTRIES else ""
        lines.append(f"         left out, since they may hold what was learned: {entries}{more}")
    return lines


@on_main
def _remove(path: Path) -> None:
    """Delete what the same run wrote before it was resumed."""
    path.unlink(missing_ok=True)


@on_main
def show_run(run: PreparedRun, models: dict[str, nn.Module], judgements: dict[str, Judgement], losses: dict) -> None:
    """Write hyper-parameters and final figures; with --figures also the graph, forgotten images and losses.

    `losses` are those of `loss_histograms`.
    """
    record, args = run.record, run.args
    main = next(name for name in ("unlearned", "student", "original") if name in models)
    values = dataclasses.asdict(args).items()
    flags = {name: value for name, value in values if isinstance(value, bool | int | float | str)}
    final = {f"final/{name}": value for name, value in judgements[main].figures.items() if value is not None}
    record.writer.add_hparams(flags, final, run_name=".")
    if not args.figures:
        return
    _graph(record.writer, run.experiment, models[main])
    if main == "unlearned":
        record.writer.add_figure("forget/images", _forgotten_images(run.experiment, models))
        draw_losses(record.path("losses.png"), losses)


def _graph(writer, experiment: Experiment, model: nn.Module) -> None:
    inputs, _ = next(iter(experiment.sets.evaluation(experiment.splits.retain[:1])))
    model.eval()
    try:
        with warnings.catch_warnings():
            # TensorBoard draws graphs by the tracer alone, which PyTorch deprecates.
            warnings.simplefilter("ignore")
            writer.add_graph(model, inputs)
    except RuntimeError as error:  # the model's forward pass cannot be traced
        print(f"no graph in TensorBoard: {str(error).splitlines()[0]}")


def _forgotten_images(experiment: Experiment, models: dict[str, nn.Module]):
    indices = experiment.splits.forget[:SHOWN_IMAGES]
    inputs, labels = next(iter(experiment.sets.evaluation(indices)))
    named = []
    for model in (models["original"], models["unlearned"]):
        with evaluation_mode(model), torch.inference_mode(), experiment.precision.autocast():
            named.append(model(inputs).argmax(1).tolist())
    return draw_images(experiment.dataset.images[indices], experiment.dataset.classes, labels.tolist(), *named)
