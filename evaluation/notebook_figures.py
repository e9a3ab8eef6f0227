"""Figures of the notebook contrastive_classifiers.ipynb; each function takes measurements and returns a figure.

The figures do not use pyplot, so that a notebook shows each once under any backend.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from contrastive_discrimination.critic import Critic
from contrastive_discrimination.held_out import Auc, auc_of, held_out_scores
from contrastive_discrimination.pairs import Pairs

DPI = 80
COLOURS = {
    "forget": "#d1495b", "unseen": "#2e4057", "retain": "#3d9970", "same": "#00798c", "different": "#e08e2b",
}  # fmt: skip
LINES = ("#2e4057", "#d1495b", "#3d9970", "#e08e2b", "#00798c", "#8e6c8a")
CLASSES = ("#2e4057", "#e08e2b", "#3d9970", "#8e6c8a", "#00798c", "#7d8597")
GRID = np.linspace(0, 1, 201)
LEGEND = {"frameon": False, "fontsize": 8}
Scalars = dict[str, tuple[np.ndarray, np.ndarray]]


def _panels(rows: int, columns: int, width: float, height: float, **shared) -> tuple[Figure, np.ndarray]:
    figure = Figure(figsize=(width * columns, height * rows), dpi=DPI, layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    for axis in axes.flat:
        axis.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _colour(name: str) -> str:
    """The colour of the first word of a name."""
    return COLOURS[name.split()[0].rstrip(",")]


def draw_histograms(panels: dict[str, dict[str, Tensor]], label: str, *, bins: int = 40, log: bool = False) -> Figure:
    """Histograms with common bins in percent of each sample; values outside are in the outermost bins.

    Args:
        panels: title to name to values `[n]`; the first word of a name is one of `COLOURS`.
        label: of the horizontal axis.
        log: bins of equal ratio, from 1e-6 upwards.
    """
    columns = min(4, len(panels))
    figure, axes = _panels(math.ceil(len(panels) / columns), columns, 3.6, 2.9, sharex=True)
    values = torch.cat([sample for samples in panels.values() for sample in samples.values()]).double().cpu().numpy()
    low, high = max(values.min(), 1e-6) if log else values.min(), values.max()
    edges = np.geomspace(low, high, bins + 1) if log else np.linspace(low, high, bins + 1)
    for axis, (title, samples) in zip(axes.flat, panels.items(), strict=False):
        for name, sample in samples.items():
            inside = np.clip(sample.double().cpu().numpy(), edges[0], edges[-1])
            shares = {"weights": np.full(len(inside), 100 / len(inside)), "color": _colour(name)}
            axis.hist(inside, edges, alpha=0.35, **shares)
            axis.hist(inside, edges, histtype="step", linewidth=1.4, label=name, **shares)
        axis.set(title=title, xscale="log" if log else "linear")
        if len(samples) > 1:
            axis.legend(**LEGEND)
    figure.supxlabel(label, fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel("% of the sample")
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    return figure


def draw_averaging(sizes: list[int], deviations: dict[str, list[float]], aucs: list[float], distance: float) -> Figure:
    """Spread of group means and AUC by group size, with the values of independent normal samples.

    Args:
        sizes: group sizes g, the first of which is 1.
        deviations: name to the standard deviation of group means, one a size.
        aucs: of group means, one a size.
        distance: d, between the two means in root-mean-square standard deviations of single images.
    """
    figure, ((spread, area),) = _panels(1, 2, 4.4, 3.0)
    line = np.geomspace(sizes[0], sizes[-1], 50)
    for name, values in deviations.items():
        spread.plot(sizes, values, "o", color=_colour(name), label=f"{name}, measured")
        expected = values[0] / np.sqrt(line)
        spread.plot(line, expected, color=_colour(name), linewidth=1, label=rf"{name}, $\sigma/\sqrt{{g}}$")
    spread.set(xscale="log", yscale="log", ylabel="standard deviation of the mean (decades)")
    expected = [0.5 * (1 + math.erf(math.sqrt(size) * distance / 2)) for size in line]
    area.plot(sizes, aucs, "o", color=COLOURS["unseen"], label="measured")
    label = r"normal samples, $\Phi(\sqrt{g}\,d/\sqrt{2})$"
    area.plot(line, expected, color=COLOURS["unseen"], linewidth=1, label=label)
    area.set(xscale="log", ylim=(0.5, 1.02), ylabel="AUC of group means")
    for axis in (spread, area):
        axis.set_xlabel("group size g (images)")
        axis.set_xticks(sizes, map(str, sizes))
        axis.minorticks_off()
        axis.legend(**LEGEND)
    return figure


def held_out_roc(
    build: Callable[[], Critic], same: Pairs, different: Pairs, *, seed: int = 0, **options
) -> tuple[np.ndarray, Auc]:
    """The mean over folds of the ROC curve, true positives `[201]` at the rates in `GRID`, and `held_out_auc`.

    *Same* is the positive kind; the arguments are those of `held_out_auc`.
    """
    from sklearn.metrics import roc_curve

    folds = held_out_scores(build, same, different, seed=seed, **options)
    curves = []
    for fold in folds:
        rates = roc_curve(np.repeat([1, 0], [len(scores) for scores in fold.scores]), torch.cat(fold.scores).numpy())
        curves.append(np.interp(GRID, rates[0], rates[1]))
    curve = np.mean(curves, axis=0)
    curve[0] = 0.0
    return curve, auc_of(folds, seed)


def draw_rocs(panels: dict[str, dict[str, tuple[np.ndarray, Auc]]]) -> Figure:
    """Results of `held_out_roc` by title and discriminator; the legend gives each AUC and its 95 % interval."""
    figure, axes = _panels(1, len(panels), 4.0, 5.4, sharey=True)
    for axis, (title, curves) in zip(axes.flat, panels.items(), strict=True):
        axis.plot([0, 1], [0, 1], color="#b0b0b0", linewidth=1, linestyle="--")
        for colour, (name, (curve, auc)) in zip(LINES, curves.items(), strict=False):
            label = f"{name}  {auc.value:.2f}  [{auc.low:.2f}, {auc.high:.2f}]"
            axis.plot(GRID, curve, color=colour, linewidth=1.5, label=label)
        axis.set(title=title, xlabel="share of different pairs called same", aspect="equal")
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16)}
        axis.legend(title="AUC and its 95 % interval", title_fontsize=8, **place, **LEGEND)
    axes[0, 0].set_ylabel("share of same pairs called same")
    return figure


def draw_planes(models: dict[str, nn.Module], retain: TensorDataset, forget: TensorDataset) -> Figure:
    """Decision regions of classifiers of the plane by title, paler where the model is less certain.

    Points `[N, 2]` have the colour of their class; those to forget have a ring around them.
    """
    from matplotlib.colors import to_rgb

    figure, axes = _panels(1, len(models), 3.2, 3.4, sharex=True, sharey=True)
    inputs = torch.cat([retain.tensors[0], forget.tensors[0]])
    low, high = (inputs.amin(0) - 0.3).tolist(), (inputs.amax(0) + 0.3).tolist()
    xs, ys = (torch.linspace(*ends, 160) for ends in zip(low, high, strict=True))
    grid = torch.cartesian_prod(ys, xs).flip(1)
    colours = np.array([to_rgb(colour) for colour in CLASSES])
    for axis, (title, model) in zip(axes.flat, models.items(), strict=True):
        with torch.no_grad():
            probability, named = (part.unflatten(0, (160, 160)).numpy() for part in model(grid).softmax(1).max(1))
        picture = 1 - 0.5 * probability[..., None] * (1 - colours[named])
        axis.imshow(picture, origin="lower", extent=(low[0], high[0], low[1], high[1]), aspect="equal")
        axis.scatter(*retain.tensors[0].T, s=8, c=colours[retain.tensors[1]], linewidths=0, label="retain")
        ring = {"edgecolors": COLOURS["forget"], "linewidths": 0.9, "label": "forget"}
        axis.scatter(*forget.tensors[0].T, s=16, c=colours[forget.tensors[1]], **ring)
        axis.set(title=title, xlabel="$x_1$")
    axes[0, 0].set_ylabel("$x_2$")
    axes[0, 0].legend(fontsize=8, loc="lower left")
    return figure


def draw_course(scalars: Scalars, chosen: int | None, retrained_forget_top1: float) -> Figure:
    """A run of unlearning over its gradient steps: accuracies, violation, multiplier, and the discriminator's AUC.

    Args:
        scalars: of `read_scalars`, of a run with a discriminator.
        chosen: epoch, from 1, whose weights were kept; None where no epoch kept the budget.
        retrained_forget_top1: top-1 on the forget set of the retrained model, in percent.
    """
    figure, axes = _panels(2, 2, 4.8, 3.0, sharex=True)
    accuracy, violation, discriminator, multiplier = axes.flat
    for part in ("retain", "unseen", "forget"):
        accuracy.plot(*scalars[f"{part}/top1"], color=COLOURS[part], marker=".", label=part)
    thin = {"color": COLOURS["forget"], "linewidth": 1}
    accuracy.axhline(retrained_forget_top1, label="forget, retrained", linestyle=":", **thin)
    accuracy.set(title="accuracy after each epoch", ylabel="top-1 (%)")
    violation.plot(*scalars["constraint/violation"], color=COLOURS["retain"], label="smoothed, on batches")
    violation.set(title="constraint violation", ylabel="accuracy points")
    multiplier.plot(*scalars["constraint/multiplier"], color=COLOURS["retain"])
    multiplier.set(title="multiplier of the retain constraint", ylabel=r"$\lambda$", xlabel="gradient step")
    steps, low = scalars["discriminator/auc_low"]
    interval = {"color": COLOURS["unseen"], "alpha": 0.2, "linewidth": 0, "label": "95 % interval"}
    discriminator.fill_between(steps, low, scalars["discriminator/auc_high"][1], **interval)
    discriminator.plot(*scalars["discriminator/auc"], color=COLOURS["unseen"], marker=".", label="AUC")
    discriminator.set(title="fresh discriminator, held-out pairs", ylabel="AUC", xlabel="gradient step")
    for axis, level in ((violation, 0), (discriminator, 0.5)):
        axis.axhline(level, color="#b0b0b0", linewidth=1)
    passes = zip(*scalars.get("constraint/share", ((), ())), strict=True)
    marked = [step for step, share in passes if share != 1]
    for axis in (violation, multiplier):
        for number, step in enumerate(marked):
            axis.axvline(step, linestyle="--", label=None if number else "pass shortened or lengthened", **thin)
    for axis in (accuracy, discriminator) if chosen is not None else ():
        axis.axvline(steps[chosen - 1], color="#404040", linewidth=1, linestyle="-.", label="epoch kept")
    for axis in (accuracy, violation, discriminator):
        place = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.18 if axis is discriminator else -0.05)}
        axis.legend(ncols=5, columnspacing=1.0, handlelength=1.4, **place, **LEGEND)
    return figure
