"""The figure of `sequential`: retain accuracy, and that on all forgotten images, request by request."""

from pathlib import Path

from helper_functions.files import whole_file

SEQUENCE, AT_ONCE, RETRAINED, HELD_OUT = "#2e4057", "#d1495b", "#66a182", "#8d96a3"
TITLES = {"random": "14 random images a request", "mislabelled": "a tenth of the wrong labels a request"}
LABELS = {"random": "accuracy, %", "mislabelled": "accuracy on the given labels, %"}
LOWEST = {"random": 85, "mislabelled": -3}


def draw_sequences(path: Path, rows: list[dict]) -> None:
    """For each setting, the fall of retain accuracy by seed, and the accuracy on every forget set; written as a PNG.

    Args:
        path: of the PNG.
        rows: of `benchmarks.sweeps.sequential`.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    settings = list(dict.fromkeys(row["setting"] for row in rows))
    figure, axes = pyplot.subplots(
        len(settings), 2, figsize=(11, 3.6 * len(settings)), layout="constrained", squeeze=False
    )
    for (left, right), setting in zip(axes, settings, strict=True):
        chains = [row for row in rows if row["setting"] == setting]
        _draw_falls(left, chains)
        _draw_sets(right, chains, pyplot.get_cmap("viridis"))
        left.set(title=TITLES[setting], ylabel="fall of retain accuracy, points")
        right.set(title="the images of each request, mean", ylabel=LABELS[setting], ylim=(LOWEST[setting], 101))
    for axis in axes[-1]:
        axis.set_xlabel("requests so far")
        axis.legend(fontsize=9, loc="upper center", bbox_to_anchor=(0.5, -0.18), ncols=2)
    with whole_file(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
    pyplot.close(figure)


def _draw_falls(axis, chains: list[dict]) -> None:
    """The fall from the first original, a line a seed; the end of one big request beside the end of the sequence."""
    for chain in chains:
        falls = [0.0, *(each["fall"] for each in chain["requests_run"])]
        axis.plot(range(len(falls)), falls, "o-", color=SEQUENCE, markersize=3, alpha=0.8, linewidth=1)
        axis.plot(chain["requests"] + 0.4, chain["at_once"]["fall"], "D", color=AT_ONCE, markersize=5)
        axis.plot(chain["requests"] + 0.7, chain["retrained"]["fall"], "^", color=RETRAINED, markersize=5)
    axis.axhline(chains[0]["retain_budget"], color="black", linestyle="--", linewidth=1)
    named = {
        "one after another, by seed": {"color": SEQUENCE, "marker": "o", "markersize": 3},
        "all at once": {"color": AT_ONCE, "marker": "D", "linestyle": ""},
        "retrained": {"color": RETRAINED, "marker": "^", "linestyle": ""},
        "budget of the whole sequence": {"color": "black", "linestyle": "--"},
    }
    axis.set_ylim(bottom=-0.05 * chains[0]["retain_budget"])
    for label, style in named.items():
        axis.plot([], [], label=label, **style)
    axis.set_xticks(range(chains[0]["requests"] + 1))


def _draw_sets(axis, chains: list[dict], colours) -> None:
    """Accuracy on each request's images from before the sequence to its end, means over the seeds that came so far."""
    last = max(len(chain["requests_run"]) for chain in chains)

    def after_request(step: int, *path: str | int) -> float:
        return _mean([chain["requests_run"][step] for chain in chains if len(chain["requests_run"]) > step], *path)

    for number in range(last):
        before = _mean(chains, "original", "lots", number, "top1")
        after = [after_request(step, "lots", number, "top1") for step in range(number, last)]
        colour = colours(0.9 * number / max(1, last - 1))
        axis.plot([number, *range(number + 1, last + 1)], [before, *after], "-", color=colour, linewidth=1)
        axis.plot(number + 1, after[0], "o", color=colour, markersize=4)
    held_out = [after_request(step, "held_out", "top1") for step in range(last)]
    held_out.insert(0, _mean(chains, "original", "held_out", "top1"))
    axis.plot(range(last + 1), held_out, "--", color=HELD_OUT, label="held-out images")
    for name, key, colour in (("all at once", "at_once", AT_ONCE), ("retrained", "retrained", RETRAINED)):
        level = _mean(chains, key, "forgotten", "top1")
        axis.axhline(level, color=colour, linestyle=":", label=f"{name}, all ten sets")
    axis.plot([], [], "o-", color=colours(0.4), markersize=4, label="one request's set, dot: its turn")
    axis.set_xticks(range(last + 1))


def _mean(found: list[dict], *path: str | int) -> float:
    """Over the figures at the end of a path into each."""
    for key in path:
        found = [each[key] for each in found]
    return sum(found) / len(found)
