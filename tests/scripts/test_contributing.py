"""The method of CONTRIBUTING.md in a file elsewhere runs, resumes and verifies; wrong files are refused."""

import copy
import functools
import json
import re
from pathlib import Path

import pytest
import torch
from helpers.method_cases import PLAIN, assert_same_weights, descend, everything, network, streams
from helpers.method_cases import run as run_method
from helpers.processes import REPOSITORY, SMALL, assert_refused, contents, fork, only, signal_at
from helpers.run_folders import figures_of, unexplained_tags
from torch import nn

from helper_functions.files import load_config, load_tensors
from unlearning.methods import get_method
from unlearning.methods.method import method_row

PAGE = (REPOSITORY / "CONTRIBUTING.md").read_text()
(CODE,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
MOST_LINES = 40
UNLEARN = "train_constrained_unlearning.py"
BETA = 0.3
TRAINED = ("--dataset", "digits", *SMALL, "--train_num_epochs", 1, "--figures", False, "--keep_checkpoint")
FLAGS = (*TRAINED, "--forget", "random:40", "--retain_budget", 100, "--num_epochs", 2, "--npo_beta", BETA)


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder elsewhere with the page's file."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "npo.py").write_text(CODE)
    return folder


@pytest.fixture(scope="module")
def method(place) -> str:
    return f"{place}/npo.py:METHOD"


@pytest.fixture(scope="module")
def whole(place, method) -> Path:
    """The folder of a run that nothing has stopped."""
    done = fork(UNLEARN, *FLAGS, "--method", method, "--log_dir", place / "runs")
    assert done.status == 0, done.err
    assert "npo.py:METHOD epoch" in done.out and "budget kept: retain" in done.out
    return only(place / "runs")


def test_the_method_takes_no_more_lines_than_promised():
    assert len([line for line in CODE.splitlines() if line.strip()]) <= MOST_LINES


def test_one_step_is_its_formula(method, tmp_path):
    """With powers of probabilities where the method has logarithms."""
    loaders = streams(whole=True)
    settings = {**PLAIN, "bn": "frozen", "num_epochs": 1, "npo_beta": BETA}
    model, outcome = run_method(method, tmp_path, loaders=loaders, **settings)
    expected = network()
    original = copy.deepcopy(expected)
    forget, retain = everything(loaders["forget"]), everything(loaders["retain"])

    def likely(network: nn.Module, inputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return network(inputs).softmax(1)[torch.arange(len(labels)), labels]

    def formula(network: nn.Module) -> torch.Tensor:
        ratio = likely(network, *forget) / likely(original, *forget).detach()
        return -likely(network, *retain).log().mean() + 2 / BETA * (1 + ratio**BETA).log().mean()

    descend(expected, formula)
    assert_same_weights(model, expected)
    assert outcome.cost.gradient_steps == 1


def test_folder_configuration_and_report_carry_it(whole, method):
    config, report = load_config(whole / "config.yaml"), json.loads((whole / "report.json").read_text())
    assert (config["method"], config["npo_beta"], config["learning_rate"]) == (method, BETA, 0.005)
    assert report["run"]["method"] == report["forget"]["method"] == method
    assert "method" in {file["role"] for file in report["files"]} and (whole / "method.py").read_text() == CODE
    assert method in (whole / "report.html").read_text() and not unexplained_tags(whole)
    assert whole.name.startswith("unlearning-npo.py_METHOD-random_40-")


def test_its_report_holds_without_its_code(whole, method):
    Path(method.partition(":")[0]).rename(whole.parent / "gone.py")
    try:
        done = fork("test.py", "--verify", whole)
    finally:
        (whole.parent / "gone.py").rename(method.partition(":")[0])
    assert done.status == 0 and "the report HOLDS" in done.out, done.out + done.err
    assert re.search(r"^method: method.py .* holds$", done.out, re.M)


def test_a_stopped_run_goes_on_where_the_code_is_named_again_and_is_the_same(whole, method, tmp_path):
    stop = functools.partial(signal_at, 25, "SIGTERM")  # in the second of two passes after a training of 11 steps
    stopped = fork(UNLEARN, *FLAGS, "--method", method, "--log_dir", tmp_path, before=stop)
    folder = only(tmp_path)
    assert stopped.status == 143 and stopped.err.endswith(f"--resume {folder} --method {method}\n"), stopped.err
    before = contents(folder)
    assert_refused(fork(UNLEARN, "--resume", folder), UNLEARN, f"add --method {method}")
    assert contents(folder) == before
    resumed = fork(UNLEARN, "--resume", folder, "--method", method)
    assert resumed.status == 0, resumed.err
    weights, expected = (load_tensors(each / "model.pt", "") for each in (folder, whole))
    assert all(torch.equal(value, expected[name]) for name, value in weights.items())
    assert figures_of(folder) == figures_of(whole)


def test_a_run_does_not_go_on_with_other_code(whole, method, tmp_path):
    changed = tmp_path / "run"
    changed.mkdir()
    for name in ("config.yaml", "splits.npz", "checkpoint.pt", "original.pt", "original.json", "preprocessing.json"):
        (changed / name).write_bytes((whole / name).read_bytes())
    (changed / "method.py").write_text(CODE + "\n")
    done = fork(UNLEARN, "--resume", changed, "--method", method)
    assert_refused(done, UNLEARN, "it has changed since", "start anew")


def test_its_code_is_not_run_where_only_a_folder_names_it(whole, method):
    assert_refused(fork(UNLEARN, "--dial", whole), UNLEARN, f"add --method {method}")
    flags = ("--weight_path", whole / "model.pt", "--shadow_models", 4, "--shadow_config", whole / "config.yaml")
    assert_refused(fork("test.py", *flags), "test.py", f"add --shadow_method {method}")


def test_help_shows_its_flags(method):
    done = fork(UNLEARN, "--help", method)
    assert done.status == 0 and "--npo_beta 0.5" in done.out and "--learning_rate 0.005" in done.out


def test_its_row_of_the_documents(method):
    row = method_row("npo", get_method(method))
    assert row.endswith("| `npo_beta` 0.5, `learning_rate` 0.005 | Zhang et al. 2024 |")


WRONG = """
from unlearning.methods.method import published

def spec(context): ...
def none(): ...
def two(context, more): ...

LESS, MORE, SEED, LIST = published(none), published(two), published(spec, seed=3), published(spec, sizes=[1])
SEARCH, NUMBER = published(spec, search={"learning_rat": (0.1, 0.2)}), 3
"""


@pytest.mark.parametrize(
    ("name", "flags", "said"),
    [
        ("none.py:METHOD", (), "there is no such file"),
        ("npo.py:METHD", (), "did you mean METHOD?"),
        ("npo.py:spec", (), "it is a function; give what published"),
        ("npo:METHOD", (), "FILE.py:METHOD"),
        ("npo.py:METHOD", ("--npo_beta", "much"), "--npo_beta"),
        ("npo.py:METHOD", ("--npo_bta", 1), "did you mean"),
        ("npo.py:METHOD", ("--msteps", 7), "no such thing"),
        ("wrong.py:LESS", (), "none takes the MethodContext alone"),
        ("wrong.py:MORE", (), "two takes the MethodContext alone"),
        ("wrong.py:SEED", (), "'seed' cannot have this name"),
        ("wrong.py:LIST", (), "default of sizes is [1]"),
        ("wrong.py:SEARCH", (), "did you mean learning_rate?"),
        ("wrong.py:NUMBER", (), "it is a int"),
        ("broken.py:METHOD", (), "ModuleNotFoundError: No module named 'nothing_like_this' (broken.py, line 1)"),
        ("scrubb", (), "did you mean scrub?"),
    ],
)
def test_what_is_wrong_is_one_line(name, flags, said, place, tmp_path):
    (place / "wrong.py").write_text(WRONG)
    (place / "broken.py").write_text("import nothing_like_this\n")
    given = f"{place}/{name}" if ".py" in name else name
    done = fork(UNLEARN, *TRAINED, "--log_dir", tmp_path / "runs", "--method", given, *flags)
    assert_refused(done, UNLEARN, said)
    assert not (tmp_path / "runs").exists()
