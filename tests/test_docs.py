"""Documents and configurations agree with the code."""

import dataclasses
import re
from pathlib import Path

import pytest

import test as test_script
import train
import train_constrained_unlearning as unlearning
import train_contrastive as contrastive
from benchmarks import robustness, throughput
from data import prepare
from helper_functions.files import load_config
from unlearning.methods import METHODS, defaults_of
from unlearning.methods.method import PUBLISHED

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
SCRIPTS = {
    "train.py": train,
    "train_constrained_unlearning.py": unlearning,
    "train_contrastive.py": contrastive,
    "test.py": test_script,
    "data.prepare": prepare,
    "benchmarks.throughput": throughput,
    "benchmarks.robustness": robustness,
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_readme_tells_every_flag_with_its_default(name):
    for field in dataclasses.fields(SCRIPTS[name].Args):
        default = field.default if field.default is not dataclasses.MISSING else field.default_factory()
        text = "–" if default in (None, []) else re.escape(str(default).strip("[]").replace("'", "").replace(",", ""))
        assert re.search(rf"^\| `--{field.name}` \| {text} \| ", README, re.M), f"{name} --{field.name}"


def test_readme_names_no_flag_that_no_script_has():
    known = {field.name for script in SCRIPTS.values() for field in dataclasses.fields(script.Args)}
    allowed = known | {"config_file", "help", "logdir"}
    assert set(re.findall(r"--([a-z][a-z0-9_]+)", README)) <= allowed


@pytest.mark.parametrize("path", sorted((ROOT / "configs").rglob("*.yaml")), ids=lambda path: path.name)
def test_every_configuration_is_one_of_its_script(path):
    script = contrastive if path.parent.name == "contrastive" else unlearning
    script = train if path.name.startswith("resnet") else script
    args = script.get_parser().parse(["--config_file", str(path)])
    assert {key: getattr(args, key) for key in load_config(path)} == load_config(path)


def test_readme_links_lead_somewhere():
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("method", METHODS)
def test_the_table_of_methods_tells_each_ones_own_values(method):
    row = re.search(rf"^\| `{method}` \| .*$", (ROOT / "docs/methods.md").read_text(), re.M).group()
    own = {name: value for name, value in defaults_of(method).items() if PUBLISHED.get(name) != value}
    for name, value in own.items():
        assert re.search(rf"`{name}` (\(\$.*?\$\) )?{re.escape(str(value))}\b", row), f"{method} {name}"
