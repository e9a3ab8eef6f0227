"""A report as a run would write it, made up, for tests of its page and of its schema."""

import copy
import re
from html.parser import HTMLParser

from evaluation.report.record import DIGEST, PAGE_DIGEST, report_digest

SHA = "0123456789abcdef" * 4
PARTS = ("retain", "forget", "forget_true", "unseen", "validation", "test")


def figures(accuracy: float, forget: float, auc: float) -> dict:
    """Figures of a model that is right on so many per cent of all images, and on so many of those to forget."""
    found = {}
    for part in PARTS:
        right = forget if part.startswith("forget") else accuracy
        found |= {f"{part}_top1": right, f"{part}_top1_low": right - 4, f"{part}_top1_high": 100.0}
        found |= {f"{part}_top5": 100.0, f"{part}_loss": (100 - right) / 25}
    for attack in ("mia_auc", "discriminator_auc", "retain_mia_auc"):
        found |= {attack: auc, f"{attack}_low": auc - 0.05, f"{attack}_high": auc + 0.05}
    for attack in ("mia", "discriminator"):
        tenth = f"{attack}_worst_tenth"
        found |= {tenth: 100 * auc, f"{tenth}_low": 40.0, f"{tenth}_high": 90.0}
    return found | {"mia_accuracy": 52.5, "mia_tpr": 1.5, "mia_efficacy": 47.25}


def example(retrained: int = 1, **parts: object) -> dict:
    """The report, with its digest.

    Args:
        retrained: how many retrained models it tells of.
        parts: keys that take the place of its own; None leaves one out.
    """
    edges = [10.0 ** (power / 2 - 4) for power in range(11)]
    models = {"original": figures(92.5, 100.0, 0.71), "unlearned": figures(91.75, 93.25, 0.53)}
    extra = {"js_divergence": 0.01, "activation_distance": 0.1, "rmia_auc": 0.5, "rmia_auc_low": 0.4}
    extra |= {"rmia_auc_high": 0.6, "rmia_tpr": 1.0, "rmia_worst_tenth": None, "residual_knowledge": 1.04}
    for number in range(1, retrained + 1):
        models["retrained" if number == 1 else f"retrained-{number}"] = figures(97.0 + number / 10, 94.0, 0.5)
    models["unlearned"] |= {"retain_exposure": -0.02, "retain_exposure_low": -0.03, "retain_exposure_high": 0.01}
    if retrained:
        models = {name: one | ({} if "retrained" in name else extra) for name, one in models.items()}
    cost = {"seconds": 12.5, "gradient_steps": 300, "images": 9000, "peak_memory_bytes": 2**29}
    shares = {"forget": [10.0] * 10, "test": [0.0] * 5 + [20.0] * 5}
    report = {
        "schema_version": 1,
        "created": "2026-11-03T09:30:00+00:00",
        "request": {"id": "2026/17", "requester": "M. Muster", "forget": "file:withdrawn.txt", "images": 40,
                    "sha256": SHA},
        "run": {"name": "unlearning-20261103-093000", "script": "train_constrained_unlearning.py",
                "method": "constrained", "judge": "final", "seed": 0, "seconds": 12.5, "configuration_sha256": SHA,
                "code": {"version": "0.1.0", "commit": "a" * 40, "changed": False}, "python": "3.12.1",
                "torch": "2.11.0", "device": "cpu", "cpu": "Example CPU", "cpu_threads": 2, "precision": "float32"},
        "data": {"dataset": "imagefolder", "classes": 10, "named_by": "file name",
                 "images": {"train": 1000, "validation": 50, "unseen": 40, "forget": 40, "retain": 960, "test": 200}},
        "verdict": {"feasible": True, "forgotten": True, "retain_budget": 1.0, "slack": 0.25, "margin": 0.0,
                    "held_out_fall": 0.5, "held_out_margin": 0.25, "met_before": False,
                    "outcome": "forgotten, budget kept"},
        "models": models,
        "preprocessing": {"model": "resnet18", "stem": "auto", "width": 16, "data_dir": "photos", "class_order": None,
                          "image_size": [64, 64], "resize": "short", "resize_size": [64], "crop": "center",
                          "interpolation": "bilinear", "channels": 3, "exif_orientation": True, "transform": None,
                          "mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225],
                          "accuracy": {"retain": 92.5, "forget": 100.0, "held_out": 92.5, "train": 92.8},
                          "confirmed_by": "expected_accuracy", "warning": None},
        "cost": {"original": cost, "unlearned": cost, "retrained": {**cost, "seconds": 50.0}},
        "forget": {"request": "file:withdrawn.txt", "images": 40, "method": "constrained", "target": "unseen",
                   "chosen_epoch": 2, "multiplier": 11.0, "share": 1.0, "line_search": [{"step": 7, "share": 0.5}]},
        "class_falls": {
            "retain": [{"class": "cat", "images": 96, "before": 95.0, "after": 90.625, "low": 82.95, "high": 95.62,
                        "fall": 4.375}],
            "held_out": [],
        },
        "model_card_sha256": SHA,
        "splits_sha256": SHA,
        "final_test": "stratified",
        "judged_retain_images": 960,
        "loss_histograms": {"edges": edges, **dict.fromkeys(models, shares)},
        "trace": {
            "intervals": {"step": [5, 10, 15], "violation": [-0.5, 0.75, 0.0], "multiplier": [10.0, 11.0, 10.5],
                          "penalty_coefficient": [None, None, None]},
            "epochs": {"step": [8, 16], "retain_fall": [1.5, 0.75], "retain_fall_bound": [1.5, 0.75],
                       "held_out_fall": [2.0, 0.5], "forget_top1": [95.0, 93.25], "unseen_top1": [93.0, 93.0]},
        },
        "files": [{"role": "configuration", "path": "config.yaml", "sha256": SHA, "bytes": 1200},
                  {"role": "weights", "path": "model.pt", "sha256": SHA[::-1], "bytes": 34000}],
    }  # fmt: skip
    if retrained:
        report |= {"avg_gap": {"original": 8.0, "unlearned": 0.5}, "avg_gap_salun": {"original": 5.0, "unlearned": 0.5},
                   "tug_of_war": {"original": 0.9, "unlearned": 0.99}, "retrained_models": retrained,
                   "gap_intervals": {"original": {"avg_gap": [7.0, 9.0]},
                                     "unlearned": {"forget_top1": [-4.5, 3.25], "avg_gap": [0.25, 2.0]}}}  # fmt: skip
    if retrained > 1:
        report |= {"noise_floor": 0.3, "bands": {"test_top1": {"mean": 97.0, "low": 96.0, "high": 98.0}},
                   "inside": {"original": [], "unlearned": ["test_top1"]}}  # fmt: skip
    report = copy.deepcopy({**report, **parts})
    report = {name: value for name, value in report.items() if value is not None}
    report[DIGEST] = report_digest(report)
    return report | {PAGE_DIGEST: SHA}


COPIES = {
    "retain": {"count": 2, "examples": [["cat/a.png", "cat/b.png"], [17, 30]]},
    "validation": {"count": 0, "examples": []},
    "test": {"count": 1, "examples": [["cat/a.png", "dog/c.png"]]},
    "unseen": {"count": 0, "examples": []},
}
NEAR = {"distance": 6, "parts": {"retain": {"count": 2, "examples": [["cat/a.png", "cat/c.jpg", 4], [17, 31, 6]]}}}
SEQUENCE = {
    "previous_run": "runs/first", "number": 3, "budget_spent": 0.75, "forgotten_images": 120, "multiplier": 11.5,
    "asked_again": 15,
}  # fmt: skip


VOID = {"meta", "link", "br", "img"}
DRAWN = {"path", "use", "g"}


class Page(HTMLParser):
    """Tags with their attributes, the text of the page, of headings and of table cells."""

    def __init__(self, content: str):
        super().__init__()
        self.open, self.tags, self.texts, self.rows, self.headings = [], [], [], [], []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attrs):
        assert tag == "p" or "p" not in self.open or tag in ("bdi", "code", "small", "b", "br")
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        if tag in ("h1", "h2", "h3"):
            self.headings.append("")

    def handle_startendtag(self, tag, attrs):
        assert tag in DRAWN
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" in self.open:
            return
        self.texts.append(data)
        if {"td", "th"} & set(self.open):
            self.rows[-1][-1] += data
        if {"h1", "h2", "h3"} & set(self.open):
            self.headings[-1] += data

    @property
    def text(self) -> str:
        return re.sub(r"\s+", " ", "".join(self.texts))

    def row(self, title: str) -> list[str]:
        return next(row[1:] for row in self.rows if row[0].startswith(title))
