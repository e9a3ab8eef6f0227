"""The figure of `benchmarks.speed.growth`: seconds over each factor, on logarithmic scales."""

from pathlib import Path

from helper_functions.files import whole_file

COLOURS = {"unlearning": "#d1495b", "evaluation": "#2e4057"}


def draw_growth(path: Path, factors: dict[str, dict]) -> None:
    """One panel a factor: medians with their ranges, slopes in the legend; written as a PNG.

    Args:
        path: of the PNG.
        factors: as in growth.json, by name.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, len(factors), figsize=(3.4 * len(factors), 3), sharey=True, layout="constrained")
    for axis, factor in zip(axes, factors.values(), strict=True):
        rows = factor["settings"]
        xs = [row["x"] for row in rows]
        for name, colour in COLOURS.items():
            key = f"{name}_seconds"
            label = f"{name}, slope {factor['slopes'][key]:.2f}"
            axis.plot(xs, [row[key] for row in rows], "o-", color=colour, markersize=3, label=label)
            low, high = zip(*[row["ranges"][key] for row in rows], strict=True)
            axis.fill_between(xs, low, high, color=colour, alpha=0.2, linewidth=0)
        axis.set(xscale="log", yscale="log", xlabel=factor["x"])
        axis.legend(fontsize=8)
    axes[0].set_ylabel("seconds")
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=100)
    pyplot.close(figure)
