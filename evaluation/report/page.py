"""The page of a report: one HTML file that loads nothing, written for readers who are not researchers."""

import base64
import functools
import math
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import jinja2
from markupsafe import Markup, escape

from evaluation.gaps import Figures, is_retrained, mean_figures, retrained_of
from evaluation.report import words
from evaluation.report.arguments import is_unprintable
from evaluation.report.figures import (
    MODELS,
    attack_drawing,
    dial_drawings,
    drawing_style,
    loss_drawings,
    trace_drawings,
)
from evaluation.report.tables import digits_of
from helper_functions.wording import counted
from unlearning.dial import BUDGETS, bought
from unlearning.evaluator import UNSEEN_TOLERANCE, ZERO_TOLERANCE

PAGE, CARD = "report.html", "model_card.md"
TEMPLATE = Path(__file__).parent / "template"
# A picture in the page.
PICTURE = re.compile(r'<img src="data:image/png;base64,([A-Za-z0-9+/=]*)"')


def report_page(report: dict, pictures: Sequence[bytes] = ()) -> str:
    """The page of a report (docs/report.schema.json): the same bits for the same report, pictures and `generator()`.

    `pictures` are PNG files of the images in `report["pictures"]`, in its order.
    """
    shown, images = _shown(report), report["request"]["images"]
    attacks = {name: said for name, said in words.ATTACKS.items() if _is_known(name, shown)}
    cells = functools.partial(_cells, shown=shown, gaps=report.get("gap_intervals", {}).get("unlearned", {}))
    ideal = words.NO_IDEAL if (report["forget"]["request"] or "").startswith("mislabelled") else words.IDEAL
    with drawing_style():
        drawings = {
            "losses": loss_drawings(report["loss_histograms"]),
            "dial": dial_drawings(report["dial"]) if "dial" in report else [],
            "traces": trace_drawings(report) if "verdict" in report else [],
            "attack_drawing": attack_drawing(
                shown, {name: title for name, (title, _) in attacks.items() if name.endswith("_auc")}
            ),
        }
    return render(
        "page.html", report=report, words=words,
        heading=f"Removal of {counted(images, 'image')} from an image classifier",
        heads=["", *_heads(shown, report)], forgetting=_forgetting(report, shown, cells),
        attacks=[[title, *cells(name)] for name, (title, _) in attacks.items()],
        readings=[(title, reading.format(ideal=ideal)) for title, reading in attacks.values()],
        utility=[[title, *cells(name)] for name, title in words.UTILITY.items() if _is_known(name, shown)],
        models=[(MODELS[name][1], MODELS[name][0].lower()) for name in shown],
        pictures=[
            (described, base64.b64encode(png).decode())
            for described, png in zip(report.get("pictures", ()), pictures, strict=True)
        ],
        bought=[(f"{budget:g}", *map(words.number, bought(report["dial"], budget))) for budget in BUDGETS]
        if "dial" in report else [],
        tolerances={"unseen": f"{UNSEEN_TOLERANCE:g}", "zero": f"{ZERO_TOLERANCE:g}",
                    "chance": math.log(report["data"]["classes"])},
        **drawings,
    )  # fmt: skip


def model_card(report: dict) -> str:
    """The model card of a report with a verdict, by Hugging Face's headings; it names no image, class or person."""
    return render("model_card.md", report, words=words)


def render(template: str, report: dict, **values: object) -> str:
    """A template filled with a report, its headline and what else it shows."""
    headline, kind = words.headline(report)
    return _environment().get_template(template).render(
        report=report, headline=headline, kind=kind, number=words.number, count="{:,}".format, counted=counted,
        generator=generator(), **values,
    )  # fmt: skip


def generator() -> str:
    """Versions of the libraries that decide the bits of a page."""
    import matplotlib

    return f"matplotlib {matplotlib.__version__}, Jinja {jinja2.__version__}"


@functools.cache
def _environment() -> jinja2.Environment:
    return jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATE), autoescape=jinja2.select_autoescape(["html"]), finalize=_printable,
        undefined=jinja2.ChainableUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip


def _printable(value: object) -> object:
    """Text that users wrote, with its control characters shown by their numbers: they could reorder what follows."""
    if isinstance(value, Markup):
        return value
    return "".join(f"\\u{ord(letter):04x}" if is_unprintable(letter) else letter for letter in str(value))


def _shown(report: dict) -> dict[str, Figures]:
    """The models side by side: original, unlearned, and the mean of the retrained ones."""
    shown = {name: figures for name, figures in report["models"].items() if not is_retrained(name)}
    if retrained := list(retrained_of(report["models"]).values()):
        shown["retrained"] = mean_figures(retrained)
    return shown


def _heads(shown: dict, report: dict) -> list[str]:
    several = report.get("retrained_models", 0)
    retrained = f"retrained, mean of {several}" if several > 1 else "retrained"
    titles = {"original": "before", "unlearned": "after", "retrained": retrained}
    return [titles[name] for name in shown] + ["gap of after"] * ({"unlearned", "retrained"} <= set(shown))


def _is_known(figure: str, shown: dict[str, Figures]) -> bool:
    return any(figures.get(figure) is not None for figures in shown.values())


def _forgetting(report: dict, shown: dict[str, Figures], cells: Callable[[str], list[str]]) -> list[list[str]]:
    """Rows of accuracy and loss; accuracy by true labels only where they differ from the given ones."""
    rows = []
    for name, (title, part) in words.FORGETTING.items():
        given = name.replace("_true", "")
        if _is_known(name, shown) and (given == name or any(m.get(name) != m.get(given) for m in shown.values())):
            images = Markup(" <small>({})</small>").format(counted(report["data"]["images"][part], "image"))
            rows.append([escape(title) + images, *cells(name)])
    return rows


def _cells(figure: str, shown: dict[str, Figures], gaps: dict[str, list[float]]) -> list[str]:
    """A figure of each model and the gap between unlearned and retrained, each with its interval if there is one."""
    digits, cells = digits_of(figure), []

    def interval(low: float | None, high: float | None, form: str) -> Markup:
        if None in (low, high):
            return Markup("")
        between = " to " if low < 0 else "–"
        return Markup("<small>{}</small>").format(f"{low:z{form}}{between}{high:z{form}}".replace("-", "−"))

    for figures in shown.values():
        ends = (figures.get(f"{figure}_{end}") for end in ("low", "high"))
        value = words.number(figures.get(figure), digits).replace("-", "−")
        cells.append(escape(value) + interval(*ends, f".{digits}f"))
    if {"unlearned", "retrained"} <= set(shown):
        pair, form = [shown[name].get(figure) for name in ("unlearned", "retrained")], f".{digits}f"
        gap = "–" if None in pair else f"{pair[0] - pair[1]:+z{form}}".replace("-", "−")
        cells.append(escape(gap) + interval(*gaps.get(figure, (None, None)), form))
    return cells
