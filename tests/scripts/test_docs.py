"""Documents and configurations agree with the code: flags, commands, links, the table of methods."""

import dataclasses
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from helpers.processes import SMALL, TIMEOUT, only

import test
import train
import train_constrained_unlearning as unlearning
import train_contrastive as contrastive
from benchmarks.leaderboard import board as leaderboard
from benchmarks.leaderboard import tune
from benchmarks.speed import growth, throughput
from benchmarks.sweeps import deletion, robustness, sequential
from benchmarks.theory import theory_figure
from data import prepare
from helper_functions.files import load_config
from unlearning.methods import METHODS
from unlearning.methods.method import method_row

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "runs/README.md", *(f"docs/{path.name}" for path in sorted((ROOT / "docs").glob("*.md")))]
SCRIPTS = {
    "train.py": train,
    "train_constrained_unlearning.py": unlearning,
    "train_contrastive.py": contrastive,
    "test.py": test,
    "data.prepare": prepare,
    "benchmarks.leaderboard": leaderboard,
    "benchmarks.leaderboard.tune": tune,
    "benchmarks.sweeps.robustness": robustness,
    "benchmarks.sweeps.sequential": sequential,
    "benchmarks.sweeps.deletion": deletion,
    "benchmarks.speed.throughput": throughput,
    "benchmarks.speed.growth": growth,
    "benchmarks.theory.theory_figure": theory_figure,
}
# Flags of ray, sbatch and torchrun, up to their first hyphen.
LAUNCHERS = ("generate", "head", "port", "min", "num", "nodes", "ntasks", "cpus", "gpus")
LAUNCHERS += ("standalone", "nnodes", "node_rank", "nproc_per_node", "master_addr", "master_port", "rdzv_id")
LAUNCHERS += ("rdzv_backend", "rdzv_endpoint")


@pytest.mark.parametrize("page", PAGES)
def test_no_page_names_a_flag_that_no_script_has(page):
    known = {field.name for script in SCRIPTS.values() for field in dataclasses.fields(script.Args)}
    allowed = known | {"config_file", "help", "logdir", *LAUNCHERS}
    assert set(re.findall(r"--([a-z][a-z0-9_]+)", (ROOT / page).read_text())) <= allowed


def blocks(page: str, language: str) -> str:
    """The code blocks of one language in a page, one after the other."""
    found = re.findall(r"^```(\w*)\n(.*?)^```$", (ROOT / page).read_text(), re.M | re.S)
    return "".join(text for name, text in found if name == language)


def commands(page: str) -> list[list[str]]:
    """The words of each command in a page's code blocks, without comments; continued lines are one command."""
    lines = blocks(page, "").replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True) for line in lines if re.match(r"(python|torchrun|srun|make|pip) ", line)]


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory) -> Path:
    """A finished run within its budget, as `runs/NAME` of a folder that has the repository's configurations."""
    folder = tmp_path_factory.mktemp("commands")
    (folder / "configs").symlink_to(ROOT / "configs")
    (folder / "npo.py").write_text(blocks("CONTRIBUTING.md", "python"))
    flags = ("--dataset", "digits", *SMALL, "--train_num_epochs", 1, "--num_epochs", 1, "--retain_budget", 100)
    flags += ("--keep_checkpoint", "--figures", False)
    unlearning.main(parse(unlearning, *flags, "--log_dir", folder / "made"))
    (folder / "runs").mkdir()
    (folder / "runs/NAME").symlink_to(only(folder / "made"))
    return folder


def parse(script, *flags: object):
    return script.get_parser().parse([str(flag) for flag in flags])


@pytest.mark.parametrize("page", ["README.md", "docs/clusters.md", "docs/trust.md"])
def test_every_command_is_one_of_its_script(page, run_folder, monkeypatch):
    monkeypatch.chdir(run_folder)
    for words in commands(page):
        if words[0] == "make":
            assert re.search(rf"^{words[1]}:", (ROOT / "Makefile").read_text(), re.M), words
        elif words[0] == "pip":
            assert (ROOT / words[-1]).is_file(), words
        else:
            place = next(place for place, word in enumerate(words) if word in SCRIPTS)
            args = parse(SCRIPTS[words[place]], *words[place + 1 :])
            if words[place] == "test.py":
                assert test.main(args)["holds"]


# What the README's example takes for granted.
GIVEN = """
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

torch.manual_seed(0)
points = TensorDataset(torch.randn(32, 2), torch.arange(32) % 4)
retainloader = forgetloader = unseenloader = validloader = DataLoader(points, batch_size=8)
model = nn.Sequential(nn.Linear(2, 16), nn.ReLU(), nn.Linear(16, 4))
"""


def test_the_python_of_the_readme_runs_anywhere(tmp_path):
    (tmp_path / "example.py").write_text(GIVEN + blocks("README.md", "python"))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "example.py"], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=TIMEOUT
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"^verdict  .*forgotten.*budget.*kept", done.stdout, re.M)
    weights = tmp_path / re.search(r"^weights  (.*)$", done.stdout, re.M)[1]
    assert weights.is_file() and (weights.parent / "report.json").is_file()


CONFIGURATIONS = sorted((ROOT / "configs").rglob("*.yaml"))


@pytest.mark.parametrize("path", CONFIGURATIONS, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_configuration_is_one_of_its_script(path):
    script = contrastive if path.parent.name == "contrastive" else unlearning
    if path.parent.name == "leaderboard":
        script = tune if path.stem.endswith("_tuning") else leaderboard
    elif path.name.startswith("resnet") or path.stem == "train" and path.parent.name != "contrastive":
        script = train
    args = script.get_parser().parse(["--config_file", str(path)])
    assert {key: getattr(args, key) for key in load_config(path)} == load_config(path)


@pytest.mark.parametrize("page", [*PAGES, "CONTRIBUTING.md"])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("method", METHODS)
def test_the_table_of_methods_is_what_the_code_says(method):
    assert method_row(method, METHODS[method]) in (ROOT / "docs/methods.md").read_text().splitlines()
