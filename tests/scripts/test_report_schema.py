"""Reports of real runs satisfy docs/report.schema.json and test.py --verify; the schema refuses anything else."""

import copy
import json
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.processes import SMALL, assert_refused, fork, only
from helpers.report_cases import COPIES, NEAR, SEQUENCE, Page, example
from helpers.run_folders import assert_same_weights, figures_of, measure_on_line, report_of, weights_of
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from PIL import Image

from evaluation.report.page import report_page
from evaluation.report.record import report_digest

UNLEARN = "train_constrained_unlearning.py"
VALIDATOR = Draft202012Validator(json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text()))
QUICK = (*SMALL, "--train_num_epochs", 1, "--num_epochs", 1, "--figures", "False")


def complaints(report: dict) -> list[str]:
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(report)]


@pytest.fixture(scope="module")
def unlearn(original, tmp_path_factory):
    """Run the main script from the original's weights; gives its report, which is checked, and its folder."""

    def check(*flags: object, status=(0, 3, 4), script: str = UNLEARN, **options) -> tuple[dict, Path]:
        verify, says = options.pop("verify", False), options.pop("says", ())
        log_dir = tmp_path_factory.mktemp("reported")
        done = fork(script, *QUICK, "--log_dir", log_dir, *flags, **options)
        assert done.status in status, done
        folder = only(log_dir)
        report = report_of(folder)
        assert complaints(report) == []
        assert report["report_sha256"] == report_digest(report)
        assert Page((folder / "report.html").read_text()).open == []
        assert all(text in done.out for text in (f"report   {folder}/report.html\n", *says))
        if verify:
            verified = fork("test.py", "--verify", folder)
            assert verified.status == 0 and "verdict" in verified.out, verified
        return report, folder

    return check


class TestRuns:
    def test_the_schema_is_one(self):
        Draft202012Validator.check_schema(VALIDATOR.schema)

    def test_constrained_with_a_retrained_model_and_both_stages(self, quickstart):
        report = report_of(quickstart.folder)
        assert complaints(report) == []
        assert report["trace"]["intervals"]["multiplier"] and len(report["trace"]["epochs"]["step"]) == 3
        assert (quickstart.folder / "report.html").read_text() == report_page(report), "made from the report alone"
        assert [file["role"] for file in report["files"]] == [
            "configuration", "splits", "figures", "hashes", "checkpoint", "preprocessing", "weights", "original",
            "retrained",
        ]  # fmt: skip
        assert report["run"]["code"]["version"] == "0.1.0" and report["run"]["seconds"] > 0

    def test_scrub_without_and_with_two_retrained_models(self, unlearn, original):
        weights = original.folder / "model.pt"
        flags = ("--method", "scrub", "--weight_path", weights)
        report, _ = unlearn(*flags, "--request_id", "#12", "--requester", "<i>Muster</i>")
        assert report["request"]["id"] == "#12" and report["request"]["requester"] == "<i>Muster</i>"
        assert report["trace"]["intervals"]["step"] == [] and "retrained_models" not in report
        assert report["files"][-1]["path"] == str(weights)
        report, _ = unlearn(*flags, "--retrained_weight_path", weights, weights, verify=True)
        assert report["retrained_models"] == 2 and "noise_floor" in report

    def test_judged_on_validation_images(self, unlearn, original):
        weights = ("--weight_path", original.folder / "model.pt", "--judged_retain_images", 50)
        report, folder = unlearn("--judge", "validation", *weights, verify=True)
        assert "test_top1" not in report["models"]["unlearned"] and report["judged_retain_images"] == 50
        assert "No attack was tried" in Page((folder / "report.html").read_text()).text

    def test_a_run_that_forgets_nothing(self, unlearn):
        report, folder = unlearn("--untrain", "False", status=(0,), verify=True)
        assert report["run"]["method"] is None and "verdict" not in report
        assert set(report["models"]) == set(report["cost"]) == {"original"}
        assert_same_weights(weights_of(folder), weights_of(folder, "original.pt"))

    def test_foreign_weights_and_a_budget_that_is_broken(self, unlearn, original, tmp_path):
        """Lists name the images that the weights saw and never saw; the best epoch's weights are kept."""
        (tmp_path / "foreign.pt").write_bytes((original.folder / "model.pt").read_bytes())
        (tmp_path / "forget.txt").write_text("\n".join(map(str, range(0, 100, 5))))
        (tmp_path / "held_out.txt").write_text("\n".join(map(str, range(1000, 1500))))
        report, folder = unlearn(
            "--weight_path", tmp_path / "foreign.pt", "--forget", f"file:{tmp_path}/forget.txt",
            "--validation", f"file:{tmp_path}/held_out.txt", "--num_epochs", 2, "--learning_rate", 3,
            "--finetune_num_epochs", 0, status=(3,), before=partial(measure_on_line, 1.0, leave_budget=True),
            says=("budget NOT kept: retain", "no epoch kept the budget"),
        )  # fmt: skip
        assert report["final_test"] == "half of the never-seen" and report["forget"]["images"] == 20
        assert report["forget"]["chosen_epoch"] is None and "budget NOT kept" in (folder / "report.html").read_text()
        epochs = [line for line in figures_of(folder) if "constraint/fall" in line]
        nearest = min(epochs, key=lambda epoch: max(epoch["constraint/fall_bound"], epoch["held_out/fall_bound"]))
        assert report["verdict"]["feasible"] is False
        assert report["verdict"]["slack"] == pytest.approx(1 - nearest["constraint/fall"], abs=1e-3)
        assert report["verdict"]["held_out_fall"] == pytest.approx(nearest["held_out/fall"], abs=1e-3)
        assert weights_of(folder).keys() == weights_of(original.folder).keys()

    def test_the_share_of_the_line_is_that_of_the_weights(self, unlearn, original):
        weights, found = original.folder / "model.pt", []
        for share in (1.0, 0.5):
            report, folder = unlearn("--weight_path", weights, before=partial(measure_on_line, share))
            found.append(weights_of(folder))
            assert report["forget"]["share"] == share
            assert {point["share"] for point in report["dial"]} == {0.0, share, 1.0}
        for name, start in weights_of(original.folder).items():
            middle = torch.lerp(start, found[0][name], 0.5) if start.is_floating_point() else found[0][name]
            assert torch.equal(found[1][name], middle), name

    def test_the_adversarial_method_of_the_other_script(self, unlearn, original):
        flags = ("--mode", "untrain_contrastive", "--weight_path", original.folder / "model.pt", "--group_size", 4)
        report, _ = unlearn(*flags, script="train_contrastive.py")
        assert report["run"]["script"] == "train_contrastive.py" and "held_out_discriminator_auc" in report

    def test_own_pictures_of_hostile_names_shown(self, unlearn, tmp_path):
        """A class is called as a tag would be, and a file, too; the page shows both as text, and the pictures."""
        draw, evil = np.random.default_rng(0), "<img src=x onerror=alert(1)>"
        for label, name in enumerate(("dark", evil)):
            (tmp_path / "pictures" / name).mkdir(parents=True)
            for number in range(30):
                pixels = draw.integers(0, 100, (8, 8, 3)) + 150 * label
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "pictures" / name / f"{number}&\"'.png")
        flags = ("--data_dir", tmp_path / "pictures", "--image_size", 8, "--validation", 0.3, "--batch_size", 8)
        flags = (*flags, "--train_num_epochs", 4, "--train_batch_size", 8, "--forget", f"class:{evil}", "--show_images")
        report, folder = unlearn(*flags)
        shown = report["pictures"]
        assert report["data"]["named_by"] == "file name" and len(shown) == min(24, report["request"]["images"])
        assert shown[0]["image"].startswith(f"{evil}/") and shown[0]["label"] == evil
        page = Page((folder / "report.html").read_text())
        sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
        assert len(sources) == len(shown) and all(source.startswith("data:image/png;base64,") for source in sources)
        assert f"class:{evil}" in page.text

    def test_references_that_are_no_text_are_refused_before_any_work(self, tmp_path):
        for script, flags, said in (
            (UNLEARN, ("--request_id", "a\nb"), "--request_id"),
            (UNLEARN, ("--untrain", "False", "--requester", "x"), "--requester"),
            ("train_contrastive.py", ("--show_images",), "--show_images"),
        ):
            done = fork(script, *flags, "--log_dir", tmp_path / "runs")
            assert_refused(done, script, said)
            assert done.out == "" and not (tmp_path / "runs").exists()


EXAMPLES = {
    "one retrained": example(),
    "none": example(0),
    "three": example(3),
    "all keys": example(copies=COPIES, near_duplicates=NEAR, sequence=SEQUENCE,
                        held_out_discriminator_auc={"original": 0.9, "unlearned": 1}),
}
OPTIONAL = ("verdict", "avg_gap", "avg_gap_salun", "tug_of_war", "gap_intervals", "retrained_models")


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_examples_of_these_tests_are_reports(name):
    assert complaints(EXAMPLES[name]) == []
    assert Page(report_page(EXAMPLES[name])).open == []


class TestRefused:
    @pytest.mark.parametrize(
        ("path", "value"),
        [
            ("models.unlearned.retain_top1", 100.5), ("models.unlearned.retain_top1", -0.1),
            ("models.unlearned.mia_auc", 1.01), ("models.unlearned.retain_exposure", -1.1),
            ("models.unlearned.forget_loss", -1), ("models.unlearned.new", 1),
            ("models.unlearned.retain_top1", "97"), ("models.stranger", {}), ("request.sha256", "abc"),
            ("request.sha256", "G" * 64), ("request.images", -1), ("request.images", 1.5), ("request.id", ""),
            ("request.id", "x" * 201), ("created", "yesterday"), ("run.judge", "nobody"), ("run.seconds", -1),
            ("run.code.commit", "HEAD"), ("verdict.feasible", "yes"), ("verdict.retain_budget", -1),
            ("verdict.margin", None), ("schema_version", 2), ("schema_version", True), ("final_test", "mine"),
            ("forget.target", "nowhere"), ("forget.chosen_epoch", 0), ("files", []), ("files.0.sha256", None),
            ("gap_intervals.unlearned.avg_gap", [1.0]), ("trace.epochs.forget_top1", [101]),
            ("trace.intervals.multiplier", [-1.0]),
            ("trace.intervals.step", list(range(301))), ("loss_histograms.edges", []), ("unknown", 1),
            ("copies", {"elsewhere": {"count": 1, "examples": []}}), ("sequence", {"number": 1}),
            ("pictures", [{"image": 1, "label": "x"}]), ("cost.unlearned.seconds", "1"),
        ],
    )  # fmt: skip
    def test_types_and_ranges(self, path, value):
        report, (*parts, last) = example(), path.split(".")
        place = report
        for part in parts:
            place = place[int(part) if part.isdigit() else part]
        place[int(last) if last.isdigit() else last] = value
        assert complaints(report)

    @pytest.mark.parametrize("key", [key for key in example() if key not in OPTIONAL])
    def test_a_missing_key(self, key):
        report = example()
        del report[key]
        assert complaints(report)

    def test_an_unlearned_model_without_a_verdict_and_the_reverse(self):
        assert complaints(example(verdict=None))
        report = example()
        del report["models"]["unlearned"]
        assert complaints(report)

    @settings(max_examples=100, suppress_health_check=[HealthCheck.too_slow])
    @given(st.data())
    def test_any_value_in_place_of_one_of_another_type(self, data):
        """Whatever stands anywhere, a value of a type that neither it nor null has is refused."""
        report = copy.deepcopy(EXAMPLES[data.draw(st.sampled_from(sorted(EXAMPLES)))])
        places = list(walk(report))
        container, key = data.draw(st.sampled_from(places))
        old = container[key]
        # A number where a name may stand for an image, and the reverse, is none of another type.
        kinds = {str: st.text(min_size=1), bool: st.booleans(), int: st.integers(0, 9), list: st.just([[[]]]),
                 dict: st.just({"x": {"y": {}}}), float: st.floats(0, 1)}  # fmt: skip
        same = (int, float) if isinstance(old, int | float) and not isinstance(old, bool) else (type(old),)
        others = [kind for kind in kinds if kind not in same]
        if old is None or isinstance(container, list) and isinstance(old, str | int) and container in EITHER:
            return
        container[key] = data.draw(st.one_of(*(kinds[kind] for kind in others)))
        assert complaints(report), (key, container[key])


EITHER = [pair for part in (*COPIES.values(), *NEAR["parts"].values()) for pair in part["examples"]]


def walk(content):
    """Every container in nested dicts and lists with every key or place in it."""
    for key, value in content.items() if isinstance(content, dict) else enumerate(content):
        yield content, key
        if isinstance(value, dict | list):
            yield from walk(value)
