"""Single checks of a report: the reported value, the found one, and whether both agree within a stated tolerance."""

import dataclasses
import json
import math
from typing import Any

from evaluation.report.tables import FIGURES

# On the hardware and versions of the run itself, figures agree up to the last written digits.
ROUNDING = 1e-4
# Elsewhere: number of images that may be classified differently, in accuracies and in attacks; least tolerances.
ACCURACY_IMAGES, ATTACK_IMAGES = 2, 5
LEAST_POINTS, LEAST_AUC, LEARNED_AUC = 0.05, 0.005, 0.02
OTHER = 0.01
LONGEST_VALUE = 16
STATES = {True: "holds", False: "DIFFERS", None: "not checked"}


@dataclasses.dataclass(frozen=True)
class Check:
    """One comparison; `holds` is None where nothing could be compared."""

    what: str
    reported: str
    found: str
    holds: bool | None

    def __str__(self) -> str:
        return f"{self.what:44s} {self.reported:>{LONGEST_VALUE}s} {self.found:>{LONGEST_VALUE}s}  {STATES[self.holds]}"


def at(content: Any, *names: str) -> Any:
    """The value under these names in nested dicts, None where there is none."""
    for name in names:
        content = content.get(name) if isinstance(content, dict) else None
    return content


def exact(what: str, reported: Any, found: Any) -> Check:
    """A check of values that have to be equal in type and value: True is not 1 and 1 is not 1.0."""
    return Check(what, _short(reported), _short(found), _equal(reported, found))


def near(what: str, reported: Any, found: Any, tolerance: float) -> Check:
    """A check of two numbers, or of two None."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (reported, found))
    close = abs(reported - found) <= tolerance if numbers else reported is None and found is None
    return Check(what, _short(reported), _short(found), close)


def all_near(what: str, reported: Any, found: Any, tolerance: float) -> Check:
    """One check of nested dicts and lists: floats within the tolerance, everything else equal."""
    one, other = _leaves(reported), _leaves(found)
    different = one.keys() ^ other.keys()
    different |= {place for place in one.keys() & other.keys() if not _agree(one[place], other[place], tolerance)}
    counted = f"{len(one)} values"
    return Check(what, counted, f"{len(different)} other" if different else counted, not different)


def tolerance_of(figure: str, images: dict[str, int], told: Any = None) -> float | None:
    """How far a figure may deviate on other hardware or versions; None where it cannot be compared.

    Accuracies: two images of their part and at least 0.05 points. An attack's other percentages: five images. An AUC:
    two images, a quarter of its 95 % interval and at least 0.005; at least 0.02 where the attack is trained or reads
    other models. Differences of AUCs and ratios of accuracies: as those. Losses: 0.005 and one per cent. True
    positives at few false ones and the tenth found best depend on single images: None.

    `images` are their numbers by part, `told` the reported figures of the model.
    """
    forget = max(images.get("forget", 0), 1)
    part = figure.split("_")[0]
    if "_auc" in figure or figure.startswith("retain_exposure"):
        name = figure.removesuffix("_low").removesuffix("_high")
        ends = [at(told, f"{name}{end}") for end in ("_low", "_high")]
        width = abs(ends[1] - ends[0]) if all(isinstance(end, float) for end in ends) else 0.0
        return max(LEAST_AUC if part == "mia" else LEARNED_AUC, ACCURACY_IMAGES / forget, width / 4)
    if figure.endswith("_tpr") or "_worst_tenth" in figure:
        return None
    if figure == "residual_knowledge":
        return max(LEARNED_AUC, ACCURACY_IMAGES / forget)
    if figure.endswith(("_accuracy", "_efficacy")):
        return max(LEAST_POINTS, 100 * ATTACK_IMAGES / forget)
    if "_top" in figure:
        return max(LEAST_POINTS, 100 * ACCURACY_IMAGES / max(images.get(part, 0), 1))
    if figure.endswith("_loss"):
        value = at(told, figure)
        return 0.005 + 0.01 * (abs(value) if isinstance(value, float) else 0)
    return OTHER


def titled(figure: str) -> str:
    """The title of a figure in tables."""
    for end, title in (("_low", ", low"), ("_high", ", high")):
        if figure.endswith(end):
            return titled(figure.removesuffix(end)) + title
    return FIGURES.get(figure, figure)


def _agree(one: Any, other: Any, tolerance: float) -> bool:
    numbers = all(isinstance(value, float) for value in (one, other))
    return abs(one - other) <= tolerance if numbers else _equal(one, other)


def _leaves(content: Any, place: str = "") -> dict[str, Any]:
    if isinstance(content, dict | list) and content:
        items = content.items() if isinstance(content, dict) else enumerate(content)
        return {key: leaf for name, item in items for key, leaf in _leaves(item, f"{place}/{name}").items()}
    return {place: content}


def _equal(one: Any, other: Any) -> bool:
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


def _short(value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, float):
        return f"{value:.4f}" if math.isfinite(value) else str(value)
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict | list):
        return f"{len(value)} entries"
    line = "".join(letter if letter.isprintable() else "?" for letter in str(value))
    return line if len(line) <= LONGEST_VALUE else f"{line[: LONGEST_VALUE - 1]}…"
