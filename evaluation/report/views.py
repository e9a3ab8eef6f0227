"""TensorBoard's view of a run's end, and the drawing of the losses."""

import warnings

import torch
from torch import nn

from data.pixels import channels_last_storage
from evaluation.judge import Judgement
from evaluation.report.figures import draw_dial, draw_images, draw_losses, draw_student
from helper_functions.safe_files.printable import one_line
from helper_functions.training.distribution import on_main
from helper_functions.training.inference import evaluation_mode
from unlearning.experiment import Experiment
from unlearning.setup import PreparedRun

SHOWN_IMAGES = 25


@on_main
def show_run(run: PreparedRun, models: dict[str, nn.Module], judgements: dict[str, Judgement], report: dict) -> None:
    """Write hyper-parameters and final figures; with --figures also the graph, the dial and losses.

    Forgotten images are shown with --show_images alone.
    """
    record, args = run.record, run.args
    main = next(name for name in ("unlearned", "student", "original") if name in models)
    record.hparams(args, run.experiment.splits.forget_request, judgements[main].figures)
    if not args.figures:
        return
    _graph(record.writer, run.experiment, models[main])
    if report.get("dial"):
        record.writer.add_figure("dial", draw_dial(report["dial"]))
    if main == "student":
        drawn = draw_student(record.folder, judgements["teacher"].figures["validation_top1"])
        record.writer.add_figure("student", drawn)
    if main == "unlearned":
        if args.show_images:
            record.writer.add_figure("forget/images", _forgotten_images(run.experiment, models))
        draw_losses(record.path("losses.png"), report["loss_histograms"])


def _graph(writer, experiment: Experiment, model: nn.Module) -> None:
    inputs, _ = next(iter(experiment.sets.evaluation(experiment.splits.retain[:1])))
    model.eval()
    try:
        with warnings.catch_warnings():
            # TensorBoard draws graphs by the tracer alone, which PyTorch deprecates.
            warnings.simplefilter("ignore")
            writer.add_graph(model, inputs)
    except Exception as error:  # a forward pass that cannot be traced may raise any
        print(f"no graph in TensorBoard: {one_line(str(error))}")


def _forgotten_images(experiment: Experiment, models: dict[str, nn.Module]):
    indices = experiment.splits.forget[:SHOWN_IMAGES]
    # Made here, since rank 0 is alone, and loaders make a rank's own rows.
    loader, named = experiment.sets.evaluation(indices), []
    inputs = loader.normaliser(channels_last_storage(experiment.dataset.images[indices]).to(loader.device))
    for model in (models["original"], models["unlearned"]):
        with evaluation_mode(model), torch.inference_mode(), experiment.precision.autocast():
            named.append(model(inputs).argmax(1).tolist())
    pictures = torch.stack([experiment.dataset.picture(index) for index in indices.tolist()])
    return draw_images(pictures, experiment.dataset.classes, experiment.splits.labels[indices].tolist(), *named)
