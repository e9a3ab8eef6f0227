"""What TensorBoard and the run folder show beside scalars: graph, hyper-parameters, forgotten images, a figure."""

import dataclasses
import warnings

import torch
from torch import nn

from evaluation.figures import draw_images, draw_losses
from evaluation.judge import Judgement
from helper_functions.record import RunRecord
from helper_functions.training.distribution import on_main
from helper_functions.training.inference import evaluation_mode
from unlearning.experiment import Experiment

SHOWN_IMAGES = 25


@on_main
def show_run(
    record: RunRecord,
    experiment: Experiment,
    models: dict[str, nn.Module],
    judgements: dict[str, Judgement],
    args: object,
) -> None:
    """Write hyper-parameters with final figures; with --figures the graph, forgotten images and losses, too."""
    main = next(name for name in ("unlearned", "student", "original") if name in models)
    values = dataclasses.asdict(args).items()
    flags = {name: value for name, value in values if isinstance(value, bool | int | float | str)}
    final = {f"final/{name}": value for name, value in judgements[main].figures.items() if value is not None}
    record.writer.add_hparams(flags, final, run_name=".")
    if not args.figures:
        return
    _graph(record, experiment, models[main])
    if main == "unlearned":
        figure = _forgotten_images(experiment, models)
        record.writer.add_figure("forget/images", figure)
        draw_losses(record.path("losses.png"), {name: judgements[name].losses for name in judgements})


def _graph(record: RunRecord, experiment: Experiment, model: nn.Module) -> None:
    inputs, _ = next(iter(experiment.sets.evaluation(experiment.splits.retain[:1])))
    model.eval()
    try:
        with warnings.catch_warnings():
            # TensorBoard has no other way yet to draw a graph than the tracer that PyTorch advises against.
            warnings.simplefilter("ignore")
            record.writer.add_graph(model, inputs)
    except RuntimeError as error:  # a model whose forward pass cannot be traced has no graph to show
        print(f"no graph in TensorBoard: {str(error).splitlines()[0]}")


def _forgotten_images(experiment: Experiment, models: dict[str, nn.Module]):
    indices = experiment.splits.forget[:SHOWN_IMAGES]
    inputs, labels = next(iter(experiment.sets.evaluation(indices)))
    named = {}
    for name in ("original", "unlearned"):
        model = models[name]
        with evaluation_mode(model), torch.inference_mode(), experiment.precision.autocast():
            named[name] = model(inputs).argmax(1).tolist()
    dataset = experiment.dataset
    return draw_images(dataset.images[indices], dataset.classes, labels.tolist(), named["original"], named["unlearned"])
