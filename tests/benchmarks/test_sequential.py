"""The benchmark of requests in a row: a refused request ends its chain, and table and figure show it."""

import re
from pathlib import Path

import pytest

from benchmarks.sweeps import sequential
from helper_functions.errors import UserError

REFUSAL = "--retain_budget 2: nothing is left"


def begun(folder: Path, requests: int, training: int) -> dict:
    """A chain of requests for four digits each, on originals of so many epochs."""
    (folder / "train.yaml").write_text(f"dataset: digits\nmodel: resnet8\nwidth: 4\nnum_epochs: {training}\n")
    return {
        "setting": "random", "seed": 0, "requests": requests, "images": 4,
        "config_file_of_runs": str(folder / "train.yaml"), "log_dir": str(folder),
    }  # fmt: skip


@pytest.fixture(scope="module")
def chain(tmp_path_factory) -> dict:
    """Three requests for four digits each, of which the second is refused."""
    asked = begun(tmp_path_factory.mktemp("chain"), requests=3, training=3)
    real = sequential.run_quietly

    def run(script, argv, name):
        if name.endswith("-2"):
            raise UserError(REFUSAL)
        return real(script, argv, name)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sequential, "run_quietly", run)
        return sequential.run_chain(asked)


def test_a_refused_request_ends_the_chain_and_all_at_once_is_still_measured(chain):
    assert len(chain["requests_run"]) == 1 and chain["refused"] == REFUSAL
    assert {"at_once", "retrained"} <= set(chain)
    assert len(chain["at_once"]["lots"]) == 3


def test_means_are_over_the_chains_that_reached_the_last_request(chain, tmp_path):
    (first,) = chain["requests_run"]
    whole = {key: value for key, value in chain.items() if key != "refused"}
    whole |= {"seed": 1, "requests_run": [first, {**first, "fall": 1.25, "lots": first["lots"] * 2}]}
    table = sequential.summary([chain, whole])
    (line,) = re.findall(r"^random \| request 2 \(1 chains\) \| 1\.25 \(1\.25\) \|.*", table, re.M)
    assert line.endswith(f"| {2 * first['gradient_steps']}")
    assert table.endswith(f"random, seed 0, request 2 was refused: {REFUSAL}")
    sequential.draw(tmp_path / "figure.png", [chain, whole])
    assert (tmp_path / "figure.png").stat().st_size > 10_000


def test_a_first_request_that_is_refused_is_an_error(tmp_path, monkeypatch):
    asked = begun(tmp_path, requests=2, training=1)

    def refuse(script, argv, name):
        raise UserError(REFUSAL)

    monkeypatch.setattr(sequential, "run_quietly", refuse)
    with pytest.raises(UserError, match="nothing is left"):
        sequential.run_chain(asked)


def test_the_table_of_the_documents_is_the_records(tmp_path):
    docs = Path(__file__).parents[2] / "docs"
    args = {"output": str(docs / "sequential_digits.jsonl"), "figure": str(tmp_path / "figure.png"), "summary": True}
    rows = sequential.main(sequential.Args(**args))["chains"]
    assert sequential.summary(rows).partition("\nrandom, seed")[0] in (docs / "results.md").read_text()
