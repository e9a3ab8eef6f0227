"""The leaderboard's records and pages: figures and marks against the cells, nothing from outside, nothing that acts."""

import csv
import io
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from benchmarks.leaderboard.cells import append_cell, flags_of, read_cells
from benchmarks.leaderboard.pages import PARTS, csv_text, html_page, markdown, write_pages
from benchmarks.leaderboard.summary import summarise
from benchmarks.leaderboard.words import answer
from evaluation.gaps import GAP_FIGURES

RECORDS = Path(__file__).parents[2] / "docs" / "leaderboard"
NAMES = ("leaderboard.csv", "leaderboard.html", "leaderboard.md")
# Method: way towards the retrained model (1: there), points of retain accuracy lost, gradient steps.
METHODS = {
    "constrained": (0.9, 0.6, 360), "scrub_r": (0.6, 1.2, 900), "ssd": (0.3, 1.4, 0), "finetune": (0.0, 0.1, 1500),
    "gradient_ascent": (2.6, 38.0, 60),
}  # fmt: skip
FORGET = ("random:0.1", "class:3")


def synthetic_rows(methods=tuple(METHODS), forget=FORGET, seeds=2, retrained=3) -> list[dict]:
    """Invented cells with the fields of real ones."""
    rows = []
    for place, name in enumerate(forget):
        for seed in range(seeds):
            generator = np.random.default_rng(100 * place + seed)
            original = figures(generator, 99.2, 97.5, 76.0, 0.71)
            goal = 72.0 if name.startswith("random") else 5.0
            models = [figures(generator, goal, 97.2, 75.1, 0.51) for _ in range(retrained)]
            rows += [row(generator, method, name, seed, goal, original, models) for method in methods]
    return rows


def figures(generator, forget, retain, test, auc) -> dict[str, float]:
    forget, retain, test = (value + generator.normal(0, 0.3) for value in (forget, retain, test))
    return {
        "retain_top1": retain, "retain_top5": min(retain + 2, 100), "forget_top1": forget, "forget_top5": forget + 0.5,
        "forget_loss": (100 - forget) / 25, "test_top1": test, "test_top5": test + 15, "mia_auc": auc,
        "mia_auc_low": auc - 0.01, "mia_efficacy": 96 - forget * 0.9, "rmia_auc": auc + 0.02, "relearn_steps": 40.0,
    }  # fmt: skip


def row(generator, method, forget, seed, goal, original, models) -> dict:
    way, loss, steps = METHODS[method]
    reached, retain = 99.2 + way * (goal - 99.2), original["retain_top1"] - loss
    found = figures(generator, max(reached, 0.5), retain, 75.7 - 0.8 * loss, 0.71 - 0.2 * min(way, 1))
    found |= {"forget_loss": original["forget_loss"] + way * (100 - goal) / 25}
    slack = 2.0 - original["retain_top1"] + found["retain_top1"]
    return {
        "key": f"{method}-{forget}-{seed}", "method": method, "forget": forget, "seed": seed,
        "config": {"method": method, "batch_size": 256, "log_dir": "/home/me/runs"},
        "figures": found, "original": original, "retrained": models,
        "verdict": {"feasible": slack >= 0, "retain_budget": 2.0, "slack": slack},
        "cost": {"seconds": 0.034 * steps + 1.5, "gradient_steps": steps},
        "retrained_cost": {"seconds": 402.5, "gradient_steps": 15640},
        "environment": {"torch": "2.15", "cpu": "Example CPU", "code": "0.1.0 at 0123456789"},
    }  # fmt: skip


class Page(HTMLParser):
    """A page's texts of table cells with the row's class, tags, attributes, and elements that were left open."""

    VOID = {"meta", "link", "br", "wbr"}

    def __init__(self, text: str):
        super().__init__()
        self.open, self.tags, self.tables, self.attributes = [], [], [], []
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

    def handle_startendtag(self, tag, attrs):
        self.attributes.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data

    def column(self, title: str, table: int = 0) -> dict[str, str]:
        head, *lines = self.tables[table]
        return {line[1]: line[head.index(title)] for line in lines}


def page_of(rows, title="Leaderboard", command="python -m benchmarks.leaderboard") -> str:
    return html_page(rows, title, command)


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return synthetic_rows()


@pytest.fixture(scope="module")
def page(rows) -> Page:
    return Page(page_of(rows))


def by_hand(rows: list[dict], method: str, forget: str) -> list[float]:
    """AvgGap of a method, seed by seed."""
    found = []
    for cell in (cell for cell in rows if (cell["method"], cell["forget"]) == (method, forget)):
        means = {name: np.mean([model[name] for model in cell["retrained"]]) for name in GAP_FIGURES}
        found.append(np.mean([abs(cell["figures"][name] - means[name]) * scale for name, scale in GAP_FIGURES.items()]))
    return found


class TestRecords:
    def test_cells_read_back_and_shared_figures_are_stored_once(self, rows, tmp_path):
        path = tmp_path / "results.jsonl"
        for cell in rows:
            append_cell(path, cell)
        found = list(read_cells(path).values())
        assert [{**cell, "reference": None} for cell in found] == [{**cell, "reference": None} for cell in rows]
        assert len((tmp_path / "references.jsonl").read_text().splitlines()) == 4  # two forget sets, two seeds
        assert "retrained" not in json.loads(path.read_text().splitlines()[0])

    def test_cells_that_hold_all_figures_themselves_are_read_as_they_are(self, rows, tmp_path):
        (tmp_path / "results.jsonl").write_text("".join(json.dumps(cell) + "\n" for cell in rows))
        assert list(read_cells(tmp_path / "results.jsonl").values()) == rows

    @pytest.mark.parametrize("path", sorted(RECORDS.glob("*/*.jsonl")), ids=str)
    def test_records_in_the_repository_are_small_and_hold_no_places(self, path):
        assert path.stat().st_size < 2**20
        for line in map(json.loads, path.read_text().splitlines()):
            assert flags_of(line.get("config")) == line.get("config", {})


class TestPage:
    def test_tables_hold_the_figures_of_the_cells(self, rows, page):
        assert len(page.tables) == len(FORGET) and page.open == []
        for table, forget in enumerate(FORGET):
            head, *lines = page.tables[table]
            assert {len(line) for line in lines} == {len(head)} and head[:3] == ["#", "method", "AvgGap"]
            # Of the four, the cells here have no distance.
            assert head[3:6] == ["MIA efficacy, %", "RMIA AUC", "forget"] and "MIA efficacy, %" not in head[6:]
            assert [line[:2] for line in lines] == [
                ["", "original"], ["", "retrained"], ["1", "constrained"], ["2", "scrub_r"], ["3", "ssd"],
                ["", "finetune did nothing"], ["", "gradient_ascent over budget"],
            ]  # fmt: skip
            for method in METHODS:
                name = next(line[1] for line in lines if line[1].split()[0] == method)
                cells = [cell for cell in rows if (cell["method"], cell["forget"]) == (method, forget)]
                for title, values in {
                    "AvgGap": by_hand(rows, method, forget),
                    "forget": [cell["figures"]["forget_top1"] for cell in cells],
                    "% of retraining": [100 * cell["cost"]["seconds"] / 402.5 for cell in cells],
                }.items():
                    digits, sd = 1 if title[0] == "%" else 2, np.std(values, ddof=1)
                    deviation = f" ± {sd:.{digits}f}" if sd else ""
                    assert page.column(title, table)[name] == f"{np.mean(values):.{digits}f}{deviation}"
            assert page.column("n", table) == dict.fromkeys(page.column("n", table), "2")
            assert page.column("within budget", table)["gradient_ascent over budget"] == "0/2"

    def test_the_first_figure_draws_each_gap_at_its_place_with_its_mark(self, rows):
        """On a logarithmic axis a marker's distance from another is proportional to the ratio of their gaps."""
        svg = re.search(r"<figure>.*?</figure>", page_of(rows), re.DOTALL)[0]
        marks = re.findall(r'<use href="#([^"]+)" x="([\d.]+)" y="([\d.]+)" style="([^"]*)"', svg)
        labels = re.findall(r"<text [^>]*>([^<]+)</text>", svg)
        assert [label for label in labels if label in METHODS] == list(METHODS)
        others = set(labels) - set(METHODS) - set(FORGET) - {"AvgGap"}
        assert all(re.fullmatch(r"[\d.]+", label) for label in others)
        marks = [mark for mark in marks if 112 < float(mark[1]) < 396 and float(mark[2]) < 87]  # not those of the axes
        for forget, inside in zip(FORGET, (marks[:5], marks[5:]), strict=True):
            places = [float(across) for _, across, _, _ in inside]
            gaps = np.log([np.mean(by_hand(rows, method, forget)) for method in METHODS])
            assert np.polyval(np.polyfit(gaps, places, 1), gaps) == pytest.approx(places, abs=1e-3)
            assert np.diff([float(down) for _, _, down, _ in inside]) == pytest.approx([13.5] * 4)
            assert ["--soft" in style for _, _, _, style in inside] == [False, False, False, True, True]

    def test_it_answers_in_a_sentence_and_shows_command_hardware_and_versions(self, rows):
        text = page_of(rows, command="python -m benchmarks.leaderboard --seeds 0 1")
        assert "<b>constrained</b> comes closest to retraining" in text
        for word in ("5 methods, 2 forget sets, 2 seeds, 20 runs", "--seeds 0 1", "Example CPU", "0.1.0 at 0123456789"):
            assert word in text
        assert "Noise floor" in text and "Retain budget: 2 points." in text and "/home/me" not in text + csv_text(rows)

    def test_a_gap_within_the_noise_is_marked(self, rows):
        level = {**rows[0], "method": "level", "figures": rows[0]["retrained"][0]}
        text = page_of([level, {**rows[0], "method": "other", "figures": rows[1]["figures"]}])
        assert re.findall(r'<tr class="level">.*?<th scope="row">(\w+)', text) == ["level"]

    def test_it_loads_nothing_from_anywhere(self, rows, page):
        assert not re.search(r"https?:|url\((?!#)|@import|\bimport\(|fetch\(|XMLHttpRequest", page_of(rows))
        identifiers = [attributes["id"] for _, attributes in page.attributes if "id" in attributes]
        assert len(identifiers) == len(set(identifiers))
        targets = {attributes["href"] for _, attributes in page.attributes if "href" in attributes}
        assert targets - {"data:,"} <= {f"#{name}" for name in identifiers}
        assert not any("src" in attributes for _, attributes in page.attributes)

    def test_names_and_titles_are_text(self, rows):
        evil = '$\\frac{1}$</script><script>alert(1)</script><img src=x onerror="alert(2)">&amp;\u2028{{style}}'
        cells = [{**cell, "method": evil, "forget": evil, "environment": {evil: evil}} for cell in rows[:1]]
        page = Page(page_of(cells, title=evil, command=evil))
        assert page.tags.count("script") == 1 and "img" not in page.tags and page.open == []
        assert page.tables[0][-1][1] == evil

    def test_the_script_that_sorts_is_short(self):
        assert len((PARTS / "sort.js").read_text().splitlines()) <= 80

    @pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium")
    def test_a_click_sorts_the_methods_and_leaves_the_references(self, rows, tmp_path):
        click = 'const [gap, cost] = ["AvgGap", "% of retraining"].map((title) => [...document.querySelectorAll('
        click += '"thead button")].find((button) => button.textContent === title)); gap.click(); cost.click();'
        click = f"<script>{click} cost.click();</script>"  # descending
        (tmp_path / "page.html").write_text(page_of(rows).replace("</body>", f"{click}</body>"))
        done = subprocess.run(
            ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
             f"--user-data-dir={tmp_path}/profile", "--dump-dom", f"file://{tmp_path}/page.html"],
            capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        names = [line[1].split()[0] for line in Page(done.stdout).tables[0][1:]]
        by_cost = sorted(METHODS, key=lambda name: METHODS[name][2], reverse=True)
        assert names == ["original", "retrained", *by_cost]


class TestMarkdown:
    def test_each_forget_set_has_a_table_with_references_first(self, rows):
        text = markdown(rows, "Board", "python -m benchmarks.leaderboard")
        tables = [part.splitlines() for part in text.split("\n\n") if part.startswith("|")]
        assert len(tables) == 2
        for head, rule, *lines in tables:
            assert {count_cells(line) for line in (rule, *lines)} == {count_cells(head)}
            assert "*original*" in lines[0] and "*retrained*" in lines[1] and lines[2].startswith("| 1 | constrained |")
            assert "finetune (did nothing) | 2 |" in lines[-2] and "gradient_ascent (over budget) | 2 |" in lines[-1]
        for word in ("Noise floor", "Example CPU", "python -m benchmarks.leaderboard", "0.1.0 at 0123456789"):
            assert word in text

    def test_names_do_not_break_it(self, rows):
        evil = [{**cell, "method": "a|b\n<script>`*", "forget": "file:x|y\n# z"} for cell in rows[:1]]
        text = markdown(evil, "Board", "run ``` it")
        assert "<script>" not in text and "\n# z" not in text and "````sh\nrun ``` it\n````" in text
        assert len({count_cells(line) for line in text.splitlines() if line.startswith("|")}) == 1

    def test_top5_stands_beside_top1_on_request(self, rows):
        shown = "| forget top-5 | retain | retain top-5 | test | test top-5 |"
        assert shown in markdown(rows, "Board", "run", top5=True) and "top-5" not in markdown(rows, "Board", "run")


def count_cells(line: str) -> int:
    return len(re.findall(r"(?<!\\)\|", line))


@pytest.mark.parametrize("name, title, text", [("test_adjacent_top1", "test, adjacent", "62.50"),
                                               ("ulira_auc", "U-LiRA AUC", "62.500")])  # fmt: skip
def test_figures_of_some_forget_sets_have_a_column_there_alone(name, title, text):
    found = synthetic_rows(("constrained", "scrub_r"))
    for cell in found:
        for part in (cell["figures"], cell["original"], *cell["retrained"]):
            if cell["forget"] == FORGET[1]:
                part[name] = 62.5
    page = Page(page_of(found))
    assert [title in table[0] for table in page.tables] == [False, True]
    assert set(page.column(title, 1).values()) == {text}
    heads = [line for line in markdown(found, "Board", "run").splitlines() if line.startswith("| # |")]
    assert [f" {title} |" in head for head in heads] == [False, True]


class TestAnswer:
    @pytest.mark.parametrize(
        "change, said",
        [
            ({}, "constrained comes closest to retraining: "),
            ({"verdict": {"feasible": False}}, "No method kept the budget and forgot something."),
            ({"original": 0}, "AvgGap does not separate the methods: the original itself lies "),
            ({"figures": 60.0}, "No method comes closer to retraining than the original, at "),
        ],
    )
    def test_which_method(self, rows, change, said):
        """The original is replaced by a retrained model, or the methods lose test accuracy."""
        cells = []
        for cell in (cell for cell in rows if cell["forget"] == "random:0.1"):
            own = dict(change)
            if "original" in change:
                own["original"] = cell["retrained"][0]
            if "figures" in change:
                own["figures"] = {**cell["figures"], "test_top1": cell["figures"]["test_top1"] - change["figures"]}
            cells.append({**cell, **own})
        assert " ".join(answer(summarise(cells)[0])).startswith(said)

    def test_the_cheapest_within_the_noise_is_named(self, rows):
        near = {**rows[0], "figures": {**rows[0]["retrained"][0], "forget_loss": 1.0}}
        cells = [near, {**near, "method": "cheap", "cost": {"seconds": 1.0, "gradient_steps": 1}}]
        assert "; cheap is the cheapest of 2 within the noise floor: " in " ".join(answer(summarise(cells)[0]))


class TestCsv:
    def test_has_a_line_a_cell_with_all_figures(self, rows):
        lines = list(csv.DictReader(io.StringIO(csv_text(rows))))
        assert len(lines) == len(rows)
        for line, cell in zip(lines, rows, strict=True):
            assert (line["method"], line["forget"], line["key"]) == (cell["method"], cell["forget"], cell["key"])
            assert {name: float(line[name]) for name in cell["figures"]} == cell["figures"]
            mean = np.mean([model["forget_top1"] for model in cell["retrained"]])
            assert float(line["gap.forget_top1"]) == pytest.approx(cell["figures"]["forget_top1"] - mean)
            assert float(line["avg_gap"]) == pytest.approx(by_hand([cell], cell["method"], cell["forget"])[0])
            assert float(line["cost.seconds"]) == cell["cost"]["seconds"] and line["retrained.n"] == "3"
            for name, whole in cell["retrained_cost"].items():
                assert float(line[f"share.{name}"]) == pytest.approx(cell["cost"][name] / whole)
            assert line["config.batch_size"] == "256" and line["verdict.feasible"] == str(cell["verdict"]["feasible"])

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
        synthetic_rows(("constrained", "scrub_r"), seeds=1, retrained=1),
        synthetic_rows(("ssd",), seeds=1, retrained=0),
    ],
    ids=["none", "bare", "null", "one retrained", "no retrained"],
)
def test_what_is_missing_is_an_en_dash_and_no_error(cells, tmp_path):
    write_pages(cells, tmp_path, "Board", "run")
    page, text = Page((tmp_path / "leaderboard.html").read_text()), (tmp_path / "leaderboard.md").read_text()
    assert page.open == [] and len(page.tables) == len({cell["forget"] for cell in cells})
    assert "nan" not in text and "None" not in text and "None" not in (tmp_path / "leaderboard.html").read_text()


def test_pages_appear_whole_and_always_alike(rows, tmp_path):
    first, second, third = (tmp_path / name for name in ("first", "second", "third"))
    for folder in (first, second):
        folder.mkdir()
        write_pages(rows, folder, "Board", "run")
    assert sorted(path.name for path in first.iterdir()) == sorted(NAMES)
    assert all((first / name).read_bytes() == (second / name).read_bytes() for name in NAMES)
    (third / "leaderboard.html").mkdir(parents=True)
    with pytest.raises(OSError):
        write_pages(rows, third, "Board", "run")
    assert [path.name for path in third.iterdir() if path.is_file()] == []
