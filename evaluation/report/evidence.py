"""What a report shows as evidence: tables and figures of forgetting, of attacks, of what the rest lost."""

from evaluation.gaps import Figures, is_retrained, mean_figures, retrained_of
from evaluation.report import words
from evaluation.report.figures import attack_panel, loss_panels, trace_panels
from evaluation.report.html import bullets, paragraph, section, table, text

INTERVAL_LINE = "Below a figure, the 95 % interval: where it would lie for other images of the same kind."


def _shown(report: dict) -> dict[str, Figures]:
    """The models that stand side by side: original, unlearned, and the mean of the retrained ones."""
    shown = {name: figures for name, figures in report["models"].items() if not is_retrained(name)}
    if retrained := list(retrained_of(report["models"]).values()):
        shown["retrained"] = mean_figures(retrained)
    return shown


def _heads(shown: dict, report: dict) -> list[str]:
    several = report.get("retrained_models", 0)
    titles = {"original": "before", "unlearned": "after", "retrained": "retrained"}
    if several > 1:
        titles["retrained"] = f"retrained, mean of {several}"
    gap = ["gap of after"] if {"unlearned", "retrained"} <= set(shown) else []
    return [titles[name] for name in shown] + gap


def _cells(figure: str, shown: dict[str, Figures]) -> list[str]:
    digits = 2 if figure.endswith(("_top1", "_tpr", "_efficacy")) else 3
    cells = []
    for figures in shown.values():
        cell = words.number(figures.get(figure), digits)
        low, high = (figures.get(f"{figure}_{end}") for end in ("low", "high"))
        if None not in (low, high):
            cell += f"<small>{low:.3f}–{high:.3f}</small>"
        cells.append(cell)
    if {"unlearned", "retrained"} <= set(shown):
        pair = [shown[name].get(figure) for name in ("unlearned", "retrained")]
        cells.append("–" if None in pair else f"{pair[0] - pair[1]:+.{digits}f}".replace("-", "−"))
    return cells


def forgotten(report: dict) -> str:
    if "verdict" not in report:
        return ""
    shown, images = _shown(report), report["data"]["images"]
    rows = [
        [f"{text(title)} <small>({images[part]:,} images)</small>", *_cells(figure, shown)]
        for figure, (title, part) in words.FORGETTING.items()
        if _differs(figure, shown)
    ]
    return section(
        "forgotten", "How well it was forgotten",
        paragraph(
            "A model that never saw the images treats them as it treats other images that it never saw. The loss says "
            "how wrong the model is about an image's label: 0 is sure and right."
        ),
        table("Accuracy and loss", ["", *_heads(shown, report)], rows), _noise(report), _attacks(report, shown),
    )  # fmt: skip


def _differs(figure: str, shown: dict[str, Figures]) -> bool:
    """Whether a figure is there; one by true labels is shown where they are not the given ones."""
    known = [figures for figures in shown.values() if figures.get(figure) is not None]
    if figure == "forget_true_top1":
        return any(figures[figure] != figures.get("forget_top1") for figures in known)
    return bool(known)


def _noise(report: dict) -> str:
    gap = report.get("avg_gap", {}).get("unlearned")
    if gap is None:
        return ""
    floor = report.get("noise_floor")
    noise = "" if floor is None else f" Retrained models lie {floor:.2f} points from each other by chance alone."
    return paragraph(
        f"On average over four figures, the result lies {gap:.2f} points from the retrained model (AvgGap).{noise}"
    )


def _attacks(report: dict, shown: dict[str, Figures]) -> str:
    present = {name: said for name, said in words.ATTACKS.items() if any(name in m for m in shown.values())}
    present = {name: said for name, said in present.items() if any(m.get(name) is not None for m in shown.values())}
    auc = report.get("held_out_discriminator_auc")
    held_out = "" if auc is None else paragraph(
        "While it ran, a fresh discriminator on held-out pairs came from an AUC of "
        f"{words.number(auc['original'], 3)} to {words.number(auc['unlearned'], 3)}; 0.5 is chance."
    )  # fmt: skip
    if not present:
        judged = report["run"]["judge"]
        said = "None was run." if judged == "final" else "None was run: the judgement rests on validation images alone."
        return f"<h3>Attacks</h3>{paragraph(said)}{held_out}"
    ideal = words.NO_IDEAL if report["forget"]["request"].startswith("mislabelled") else words.IDEAL
    rows = [[text(title), *_cells(name, shown)] for name, (title, _) in present.items()]
    reading = [f"<b>{text(title)}.</b> {text(how.format(ideal=ideal))}" for title, how in present.values()]
    titles = {name: title for name, (title, _) in present.items() if name.endswith("_auc")}
    drawing = attack_panel(shown, titles)
    figure = "" if drawing is None else f"{_key(_models(shown))}<figure>{drawing}</figure>"
    return (
        "<h3>Attacks: can the images still be told from images that were never seen?</h3>"
        f"{table('Attacks', ['', *_heads(shown, report)], rows)}{paragraph(INTERVAL_LINE)}{figure}"
        f"{bullets(reading)}{held_out}"
    )


def _models(shown: dict) -> dict[str, str]:
    names = {"original": "before", "unlearned": "after", "retrained": "retrained without them"}
    return {name: names[name] for name in shown}


def _key(entries: dict[str, str]) -> str:
    lines = (f'<li class="{kind}"><span></span>{text(title)}</li>' for kind, title in entries.items())
    return f'<ul class="key">{"".join(lines)}</ul>'


def rest(report: dict) -> str:
    shown = _shown(report)
    rows = [[text(title), *_cells(figure, shown)] for figure, title in words.UTILITY.items() if _differs(figure, shown)]
    return section("rest", "What the rest lost", table("Utility", ["", *_heads(shown, report)], rows))


def figures(report: dict) -> str:
    histograms = loss_panels(report["loss_histograms"])
    drawn = "".join(_panel(title, drawing) for title, drawing in histograms)
    course = trace_panels(report) if "verdict" in report else []
    parts = [
        "<h3>Loss of each image</h3>",
        paragraph("Forgotten is what lies where the test images lie. Shares of the images, in per cent."),
        _key({"forget": "images to forget", "test": "test images"}), f'<div class="grid">{drawn}</div>',
    ]  # fmt: skip
    if course:
        parts += ["<h3>The course of forgetting</h3>"]
        if report["forget"]["chosen_epoch"] is not None:
            parts += [paragraph("A ring marks the epoch whose state was saved.")]
        parts += [f'<div class="grid">{"".join(_panel(title, drawing) for title, drawing in course)}</div>']
    return section("figures", "Figures", *parts)


def _panel(title: str, drawing: str) -> str:
    return f"<figure><figcaption>{text(title)}</figcaption>{drawing}</figure>"
