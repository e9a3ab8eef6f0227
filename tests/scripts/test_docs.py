"""Documents and configurations agree with the code."""

import dataclasses
import re
from pathlib import Path

import pytest
from helpers import flags_page

import train
import train_constrained_unlearning as unlearning
import train_contrastive as contrastive
from benchmarks.leaderboard import board as leaderboard
from benchmarks.leaderboard import tune
from helper_functions.files import load_config
from unlearning.methods import METHODS
from unlearning.methods.method import method_row

ROOT = Path(__file__).parents[2]
# Flags of ray, sbatch and torchrun, up to their first hyphen.
LAUNCHERS = ("generate", "head", "port", "min", "num", "nodes", "ntasks", "cpus", "gpus")
LAUNCHERS += ("standalone", "nnodes", "node_rank", "nproc_per_node", "master_addr", "master_port", "rdzv_id")
LAUNCHERS += ("rdzv_backend", "rdzv_endpoint")


def test_the_page_of_flags_is_what_the_code_says():
    assert flags_page.PAGE.read_text() == flags_page.page(), "run python tests/helpers/flags_page.py"


@pytest.mark.parametrize("page", ["README.md", "docs/methods.md", "docs/results.md"])
def test_no_page_names_a_flag_that_no_script_has(page):
    known = {field.name for script in flags_page.SCRIPTS.values() for field in dataclasses.fields(script.Args)}
    allowed = known | {"config_file", "help", "logdir", *LAUNCHERS}
    assert set(re.findall(r"--([a-z][a-z0-9_]+)", (ROOT / page).read_text())) <= allowed


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


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\((?!https?:)([^)#]+)(?:#[^)]*)?\)", (ROOT / page).read_text()):
        assert ((ROOT / page).parent / target).exists(), target


@pytest.mark.parametrize("method", METHODS)
def test_the_table_of_methods_is_what_the_code_says(method):
    assert method_row(method, METHODS[method]) in (ROOT / "docs/methods.md").read_text().splitlines()
