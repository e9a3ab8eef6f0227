"""The leaderboard's pages: tables that stand without JavaScript, nothing from data that acts, nothing from outside."""

import csv
import hashlib
import io
import json
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest

from benchmarks.leaderboard.html import embedded, html_page, page_data
from benchmarks.leaderboard.pages import csv_text, markdown, write_pages
from benchmarks.leaderboard.summary import summarise

NAMES = ("leaderboard.csv", "leaderboard.html", "leaderboard.md")
# Method: pull towards the retrained model (1: there), points of retain accuracy lost, gradient steps.
METHODS = {
    "constrained": (0.85, 0.6, 360), "constrained_lagrangian": (0.8, 0.8, 360), "constrained_penalty": (0.7, 0.9, 360),
    "scrub_r": (0.75, 1.2, 900), "scrub": (1.4, 2.6, 900), "neggrad_plus": (1.2, 3.5, 700), "salun": (0.9, 2.2, 1100),
    "random_labels": (1.1, 4.0, 800), "gradient_ascent": (2.6, 38.0, 60), "fine_tune": (0.2, 0.1, 1500),
    "l1_sparse": (0.4, 1.0, 1500), "bad_teacher": (1.6, 3.0, 400), "ssd": (0.5, 1.4, 0), "fisher": (1.9, 21.0, 0),
    "influence": (0.6, 1.8, 0), "unsir": (1.3, 5.0, 300), "boundary_shrink": (1.25, 2.4, 500),
    "euk_last_layers": (0.3, 0.5, 1200), "cfk_last_layers": (0.25, 0.2, 1200), "delete": (0.95, 1.1, 350),
    "contrastive": (0.8, 1.3, 600), "npo": (1.1, 1.9, 420), "sfron": (0.9, 1.5, 640), "do_nothing": (0.0, 0.0, 0),
}  # fmt: skip
FORGET = ("random:0.1", "class:3", "class:aquarium_fish", "mislabelled:0.1")
EDGES = np.geomspace(1e-4, 20, 41)


def synthetic_rows(methods=tuple(METHODS), forget=FORGET, seeds=3, retrained=3) -> list[dict]:
    """Cells as a leaderboard may find them: made up, but with the shapes of real ones."""
    rows = []
    for place, name in enumerate(forget):
        for seed in range(seeds):
            generator = np.random.default_rng(100 * place + seed)
            goal = {"random": 72.0, "class": 0.0, "mislabelled": 4.0}[name.split(":")[0]]
            original = _figures(generator, 99.2, 97.5, 76.0, 0.71)
            models = [_figures(generator, max(goal, 0.0), 97.2, 75.1, 0.51, spread=0.5) for _ in range(retrained)]
            rows += [_row(generator, method, name, seed, goal, original, models) for method in methods]
    return rows


def _figures(generator, forget, retain, test, auc, spread=0.3) -> dict[str, float]:
    forget, retain, test = (
        float(np.clip(value + generator.normal(0, spread), 0, 100)) for value in (forget, retain, test)
    )
    auc = float(np.clip(auc + generator.normal(0, spread / 50), 0.5, 1))
    return {
        "retain_top1": retain, "retain_top5": min(retain + 2, 100), "retain_loss": (100 - retain) / 30,
        "forget_top1": forget, "forget_top5": min(forget + 9, 100), "forget_loss": (100 - forget) / 25,
        "forget_true_top1": forget, "unseen_top1": test + 0.4, "validation_top1": test + 0.2, "test_top1": test,
        "test_top5": test + 15, "mia_auc": auc, "mia_auc_low": auc - 0.01, "mia_auc_high": auc + 0.01,
        "mia_accuracy": 100 * auc - 2, "mia_efficacy": max(0.0, 96 - forget * 0.9), "mia_tpr": 2 * auc,
        "rmia_auc": auc + 0.02, "rmia_tpr": 3 * auc, "discriminator_auc": auc + 0.01, "js_divergence": 0.1 * auc,
        "activation_distance": 0.3 * auc, "linear_probe_top1": forget + 0.5, "relearn_steps": 40.0,
    }  # fmt: skip


def _row(generator, method, forget, seed, goal, original, models) -> dict:
    pull, loss, steps = METHODS[method]
    reached = original["forget_top1"] + pull * (goal - original["forget_top1"])
    # What passes through the goal comes out below it, but no accuracy falls below zero.
    auc = 0.71 - 0.2 * min(pull, 1) + 0.15 * max(pull - 1, 0)
    retain = original["retain_top1"] - loss
    figures = _figures(generator, max(reached, 0.0), retain, original["test_top1"] - 0.8 * loss - 0.3, auc, 0.25)
    slack = 2.0 - original["retain_top1"] + figures["retain_top1"]
    row = {
        "key": hashlib.sha256(f"{method} {forget} {seed}".encode()).hexdigest()[:16],
        "method": method, "forget": forget, "seed": seed,
        "config": {"method": method, "seed": seed, "learning_rate": 0.01, "batch_size": 256, "retain_budget": 2.0,
                   "num_epochs": 10, "solver": "augmented_lagrangian", "model": "resnet18", "log_dir": "/home/me/runs"},
        "figures": figures, "original": original, "retrained": models,
        "verdict": {"feasible": slack >= 0, "forgotten": pull > 0.7, "retain_budget": 2.0, "slack": slack},
        "cost": {"seconds": 0.034 * steps + 1.5 + generator.random(), "gradient_steps": steps, "images": 256 * steps,
                 "peak_memory_bytes": 123456789},
        "retrained_cost": {"seconds": 402.5, "gradient_steps": 15640, "images": 4003840, "peak_memory_bytes": 98765432},
        "histograms": {
            "edges": EDGES.tolist(),
            "original": _shares(generator, original), "unlearned": _shares(generator, figures),
            "retrained": _shares(generator, models[0]) if models else None,
        },
        "environment": {"torch": "2.15", "python": "3.12", "device": "cpu", "cpu": "Example CPU", "cpu_threads": 1},
    }  # fmt: skip
    if method.startswith("constrained"):
        row["trace"] = _trace(generator, penalty=method.endswith("penalty"))
    return row


def _shares(generator, figures) -> dict[str, list[float]]:
    found = {}
    for part in ("forget", "test"):
        right = figures[f"{part}_top1"] / 100
        losses = np.where(
            generator.random(600) < right, generator.lognormal(-3.2, 1.4, 600), generator.lognormal(1, 0.5, 600)
        )
        counts, _ = np.histogram(np.clip(losses, EDGES[0], EDGES[-1] * 0.999), EDGES)
        found[part] = (counts / 6).tolist()
    return found


def _trace(generator, penalty: bool) -> dict[str, list]:
    steps = np.arange(0, 360)
    violation = 0.4 * np.exp(-steps / 80) * np.cos(steps / 25) + generator.normal(0, 0.02, len(steps)) - 0.02
    multiplier = None if penalty else np.maximum(0, np.cumsum(violation) / 20).tolist()
    return {"step": steps.tolist(), "violation": [None, *violation[1:].tolist()], "multiplier": multiplier}


class Page(HTMLParser):
    """Tags as they open and close, texts of table cells, and what scripts hold."""

    VOID = {"meta", "link", "br", "input", "img", "hr", "wbr"}

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.tables, self.scripts, self.attributes = [], [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        if tag == "tr":
            self.tables[-1].append([])
        if tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] == "script":
            self.scripts[-1] = (self.scripts[-1][0], self.scripts[-1][1] + data)
        elif {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def data(self) -> dict:
        return json.loads(next(text for attributes, text in self.scripts if attributes.get("id") == "data"))


def page_of(rows, title="Leaderboard", command="python -m benchmarks.leaderboard") -> str:
    return html_page(summarise(rows), title, command)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return synthetic_rows(methods=("constrained", "scrub_r", "ssd", "gradient_ascent"), forget=FORGET[:2], seeds=2)


@pytest.fixture(scope="module")
def page(rows) -> Page:
    return Page(page_of(rows))


class TestPage:
    def test_the_table_stands_without_javascript(self, page):
        assert len(page.tables) == 2 and page.open == []
        head, *lines = page.tables[0]
        assert head[:2] == ["#", "method"] and {len(line) for line in lines} == {len(head)}
        assert [line[1] for line in lines[:2]] == ["original", "retrained"]
        assert lines[-1][:2] == ["", "gradient_ascentover budget"] and lines[2][0] == "1"
        retain = lines[2][head.index("retain")]
        assert re.fullmatch(r"\d\d\.\d\d ± \d\.\d\d", retain)

    def test_it_holds_what_the_summary_says(self, rows, page):
        assert page.data() == json.loads(json.dumps(page_data(summarise(rows))))
        entry = next(entry for entry in page.data()["sets"][0]["entries"] if entry["method"] == "scrub_r")
        cells = [row for row in rows if (row["method"], row["forget"]) == ("scrub_r", FORGET[0])]
        mean = np.mean([row["figures"]["forget_top1"] for row in cells])
        assert entry["figures"]["forget_top1"][0] == pytest.approx(mean, rel=1e-3)
        assert entry["trace"] is None and len(entry["histograms"]["edges"]) == len(EDGES)

    def test_flags_that_all_share_stand_once_and_places_of_files_nowhere(self, rows, page):
        data = page.data()
        assert data["flags"]["solver"] == "augmented_lagrangian" and "seed" not in data["flags"]
        assert [entry["flags"] for entry in data["sets"][0]["entries"][2:]] == [
            {"method": name} for name in ("constrained", "scrub_r", "ssd", "gradient_ascent")
        ]
        assert "/home/me" not in page_of(rows) + csv_text(rows)

    def test_a_trace_is_thinned_from_its_first_step_to_its_last(self, page):
        trace = page.data()["sets"][0]["entries"][2]["trace"]
        assert len(trace["step"]) == len(trace["violation"]) == 120
        assert (trace["step"][0], trace["step"][-1], trace["violation"][0]) == (0, 359, None)

    def test_it_loads_nothing_from_anywhere(self, rows, page):
        text = page_of(rows)
        assert not re.search(r"https?:|url\(|@import|\bimport\(|fetch\(|XMLHttpRequest", text)
        for _, attributes in page.attributes:
            assert "src" not in attributes and attributes.get("href", "#").startswith(("#", "data:"))

    def test_scripts_find_the_elements_that_they_look_for(self, page):
        (script,) = (text for attributes, text in page.scripts if "id" not in attributes)
        wanted = set(re.findall(r"(?:getElementById|byId)\(\"([\w-]+)\"\)", script))
        assert {"scatter", "costs", "gaps", "losses", "trace", "details", "data"} <= wanted
        assert wanted <= {attributes.get("id") for _, attributes in page.attributes}

    def test_it_is_small_with_as_many_methods_as_rows(self):
        cells = synthetic_rows(list(METHODS)[:3], FORGET[:1], seeds=1)
        names = [f"flag_number_{number}" for number in range(60)]
        flags = [dict.fromkeys(names, place) for place in range(250)]
        many = [{**cells[place % 3], "method": f"method_{place}", "config": flags[place]} for place in range(250)]
        assert all(cell["trace"] for cell in many)
        assert len(page_of(many).encode()) < 2 * 2**20

    def test_a_gap_within_the_noise_is_marked(self, rows):
        level = {**rows[0], "method": "level", "figures": rows[0]["retrained"][0]}
        table = Page(page_of([level, {**rows[0], "method": "other"}])).tables[0]
        gaps = {line[1]: line[table[0].index("AvgGap")] for line in table}
        assert gaps["level"].startswith("≈ ") and not gaps["other"].startswith("≈")


class TestEscaping:
    EVIL = '</script><script>alert(1)</script><img src=x onerror="alert(2)">&amp;\u2028{{data}}'

    def test_names_and_titles_are_text_on_the_page(self, rows):
        evil = [{**row, "method": self.EVIL, "forget": self.EVIL, "config": {self.EVIL: self.EVIL}} for row in rows[:1]]
        evil[0]["environment"] = {self.EVIL: self.EVIL}
        page = Page(page_of(evil, title=self.EVIL, command=self.EVIL))
        assert len(page.scripts) == 2 and "img" not in page.tags
        assert page.data()["sets"][0]["name"] == self.EVIL
        assert self.EVIL in [line[1] for line in page.tables[0]]

    def test_no_character_of_embedded_json_ends_its_element(self):
        text = embedded({"a": self.EVIL, "</script>": [1, None]})
        assert not set("<>&\u2028") & set(text) and json.loads(text) == {"a": self.EVIL, "</script>": [1, None]}

    def test_names_do_not_break_markdown_tables(self, rows):
        evil = [{**row, "method": "a|b\n<script>`*", "forget": "file:x|y\n# z"} for row in rows[:1]]
        text = markdown(summarise(evil), "Board", "run ``` it")
        assert "<script>" not in text and "\n# z" not in text and "````sh\nrun ``` it\n````" in text
        assert len({count_cells(line) for line in text.splitlines() if line.startswith("|")}) == 1


def count_cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


class TestMarkdown:
    def test_each_forget_set_has_a_table_with_references_first(self, rows):
        text = markdown(summarise(rows), "Board", "python -m benchmarks.leaderboard")
        tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
        assert len(tables) == 2
        for head, rule, *lines in tables:
            assert {count_cells(line) for line in (rule, *lines)} == {count_cells(head)}
            assert "*original*" in lines[0] and "*retrained*" in lines[1] and lines[2].startswith("| 1 | constrained |")
            assert "gradient_ascent (over budget) | 2 | 0/2" in lines[-1]
        assert "Noise floor" in text and "Example CPU" in text and "python -m benchmarks.leaderboard" in text

    def test_top5_stands_beside_top1_on_request(self, rows):
        summary = summarise(rows)
        text = markdown(summary, "Board", "run", top5=True)
        assert "| retain | retain top-5 | forget | forget top-5 | test | test top-5 |" in text
        assert "top-5" not in markdown(summary, "Board", "run")


class TestKinship:
    """Accuracy on classes near and far from a forgotten one stands where a class was forgotten, and nowhere else."""

    @pytest.fixture
    def mixed(self) -> list[dict]:
        found = synthetic_rows(("constrained", "scrub"), ("random:0.1", "class:aquarium_fish"), seeds=2)
        for row in found:
            for figures in (row["figures"], row["original"], *row["retrained"]):
                if row["forget"].startswith("class"):
                    figures |= {"test_adjacent_top1": 78.25, "test_remote_top1": 81.125}
        return found

    def test_in_markdown(self, mixed):
        text = markdown(summarise(mixed), "Board", "run")
        heads = [line for line in text.splitlines() if line.startswith("| # |")]
        assert ["test, adjacent | test, remote" in head for head in heads] == [False, True]
        assert text.count("| 78.25 | 81.12 |") == 4

    def test_on_the_page(self, mixed):
        first, second = Page(page_of(mixed)).tables
        assert "test, remote" not in first[0] and "test, remaining" not in second[0]
        place = second[0].index("test, adjacent")
        assert second[0][place : place + 2] == ["test, adjacent", "test, remote"]
        assert {tuple(line[place : place + 2]) for line in second[1:]} == {("78.25", "81.12")}


def test_ulira_stands_where_shadow_models_were_asked_for():
    found = synthetic_rows(("constrained", "scrub"), ("random:0.1", "class:aquarium_fish"), seeds=2)
    for row in found:
        for figures in (row["figures"], row["original"], *row["retrained"]):
            figures.pop("ulira_auc", None)
            if row["forget"].startswith("random"):
                figures["ulira_auc"] = 0.625
    first, second = Page(page_of(found)).tables
    assert "U-LiRA AUC" not in second[0]
    place = first[0].index("U-LiRA AUC")
    assert {line[place] for line in first[1:]} == {"0.625"}
    heads = [line for line in markdown(summarise(found), "Board", "run").splitlines() if line.startswith("| # |")]
    assert ["U-LiRA AUC" in head for head in heads] == [True, False]


class TestCsv:
    def test_has_a_line_a_cell_with_all_figures(self, rows):
        lines = list(csv.DictReader(io.StringIO(csv_text(rows))))
        assert len(lines) == len(rows)
        for line, row in zip(lines, rows, strict=True):
            assert (line["method"], line["forget"], line["key"]) == (row["method"], row["forget"], row["key"])
            assert {name: float(line[name]) for name in row["figures"]} == row["figures"]
            mean = np.mean([model["forget_top1"] for model in row["retrained"]])
            assert float(line["gap.forget_top1"]) == pytest.approx(row["figures"]["forget_top1"] - mean)
            assert float(line["cost.seconds"]) == row["cost"]["seconds"] and line["retrained.n"] == "3"
            for name, whole in row["retrained_cost"].items():
                assert float(line[f"share.{name}"]) == pytest.approx(row["cost"][name] / whole)
            assert line["config.batch_size"] == "256" and line["verdict.feasible"] == str(row["verdict"]["feasible"])

    def test_cells_of_different_figures_and_odd_names_read_back(self, rows):
        odd = {**rows[0], "method": 'a "b", c\nd', "figures": {"new_figure": 1.5, "retain_top1": None}}
        first, second = csv.DictReader(io.StringIO(csv_text([rows[0], odd])))
        assert first["new_figure"] == "" and second["new_figure"] == "1.5" and second["method"] == 'a "b", c\nd'


BARE = {"key": "0", "method": "bare", "forget": "class:3", "seed": 0}


@pytest.mark.parametrize(
    "cells",
    [
        [],
        [BARE],
        [{**BARE, "figures": {"retain_top1": None, "forget_top1": math.nan}, "retrained": [], "cost": None}],
        synthetic_rows(("constrained", "scrub"), ("random:0.1",), seeds=1, retrained=1),
        synthetic_rows(("ssd",), ("random:0.1",), seeds=1, retrained=0),
    ],
    ids=["none", "bare", "null", "one retrained", "no retrained"],
)
def test_what_is_missing_is_an_en_dash_and_no_error(cells, tmp_path):
    write_pages(cells, tmp_path, "Board", "run")
    page, text = Page((tmp_path / "leaderboard.html").read_text()), (tmp_path / "leaderboard.md").read_text()
    assert page.open == [] and len(page.data()["sets"]) == len({cell["forget"] for cell in cells})
    assert "nan" not in text and "None" not in text
    if len(cells) == 1:
        assert "–" in text and "–" in page.tables[0][-1]


def test_pages_appear_whole_and_always_alike(rows, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        write_pages(rows, folder, "Board", "run")
    assert sorted(path.name for path in first.iterdir()) == sorted(NAMES)
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in NAMES)
    third = tmp_path / "third"
    (third / "leaderboard.html").mkdir(parents=True)
    with pytest.raises(OSError):
        write_pages(rows, third, "Board", "run")
    assert [path.name for path in third.iterdir() if path.is_file()] == []
