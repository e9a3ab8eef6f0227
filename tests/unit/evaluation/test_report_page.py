"""The page of a report: its content, that it loads nothing, and that users' text stays text."""

import base64
import dataclasses
import hashlib
import json
import math
import re
import subprocess
from types import SimpleNamespace

import pytest
import torch
from helpers.report_cases import COPIES, NEAR, SEQUENCE, SHA, Page, example
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.report.arguments import check_report
from evaluation.report.figures import COLOURS, WIDTH, attack_drawing, drawing_style
from evaluation.report.page import PICTURE, TEMPLATE, report_page
from evaluation.report.record import encoded, list_digest, listed_files, report_digest, thinned, trace_of
from evaluation.report.tables import plain
from evaluation.report.words import METHODS as SENTENCES
from evaluation.verdict import Verdict
from evaluation.verify.figures import decoded
from helper_functions.code_version import code_version, code_words
from helper_functions.config import ScriptParser
from helper_functions.errors import UserError
from train_constrained_unlearning import get_parser
from unlearning.methods import METHODS

EVIL = "</style><script>alert(1)</script><img src=x onerror='alert(2)'>\"&amp;{{footer}}\u202ereversed\n\x07\udcff"



@pytest.fixture(scope="module")
def parser() -> ScriptParser:
    """The main script's, which takes longer to build than to use."""
    return get_parser()


def asked_by(reference: str) -> Page:
    request = {**example()["request"], "id": reference}
    content = report_page(example(0, request=request, loss_histograms={"edges": [0.1, 1.0]}, verdict=None))
    assert isinstance(content.encode(), bytes)
    return Page(content)


@pytest.fixture(scope="module")
def tags() -> list:
    """Of the page of a plain reference."""
    return asked_by("2026").tags


def page_of(*args, **parts) -> Page:
    return Page(report_page(example(*args, **parts)))


class TestPage:
    def test_it_says_what_was_asked_done_and_found(self):
        report = example()
        page = Page(report_page(report))
        assert page.headings[0] == "Removal of 40 images from an image classifier"
        assert page.headings[1] == "✓ Forgotten, budget kept", "the verdict comes first"
        wanted = ["Request", "Method", "Forgetting", "Accuracy on other images", "What this does not prove", "Figures",
                  "How to check this report"]  # fmt: skip
        assert [heading for heading in page.headings if heading in wanted] == wanted
        for said in (
            "2026/17", "M. Muster", "file:withdrawn.txt", "40 of 1,000", SHA, "LC_ALL=C sort -u list.txt | sha256sum",
            "constrained unlearning; proxy constraints, Cotter et al. 2019", "commit " + "a" * 40, "Example CPU",
            "12.5 s (300 gradient steps); 25.0 % of the 50.0 s of retraining", report["report_sha256"],
            "python test.py --verify runs/unlearning-20261103-093000", "The budget was 1 percentage point",
            "0.25 are left", "fell by 0.75 points (92.50 % before, 91.75 % after)",
        ):  # fmt: skip
            assert said in page.text, said

    def test_tables_show_before_after_retrained_and_the_gap(self):
        page = page_of()
        assert page.row("Accuracy on the images to forget") == [
            "100.0096.00–100.00", "93.2589.25–100.00", "94.0090.00–100.00", "−0.75−4.50 to 3.25",
        ]  # fmt: skip
        assert page.row("Loss on comparable") == ["0.300", "0.330", "0.116", "+0.214"]
        assert page.row("Loss attack") == ["0.7100.660–0.760", "0.5300.480–0.580", "0.5000.450–0.550", "+0.030"]
        assert page.row("Accuracy on the retained images")[3] == "−5.35"
        said = "0.50 points from the retrained model (AvgGap; 95 % interval over images 0.25–2.00)."
        assert f"the result is {said}" in page.text
        assert page.row("Exposure of retained images") == ["–", "−0.020−0.030 to 0.010", "–", "–"]
        assert page.row("Loss attack, worst tenth")[1] == "53.0040.00–90.00"

    def test_the_classes_that_lost_most(self):
        page = page_of()
        assert page.row("cat") == ["96", "95.00", "90.62 82.95–95.62", "4.38"]
        assert "Classes that lost most on retained images" in page.headings
        assert not any("no model has learned" in heading for heading in page.headings), "an empty list"
        assert "Classes that lost most" not in page_of(class_falls=None).text

    def test_several_retrained_models_stand_as_their_mean_and_none_is_said(self):
        page = page_of(3)
        assert page.row("Accuracy on test images")[2:] == ["97.20", "−5.45"]
        assert any("retrained, mean of 3" in row for row in page.rows)
        assert "3 retrained models were given" in page.text and "from each other by 0.30 points" in page.text
        page = page_of(0)
        assert page.row("Accuracy on the images to forget") == ["100.0096.00–100.00", "93.2589.25–100.00"]
        assert "No retrained model was given." in page.text and "gap" not in page.text

    @pytest.mark.parametrize(
        ("feasible", "forgotten", "kind", "said"),
        [
            (True, True, "good", "✓ Forgotten, budget kept"),
            (True, False, "bad", "✗ NOT forgotten, budget kept"),
            (False, True, "bad", "✗ Forgotten, budget NOT kept"),
            (False, False, "bad", "✗ NOT forgotten, budget NOT kept"),
        ],
    )
    def test_the_verdict_stands_in_a_box(self, feasible, forgotten, kind, said):
        verdict = plain(Verdict(feasible, forgotten, 0.5, 0.25 - (not feasible)))
        forget = {**example()["forget"], "chosen_epoch": 2 if feasible else None}
        page = page_of(verdict=verdict, forget=forget)
        assert ("section", {"class": f"verdict {kind}", "aria-labelledby": "verdict"}) in page.tags
        assert said == page.headings[1]
        assert ("This run does not fulfil the request" in page.text) == (kind == "bad")
        for said in ("exceeded by 0.75", "No epoch kept the budget during the run"):
            assert (said in page.text) == (not feasible)

    def test_a_rule_that_the_original_met_shows_nothing(self):
        said = "The original met this rule before unlearning"
        for shown in (True, False):
            page = page_of(0, verdict=plain(Verdict(True, True, 1.0, 0.25, met_before=shown)))
            assert (said in page.text) == ("Forgotten (the original met this already), budget" in page.text) == shown
            assert ("✓" in page.headings[1]) == (not shown)

    def test_a_point_of_an_earlier_runs_line_is_no_epoch(self):
        cost = {name: {**each, "gradient_steps": 0} for name, each in example()["cost"].items()}
        point = {"forget_top1": 60.0, "retain_fall": 0.5, "held_out_fall": 0.5, "distance": 1.0, "fall_bound": 0.5,
                 "held_out_bound": 0.5}  # fmt: skip
        line = [{"share": share, **point} for share in (0.0, 1.0)]
        page = page_of(cost=cost, forget={**example()["forget"], "share": 0.5}, dial=line)
        assert "0.5 of the way from the original to the result of the earlier run" in page.text
        assert "after epoch" in page_of().text and "after epoch" not in page.text

    def test_a_run_that_forgot_nothing(self):
        report = example(0, verdict=None, forget={"request": "random:40", "images": 40})
        report["models"].pop("unlearned"), report["run"].update(method=None, seconds=None)
        page = Page(report_page(report))
        assert page.headings[1] == "Nothing was forgotten in this run" and "Forgetting" not in page.headings

    def test_sentences_that_depend_on_the_run(self):
        models, usual = example()["models"], page_of().text
        attacks = ("test", "mia", "rmia", "discriminator", "js", "activation", "residual", "retain_expo", "retain_mia")
        judged = {name: {key: value for key, value in found.items() if not key.startswith(attacks)} for name, found in
                  models.items()}  # fmt: skip
        earlier = {name: found | {"forgotten_top1": 41.5, "forgotten_loss": 2.25} for name, found in models.items()}
        wrong = {**example()["forget"], "target": "chance", "request": "mislabelled:0.1"}
        for parts, *sentences in (
            ({"models": judged, "run": {**example()["run"], "judge": "validation"}},
             "No attack was tried in this run.", "was judged on validation images alone"),
            ({"forget": wrong}, "The goal is not 0.5 here", "at most chance (10 %) at a loss of at least 2.30"),
            ({"copies": COPIES}, "2 of the images to forget also stand among the retained images: cat/a.png is "
             "cat/b.png; 17 is 30"),
            ({"near_duplicates": NEAR}, "2 among the retained images: cat/a.png and cat/c.jpg (4); 17 and 31 (6)",
             "differ in at most 6 of 64 bits"),
            ({"sequence": SEQUENCE, "models": earlier}, "Number of this request3", "120 images", "run15 images", "11.5",
             "41.50"),
            ({"verdict": {**example()["verdict"], "margin": 0.125}}, "a sample of 960 of them", "at most 0.12 lower"),
        ):  # fmt: skip
            text = page_of(**parts).text
            assert all(said in text and said not in usual for said in sentences), sentences

    def test_small_forget_sets_have_wide_intervals(self):
        said = "Figures of forgetting rest on 40 images. Few images give wide intervals: a share measured on them is "
        assert f"{said}uncertain by up to ±{100 * 1.96 * math.sqrt(0.25 / 40):.1f} points" in page_of().text

    def test_every_method_has_its_sentence(self):
        assert set(SENTENCES) == set(METHODS)

    def test_it_is_the_same_again_whatever_matplotlibrc_says(self):
        import matplotlib

        report = example(copies=COPIES)
        page = report_page(report)
        with matplotlib.rc_context({"font.size": 30, "axes.grid": False, "svg.fonttype": "path"}):
            assert report_page(json.loads(json.dumps(report))) == page


class TestForm:
    def test_it_loads_nothing_and_needs_no_script(self):
        content = report_page(example(copies=COPIES, sequence=SEQUENCE))
        page = Page(content)
        assert page.open == [] and not re.search(r"https?:|url\(|@import|javascript:", content)
        assert "script" not in [tag for tag, _ in page.tags]
        for tag, attributes in page.tags:
            assert not [name for name in attributes if name.startswith("on")]
            assert "src" not in attributes and attributes.get("href", "data:,") == "data:,", tag
        policy = next(a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy")
        assert policy.startswith("default-src 'none'")

    def test_a_screen_reader_finds_names_titles_and_headings(self):
        page = page_of(copies=COPIES, sequence=SEQUENCE)
        names = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
        assert len(set(names)) == len(names)
        assert {name for _, a in page.tags for name in a.get("aria-labelledby", "").split()} <= set(names)
        tags = [tag for tag, _ in page.tags]
        assert tags.count("svg") == tags.count("desc") == 7 and tags.count("title") == 8
        assert all(a.get("role") == "img" for tag, a in page.tags if tag == "svg")
        levels = [int(tag[1]) for tag in tags if re.fullmatch(r"h\d", tag)]
        assert levels[0] == 1 and all(b - a <= 1 for a, b in zip(levels, levels[1:], strict=False))

    @pytest.mark.parametrize("mode", ["light", "dark", "print"])
    def test_text_stands_out(self, mode):
        """WCAG 2.1, success criterion 1.4.3: relative luminances, from the published formula."""
        blocks = re.findall(r":root \{(.*?)\}", (TEMPLATE / "style.css").read_text(), re.S)
        colours = {}
        for block in blocks[: {"light": 1, "dark": 2, "print": 3}[mode]]:
            colours |= dict(re.findall(r"--([\w-]+): (#[0-9a-f]{3,6})", block))
        pairs = [(ink, paper) for ink in ("ink", "soft") for paper in ("paper", "panel")]
        pairs += [(kind, f"{kind}-panel") for kind in ("good", "bad")] + [("ink", "good-panel"), ("ink", "bad-panel")]
        for ink, paper in pairs:
            assert contrast(colours[ink], colours[paper]) >= 4.5, (ink, paper)
        for mark in ("forget", "test", "retrained"):  # graphical objects want 3
            assert contrast(colours[mark], colours["paper"]) >= 3


def contrast(one: str, other: str) -> float:
    def luminance(colour: str) -> float:
        digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
        shares = [int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in shares]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


class TestHostileText:
    def test_what_users_wrote_stays_text(self):
        report = example(copies={"retain": {"count": 1, "examples": [[EVIL, EVIL]]}}, sequence=SEQUENCE)
        report["sequence"]["previous_run"] = EVIL
        report["request"].update(id=EVIL, requester=EVIL, forget=EVIL)
        for name in ("name", "script", "method", "cpu", "device", "torch", "python"):
            report["run"][name] = EVIL
        report["run"]["code"].update(version=EVIL, commit=EVIL)
        report["data"].update(dataset=EVIL)
        report["files"][0]["path"] = EVIL
        report["pictures"] = [{"image": EVIL, "label": EVIL, "sha256": SHA}]
        report.update(created=EVIL, report_sha256=EVIL)
        content = report_page(report, [b"png"])
        page = Page(content)
        tags = [tag for tag, _ in page.tags]
        assert page.open == [] and "script" not in tags and tags.count("img") == 1 and tags.count("style") == 1
        assert not [a for _, a in page.tags if any(name.startswith("on") for name in a)]
        assert "{{footer}}" in page.text and "alert(1)" in page.text
        assert "\u202e" not in content and "\x07" not in content and r"\u202e" in page.text and r"\udcff" in page.text
        content.encode()

    @settings(max_examples=15)
    @given(value=st.text(st.characters(exclude_categories=())))
    def test_any_text_is_one_text_node_of_printed_characters(self, tags, value):
        found = asked_by(value)
        assert found.tags == tags
        shown = "".join(found.texts).partition("\nRequest ")[2].partition(".\nRequester")[0]
        assert not set(shown) & {"\n", "\r", "\x00", "\u2028", "\u202e"}

    @pytest.mark.parametrize(
        "value", ["2026", "1e3", "true", "null", "#12", "[x]", "{a: 1}", "a: b", "ß漢字🙂", "'q'", "*a", "!!x", "<b>&"]
    )
    def test_a_reference_comes_as_it_was_written(self, parser, value):
        args = parser.parse(["--request_id", value])
        check_report(args)
        assert args.request_id == value

    @pytest.mark.parametrize(
        ("value", "said"),
        [
            ("a\nb", r"'\n'"), ("\x1b[31m", r"'\x1b'"), ("a\u202eb", r"'\u202e'"), ("\udcff", "printable"),
            ("\u2028", "blank"), ("x\u2029y", "printable"), (" ", "blank"),
            ("x" * 201, "201 characters"),
        ],
    )  # fmt: skip
    def test_what_is_no_line_of_text_is_refused(self, parser, value, said):
        args = parser.parse([])
        for name in ("request_id", "requester"):
            with pytest.raises(UserError, match=f"^--{name}.*{re.escape(said)}"):
                check_report(dataclasses.replace(args, **{name: value}))


class TestPictures:
    @pytest.mark.parametrize("channels", [1, 3])
    def test_they_stand_in_the_page_to_the_pixel(self, channels):
        images = torch.arange(2 * channels * 64, dtype=torch.uint8).reshape(2, channels, 8, 8)
        files = [encoded(image) for image in images]
        described = [{"image": place, "label": "x", "sha256": hashlib.sha256(png).hexdigest()}
                     for place, png in enumerate(files)]  # fmt: skip
        content = report_page(example(pictures=described), files)
        found = [base64.b64decode(data) for data in PICTURE.findall(content)]
        assert found == files and all((decoded(files[place]) == images[place].numpy()).all() for place in (0, 1))
        assert "img" not in [tag for tag, _ in page_of().tags]

    def test_what_is_no_png_is_an_error(self):
        for data in (b"", b"GIF89a", encoded(torch.zeros(1, 8, 8, dtype=torch.uint8))[:40]):
            with pytest.raises(ValueError, match="PNG"):
                decoded(data)


class TestFigures:
    def test_dots_stand_at_their_values(self):
        models = {name: {"mia_auc": value, "mia_auc_low": value - 0.1, "mia_auc_high": value + 0.1}
                  for name, value in (("original", 0.75), ("unlearned", 0.5), ("retrained", 0.25))}  # fmt: skip
        with drawing_style():
            svg = attack_drawing(models, {"mia_auc": "Loss attack"})
            assert attack_drawing({"original": {}}, {"mia_auc": "Loss attack"}) is None
        dots = [float(x) for x in re.findall(r'<use [^>]*x="([\d.]+)"', svg)]
        low, high = 0.03 * WIDTH, 0.97 * WIDTH
        assert dots == pytest.approx([low + value * (high - low) for value in (0.75, 0.5, 0.25)], abs=1e-3)
        assert [svg.index(f"stroke: var(--{name})") for name in ("forget", "test", "retrained")]
        assert "Loss attack, before: 0.750; Loss attack, after: 0.500" in svg

    def test_colours_are_variables_of_the_page(self):
        content = report_page(example())
        style, body = content.split("</style>", 1)
        assert not re.search("#[0-9a-f]{6}[^0-9a-f]", body)
        assert {f"--{name}" for name in COLOURS} <= set(re.findall(r"--\w+", style))

    def test_a_trace_of_one_epoch_and_equal_values_can_be_drawn(self):
        trace = example()["trace"]
        trace["epochs"] = {name: values[:1] for name, values in trace["epochs"].items()}
        trace["intervals"] = {name: [values[0]] * 3 for name, values in trace["intervals"].items()}
        assert not [a for _, a in page_of(trace=trace).tags if "nan" in a.get("d", "")]


class TestRecord:
    def test_the_digest_of_a_list_is_what_sort_and_sha256sum_say(self):
        names = ("b/z.png", "a/ä.png", "a/B.png", "a/\udcff.png", "a/10.png", "a/9.png")
        listed = b"".join(name.encode("utf-8", "surrogateescape") + b"\n" for name in (*names[::-1], names[0]))
        for found, order, lines in (
            (list_digest([0, 1, 2, 3, 4, 5], names), "-u", listed),
            (list_digest([100, 9, 20], None), "-nu", b"20\n100\n9\n20\n"),
        ):
            done = subprocess.run(["sh", "-c", f"LC_ALL=C sort {order} | sha256sum"], input=lines, capture_output=True)
            assert found == done.stdout.split()[0].decode()

    def test_the_digest_of_a_report_is_that_of_its_canonical_json(self):
        report = {"b": 1, "a": [0.1, "ä", None], "report_sha256": "x", "page_sha256": "y"}
        assert report_digest(report) == hashlib.sha256(b'{"a":[0.1,"\\u00e4",null],"b":1}').hexdigest()

    @given(st.lists(st.integers(), max_size=50), st.integers(2, 20))
    def test_thinning_keeps_the_ends_and_the_order(self, values, most):
        kept = thinned(list(enumerate(values)), most)
        assert len(kept) == min(most, len(values)) and kept == sorted(set(kept))
        assert not values or (kept[0][0], kept[-1][0]) == (0, len(values) - 1)

    def test_the_trace_is_of_the_stage_whose_constraint_is_the_budget(self, tmp_path):
        lines = [
            {"step": 3, "train/loss": 1.0},
            {"step": 1, "constraint/violation": 0.123456789, "constraint/surrogate": 0.1,
             "constraint/multiplier": 10.0},
            {"step": 2, "constraint/fall": 0.5, "constraint/fall_bound": 0.75, "held_out/fall": 1.5,
             "forget/top1": 90.0,
             "unseen/matched_top1": None},
            {"step": 3, "forget/violation": 99.0, "forget/multiplier": 1.0},
        ]  # fmt: skip
        (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        assert trace_of(tmp_path / "metrics.jsonl") == {
            "intervals": {"step": [1], "violation": [0.123457], "multiplier": [10.0], "penalty_coefficient": [None]},
            "epochs": {"step": [2], "retain_fall": [0.5], "retain_fall_bound": [0.75], "held_out_fall": [1.5],
                       "forget_top1": [90.0], "unseen_top1": [None]},
        }  # fmt: skip

    def test_weights_are_found_by_every_name_that_a_run_may_give_them(self, tmp_path):
        for name in ("model.pt", "infeasible.pt", "not_forgotten.pth", "unlearned.safetensors", "original.pt"):
            (tmp_path / name).touch()
        args = SimpleNamespace(
            weight_path=None, retrain=False, retrained_weight_path=[], transform="eyes.py:f", class_order="order.txt"
        )
        found = [(role, name) for role, name, _ in listed_files(tmp_path, args)]
        weights = ["model.pt", "infeasible.pt", "not_forgotten.pth", "unlearned.safetensors"]
        assert [name for role, name in found if role == "weights"] == weights
        assert found[-2:] == [("transform", "eyes.py"), ("classes", "order.txt")]


class TestCodeVersion:
    def test_of_a_checkout_of_a_changed_one_and_of_none(self, tmp_path):
        def project(version: str) -> None:
            (tmp_path / "pyproject.toml").write_text(f'[project]\nversion = "{version}"\n')

        def git(*command: str) -> str:
            command = ("git", "-C", tmp_path, "-c", "user.name=n", "-c", "user.email=e@example.org", *command)
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

        def found(folder, version: str | None, commit: str | None, changed: bool | None, words: str) -> None:
            assert code_version(folder) == {"version": version, "commit": commit, "changed": changed}
            assert code_words(code_version(folder)) == words

        records = [tmp_path / "docs" / "record.jsonl", tmp_path / "configs" / "tuned.yaml"]
        for record in records:
            record.parent.mkdir()
            record.write_text("{}\n")
        project("3.4")
        found(tmp_path, "3.4", None, None, "3.4")
        for command in (("init", "-q"), ("add", "pyproject.toml", "docs", "configs"), ("commit", "-qm", "first")):
            git(*command)
        commit = git("rev-parse", "HEAD")
        (tmp_path / "untracked").touch()
        for record in records:
            record.write_text("{}\n{}\n")
        found(tmp_path, "3.4", commit, False, f"3.4 at {commit[:10]}")
        project("3.5")
        found(tmp_path, "3.5", commit, True, f"3.5 at {commit[:10]}, changed")
        (tmp_path / "vendored").mkdir()
        found(tmp_path / "vendored", None, None, None, "unknown")

    def test_without_git(self, tmp_path, monkeypatch):
        monkeypatch.setenv("PATH", str(tmp_path))
        assert code_version() == {"version": "0.1.0", "commit": None, "changed": None}
