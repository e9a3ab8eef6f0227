"""docs/results.md is what its template and the records give, and a claim that they do not support is an error."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

import train_constrained_unlearning as script
from benchmarks import results
from benchmarks.results import Record, decimals, ensure, render, signed, slashed, span, titles, word, wrapped
from helper_functions.config import run_script
from helper_functions.errors import UserError
from helper_functions.files import load_config
from helper_functions.run_folder import run_quietly

ROOT = Path(__file__).parents[2]
TEMPLATE, BOARDS, RUNS = (ROOT / "docs" / name for name in ("results.md.jinja", "leaderboard", "runs.jsonl"))


@pytest.fixture
def boards(tmp_path) -> Path:
    """A copy of the records."""
    for path in BOARDS.glob("*/*.jsonl"):
        copy = tmp_path / "boards" / path.parent.name / path.name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return tmp_path / "boards"


def test_the_document_is_what_the_template_and_the_records_give():
    text = render(TEMPLATE, BOARDS, RUNS)
    assert text == (ROOT / "docs" / "results.md").read_text(), "run python -m benchmarks.results"
    assert len(text.splitlines()) <= 300


def change(record: Path, figure: str, value: float) -> None:
    """Change a figure of `constrained` in a record."""
    rows = list(map(json.loads, record.read_text().splitlines()))
    for row in rows:
        if row["method"] == "constrained":
            row["figures"][figure] = value
    record.write_text("".join(json.dumps(row) + "\n" for row in rows))


@pytest.mark.parametrize(
    "board, figure, value, words",
    [
        ("digits", "forget_top1", 50.0, "`constrained` ties with"),
        ("digits_ulira", "ulira_auc_low", 0.51, "The attack U-LiRA cannot tell"),
        ("cifar100_cpu", "forget_top1", 85.0, "Only the constrained problem forgets within the budget"),
    ],
)
def test_a_figure_that_contradicts_a_sentence_fails_with_the_sentence(board, figure, value, words, boards):
    change(boards / board / "results.jsonl", figure, value)
    with pytest.raises(UserError, match=rf"results.md.jinja, line \d+: the records do not support: {words}"):
        render(TEMPLATE, boards, RUNS)


def test_a_figure_that_supports_the_sentences_changes_the_text_alone(boards):
    change(boards / "cifar100_cpu" / "results.jsonl", "mia_auc", 0.4321)
    lines, now = (render(TEMPLATE, place, RUNS).splitlines() for place in (BOARDS, boards))
    changed = [line for line in now if line not in lines]
    assert len(now) == len(lines) and sum("| 0.432 |" in line for line in changed) == 2


@pytest.mark.parametrize(
    "text, said",
    [
        ("\n{{ board('nowhere').gap('scrub', 'random:0.1') }}", "line 2: .*nowhere/results.jsonl"),
        ("{{ board('digits').gap('scrubs', 'random:0.1') }}", "line 1: the board digits has no avg_gap of scrubs"),
        ("{{ bord('digits') }}", "line 1: 'bord' is undefined"),
        ("\n\n{% if %}", "line 3: "),
    ],
)
def test_a_mistake_in_the_template_is_one_line(text, said, tmp_path, monkeypatch, capsys):
    template, output = tmp_path / "page.md.jinja", tmp_path / "page.md"
    template.write_text(text)
    flags = ["--template", template, "--output", output, "--boards", BOARDS]
    monkeypatch.setattr("sys.argv", ["results.py", *map(str, flags)])
    assert run_script(results.get_parser, results.main) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and re.search(said, err) and not output.exists()


def test_figures_are_means_over_seeds_and_methods():
    record = Record(BOARDS / "cifar100_cpu" / "results.jsonl")
    forget = "random:0.1"
    for method in ("scrub", "original"):
        by_seed = record.by_seed(method, forget, "forget_top1")
        assert len(by_seed) == 2 and record.value(method, forget, "forget_top1") == pytest.approx(sum(by_seed) / 2)
    assert record.gap("retrained", forget) == pytest.approx(sum(record.by_seed("retrained", forget)) / 2)
    assert len(record.models(forget, "mia_auc")) == 4
    both = record.values(["scrub", "msg"], forget, "avg_gap")
    assert record.gap(["scrub", "msg"], forget) == pytest.approx(sum(both) / 2)
    assert record.total("msg") == pytest.approx(sum(record.gap("msg", each) for each in record.boards))
    order = record.lines(forget, merged=[["scrub", "ssd", "absent"]])
    kept = [line for line in order if record.within(line, forget)]
    assert order[: len(kept)] == kept and ["scrub", "ssd"] in order and ["scrub"] not in order
    gaps = [record.gap(line[0], forget) for line in kept]
    assert gaps == sorted(gaps) and kept[0] == [record.best(forget)]
    assert record.kept("bad_teacher", forget) == "0/2" and record.complete("scrub") and not record.has("pour", forget)


def test_figures_as_they_are_written():
    assert [decimals(value, 1) for value in (-0.04, 1234.56)] == ["0.0", "1,234.6"]
    assert [signed(value, 1) for value in (-0.04, 0.06, -2.0)] == ["0.0", "+0.1", "-2.0"]
    assert [span(values, 1) for values in ([1.01, 1.04], [3, 1, 2])] == ["1.0", "1.0–3.0"]
    assert slashed([1.04, -0.01], 1) == "1.0/0.0"
    assert [word(number) for number in (0, 8, 1500)] == ["no", "eight", "1,500"]
    assert [titles(names) for names in (["ct"], ["ct", "msg", "mine"])] == ["CT", "CT, MSG and `mine`"]
    assert ensure("so it is", 1 < 2) == "so it is"


def test_paragraphs_and_items_are_filled_and_all_else_stays():
    long = "word " * 60
    kept = ["# " + long, "", "```", long, "```", "", f"a | {long}", "---|---:", f"b | {long}"]
    text = wrapped("\n".join([*kept, "", long, "- " + long, "  more", "- second"]))
    lines = text.splitlines()
    assert lines[: len(kept)] == kept and max(map(len, lines[len(kept) :])) <= 120
    items = text.partition("\n- ")[2]
    assert items.count("\n  word") == 2 and "more\n- second\n" in items
    assert text.split() == " ".join([*kept, long, "-", long, "more - second"]).split()


def test_a_single_run_becomes_a_line_that_repeats_it(tmp_path):
    flags = "--dataset digits --model resnet8 --width 4 --train_num_epochs 1 --method finetune --num_epochs 1 --retrain"
    flags += f" --figures False --log_dir {tmp_path}/runs"
    folder, report = run_quietly(script, flags.split(), "a")
    record = tmp_path / "runs.jsonl"
    asked = ["--add", str(folder), "--record", str(record), "--name", "mine"]
    for _ in range(2):  # a second time it is there already
        results.main(results.get_parser().parse(asked))
        (row,) = map(json.loads, record.read_text().splitlines())
    assert (row["name"], row["method"], row["forget"], row["run"]) == ("mine", "finetune", "random:0.1", folder.name)
    assert row["avg_gap"] == pytest.approx(report["avg_gap"], rel=1e-5) and set(row["models"]) == set(report["models"])
    assert str(tmp_path) not in record.read_text()
    alone = {name: value for name, value in report.items() if name != "avg_gap"}  # nothing was retrained
    assert results.row_of("mine", alone, load_config(folder / "config.yaml")).keys() == row.keys() - {"avg_gap"}
    _, name, *argv = shlex.split(row["command"])
    config = vars(script.get_parser().parse(argv))
    given = load_config(folder / "config.yaml")
    assert name == "train_constrained_unlearning.py"
    assert {flag for flag in given if given[flag] != config.get(flag)} <= {"log_dir"}
    template = tmp_path / "page.jinja"
    template.write_text("{{ (runs('mine') | first).avg_gap.unlearned | f(2) }}{{ runs('other') | length }}")
    assert render(template, BOARDS, record) == f"{row['avg_gap']['unlearned']:.2f}0\n"


@pytest.mark.parametrize("flags, said", [(["--add", "{}"], "--name"), (["--add", "{}", "--name", "x"], "report.json")])
def test_a_folder_that_cannot_be_added_is_refused(flags, said, tmp_path):
    argv = [*(flag.format(tmp_path) for flag in flags), "--record", str(tmp_path / "record")]
    with pytest.raises(UserError, match=said):
        results.main(results.get_parser().parse(argv))
    assert not (tmp_path / "record").exists()
