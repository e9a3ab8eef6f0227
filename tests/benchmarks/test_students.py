"""The benchmark of students: plain distillation by hand, and cells that run once."""

import json
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.processes import SMALL, fork, only, signal_at
from torch import nn

import train
from benchmarks.sweeps import students
from contrastive_discrimination.critic import Critic
from contrastive_discrimination.discriminators import DISCRIMINATORS
from contrastive_discrimination.teaching import Scale
from helper_functions.errors import UserError
from helper_functions.run_folder import run_quietly
from helper_functions.training.devices import Precision


def test_plain_distillation_is_the_divergence_of_the_logits_whatever_their_scale():
    torch.manual_seed(0)
    student, teacher, inputs = nn.Linear(4, 3), nn.Linear(4, 3), torch.randn(8, 4)
    scale = Scale(torch.tensor([1.0, -2.0, 0.5]), torch.tensor([3.0, 0.5, 1.0]))
    critic = Critic(DISCRIMINATORS["jensen_shannon"](3))
    objective = students.KullbackLeibler(
        student, teacher, False, scale, critic, 1, 0.5, Precision(torch.device("cpu"), torch.float32), torch.Generator()
    )
    loss, _ = objective((inputs, torch.zeros(8, dtype=torch.int64)))
    p, q = (model(inputs).softmax(1) for model in (teacher, student))
    torch.testing.assert_close(loss, (p * (p / q).log()).sum(1).mean())
    loss.backward()
    assert student.weight.grad.abs().max() > 0 and teacher.weight.grad is None


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("teacher")
    flags = [*SMALL, "--dataset", "digits", "--num_epochs", 2, "--log_dir", place, "--figures", False]
    return run_quietly(train, list(map(str, flags)), "teacher")[0] / "model.pt"


def test_cells_run_once_and_make_the_table(teacher, tmp_path, capsys):
    args = students.Args(
        weight_path=str(teacher), output=str(tmp_path / "students.jsonl"), discriminators=["kl", "logistic"],
        num_epochs=[1], log_dir=str(tmp_path), workers=1,
    )  # fmt: skip
    students.main(args)
    before = (tmp_path / "students.jsonl").read_text()
    rows = [json.loads(line) for line in before.splitlines()]
    assert [row["discriminator"] for row in rows] == ["kl", "logistic"]
    # The teacher is one; what they learned is not.
    assert rows[0]["models"]["teacher"] == rows[1]["models"]["teacher"]
    assert rows[0]["models"]["student"] != rows[1]["models"]["student"]
    students.main(args)
    assert (tmp_path / "students.jsonl").read_text() == before
    assert {line.split(" | ")[0] for line in capsys.readouterr().out.splitlines()} >= {"kl", "logistic"}


@pytest.mark.parametrize("name", ["kl", "logistic"])
def test_a_cell_that_was_stopped_is_gone_on_with(teacher, tmp_path, name):
    """11 steps an epoch; the row is that of a cell that was never stopped."""
    flags = ["--weight_path", teacher, "--discriminators", name, "--num_epochs", 2, "--workers", 1]
    rows = []
    for place, steps in (("whole", [None]), ("stopped", [11 + 5, None])):
        own = [*flags, "--output", tmp_path / f"{place}.jsonl", "--log_dir", tmp_path / place]
        for step in steps:
            done = fork("benchmarks.sweeps.students", *own, before=None if step is None else partial(signal_at, step))
            assert done.status == (0 if step is None else -signal.SIGKILL), done.err
        assert not (only(tmp_path / place) / "checkpoint.pt").exists()
        rows.append(json.loads((tmp_path / f"{place}.jsonl").read_text()))
    whole, stopped = ({key: row[key] for key in ("key", "models", "auc")} for row in rows)
    assert whole == stopped


@pytest.mark.parametrize(
    ("flags", "says"),
    [({"discriminators": ["mlpp"]}, "mlpp"), ({"weight_path": "absent.pt"}, "absent.pt"), ({}, "teacher")],
)
def test_what_is_no_discriminator_or_no_teacher_is_refused(flags, says, tmp_path):
    with pytest.raises(UserError, match=says):
        students.main(students.Args(output=str(tmp_path / "students.jsonl"), **flags))
