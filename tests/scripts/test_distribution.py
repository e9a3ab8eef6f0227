"""Two ranks compute what one process computes: passes, batch norm, methods, scripts; a rank that dies, and resuming.

Only torchrun shows how several interpreters start and which rank's failure it reports; ranks are forks elsewhere.
"""

import os
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from helpers.processes import SMALL, Ran, assert_refused, contents, fork, fork_ranks, only, run, signal_at
from helpers.run_folders import figures_of, report_of, weights_of

from helper_functions.errors import UserError
from helper_functions.training.devices import choose_device
from helper_functions.training.spread import split_sizes

WORKER = "tests/helpers/spread_worker.py"
UNLEARN, CONTRASTIVE = "train_constrained_unlearning.py", "train_contrastive.py"
QUICK = (*SMALL, "--precision", "fp32", "--figures", "False", "--log_interval", 2)
# 1294 images in four batches of 323 or 324: for one rank 162 of them, for the other 161 or 162.
TRAIN = (*QUICK, "--forget", "random:40", "--num_epochs", 2, "--batch_size", 324, "--learning_rate", 0.02)
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", 2)


@pytest.fixture(scope="module")
def computed(tmp_path_factory):
    """What a function of the worker gives, on one process and on two ranks that agree to the bit."""
    folder = tmp_path_factory.mktemp("computed")

    def both(name: str) -> list[dict[str, torch.Tensor]]:
        alone = fork(WORKER, name, folder / f"{name}-1.pt")
        assert alone.status == 0, alone.err
        for rank, done in enumerate(fork_ranks(WORKER, name, folder / f"{name}-2.pt")):
            assert done.status == 0, (rank, done.err)
        return [torch.load(folder / f"{name}-{ranks}.pt", weights_only=True) for ranks in (1, 2)]

    return both


def assert_close(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], atol: float, rtol: float) -> None:
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(
            found[name], value, atol=atol, rtol=rtol, equal_nan=True, msg=lambda text, name=name: f"{name}: {text}"
        )


class TestPasses:
    @pytest.mark.parametrize("name", ["passes", "changing_layers", "features", "batch_norms", "joined"])
    def test_logits_gradients_and_buffers_are_those_of_one_process(self, name, computed):
        alone, spread = computed(name)
        assert_close(spread, alone, atol=2e-4, rtol=1e-4)

    def test_all_ranks_rows_are_the_batch_of_one_process(self, computed):
        alone, spread = computed("rows")
        assert_close(spread, alone, atol=0, rtol=0)

    def test_a_rank_gathers_no_rows_but_its_own(self, computed):
        alone, spread = computed("gathered")
        # Batches of three are too small to share.
        assert [int(found["8"]) for found in (alone, spread)] == [40, 40]
        assert [int(found["3"]) for found in (alone, spread)] == [40, 80]

    def test_low_precision_gives_them_up_to_its_own_rounding(self, computed):
        alone, spread = computed("low_precision")
        assert_close(spread, alone, atol=0.03, rtol=0.03)

    def test_batch_norm_of_parts_leaves_equal_statistics_on_all_ranks(self, computed):
        alone, spread = computed("part_norms")
        torch.testing.assert_close(spread["1.running_mean"], alone["1.running_mean"], atol=1e-2, rtol=1e-2)
        assert not torch.equal(spread["1.running_var"], alone["1.running_var"])

    def test_dropout_differs_by_rank_and_leaves_the_generators_equal(self, computed):
        alone, spread = computed("dropout")
        left = spread["left"]
        assert not torch.equal(left[:3], left[4:]) and set(left.unique().tolist()) == {0.0, 2.0}
        assert not torch.equal(left[:2], spread["few"])
        assert torch.equal(spread["without"], alone["without"])

    def test_every_method_ends_with_the_weights_of_one_process(self, computed):
        alone, spread = computed("methods")
        assert_close(spread, alone, atol=2e-3, rtol=1e-3)

    def test_untraining_from_python_gives_those_of_one_process(self, computed):
        alone, spread = computed("from_python")
        assert_close(spread, alone, atol=2e-3, rtol=1e-3)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> list[Ran]:
    """`train.py` as one process, and as two ranks under torchrun that share batch norm and list their threads."""
    folder = tmp_path_factory.mktemp("trained")
    alone = fork("train.py", *TRAIN, "--log_dir", folder / "1")
    spread = run(*TORCHRUN, "tests/helpers/threads_worker.py", *TRAIN, "--sync_bn", "--log_dir", folder / "2")
    assert (alone.status, spread.status) == (0, 0), spread.err
    return [Ran(done, only(folder / ranks)) for ranks, done in (("1", alone), ("2", spread))]


@pytest.fixture
def both(original, tmp_path):
    """Run a script on the small original, as one process and as two ranks; the run folders."""

    def run_both(script: str, *flags: object) -> list[Path]:
        given = (*QUICK, "--sync_bn", "--weight_path", original.folder / "model.pt", "--judge", "validation", *flags)
        alone = fork(script, *given, "--log_dir", tmp_path / "1")
        spread = fork_ranks(script, *given, "--log_dir", tmp_path / "2")
        assert alone.status in (0, 3, 4), alone.err
        assert [done.status for done in spread] == [alone.status, 0], spread
        assert spread[0].err == spread[1].err == spread[1].out == ""
        return [only(tmp_path / ranks) for ranks in ("1", "2")]

    return run_both


def assert_same_figures(found: Path, expected: Path, tolerance: float) -> None:
    """Every line of metrics.jsonl, and what the report says of models, verdict and cost but for seconds and memory."""
    lines = [figures_of(folder) for folder in (found, expected)]
    assert len(lines[0]) == len(lines[1])
    for line, other in zip(*lines, strict=True):
        assert line == pytest.approx(other, rel=tolerance, abs=tolerance)
    reports = [report_of(folder) for folder in (found, expected)]
    for name, figures in reports[1]["models"].items():
        # A membership attack on a handful of images hangs on single ones.
        stable = {key: value for key, value in figures.items() if key.endswith(("top1", "top5", "loss"))}
        assert {key: reports[0]["models"][name][key] for key in stable} == pytest.approx(stable, rel=0.02, abs=1)
    for name, cost in reports[1]["cost"].items():
        assert {key: reports[0]["cost"][name][key] for key in ("gradient_steps", "images")} == {
            key: cost[key] for key in ("gradient_steps", "images")
        }


class TestScripts:
    def test_training_gives_the_losses_and_weights_of_one_process(self, trained):
        alone, spread = trained
        assert_same_figures(spread.folder, alone.folder, 1e-3)
        assert_close(weights_of(spread.folder), weights_of(alone.folder), atol=1e-3, rtol=1e-3)

    def test_rank_0_alone_writes_and_prints(self, trained):
        alone, spread = trained
        names = [sorted(path.name.split(".1")[0] for path in ran.folder.iterdir()) for ran in trained]
        assert names[0] == names[1]
        assert len(list(spread.folder.parent.iterdir())) == 1
        assert spread.done.out.count("weights  ") == 1
        assert spread.done.out.count("original epoch") == alone.done.out.count("original epoch")

    @pytest.mark.parametrize("method", ["constrained", "untrain_contrastive"])
    def test_constraints_and_multipliers_are_those_of_one_process(self, method, both):
        # At the rate of fine-tuning, rounding grows within a few steps.
        flags = ("--num_epochs", 2, "--finetune_num_epochs", 0, "--batch_size", 13, "--log_interval", 1)
        alone, spread = both(UNLEARN, "--method", method, *flags)
        assert "constraint/multiplier" in figures_of(alone)[0]
        assert_same_figures(spread, alone, 2e-3)

    @pytest.mark.parametrize("method", ["scrub", "cf_k"])
    def test_published_methods_agree(self, method, both):
        alone, spread = both(UNLEARN, "--method", method, "--num_epochs", 1, "--batch_size", 99, "--rewind")
        assert_same_figures(spread, alone, 5e-3)

    def test_a_student_learns_the_same(self, both):
        flags = ("--mode", "train", "--num_epochs", 1, "--learning_rate", 0.02, "--discriminate", "features")
        alone, spread = both(CONTRASTIVE, *flags)
        assert_same_figures(spread, alone, 5e-3)


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="threads are listed on Linux alone")
def test_no_thread_outlives_the_process_group(trained):
    """A thread that does can abort a finished run at the exit of the interpreter."""
    assert sorted(line for line in trained[1].done.err.splitlines() if "has left" in line) == [
        "rank 0 has left []", "rank 1 has left []",
    ]  # fmt: skip


class TestResume:
    def test_one_process_goes_on_after_two_ranks(self, trained, tmp_path):
        done = fork_ranks("train.py", *TRAIN, "--sync_bn", "--log_dir", tmp_path, before=partial(signal_at, 8))
        assert [child.status for child in done] == [-signal.SIGKILL] * 2
        done = fork("train.py", "--resume", only(tmp_path))
        assert done.status == 0 and done.err == ""
        assert_same_figures(only(tmp_path), trained[0].folder, 1e-3)
        assert_close(weights_of(only(tmp_path)), weights_of(trained[0].folder), atol=1e-3, rtol=1e-3)

    @pytest.mark.parametrize("asked", ["both", "one"])
    def test_ranks_stop_at_the_same_step_whichever_of_them_is_asked(self, asked, trained, tmp_path):
        before = partial(signal_at, 7, "SIGTERM") if asked == "both" else stop_rank_1
        first, second = fork_ranks("train.py", *TRAIN, "--sync_bn", "--log_dir", tmp_path, before=before)
        folder = only(tmp_path)
        # The third of five steps, since the other rank learns of a signal a step later.
        again = f"go on with: python train.py --resume {folder}"
        assert (first.status, first.err) == (143, f"train.py: stopped at step 8; {again}\n")
        assert (second.status, second.err) == (143, "")
        assert fork("train.py", "--resume", folder).status == 0
        assert_same_figures(folder, trained[0].folder, 1e-3)
        assert_close(weights_of(folder), weights_of(trained[0].folder), atol=1e-3, rtol=1e-3)

    def test_two_ranks_go_on_after_one_process(self, tmp_path):
        """From a checkpoint of unlearning, with both of the models that were trained before it."""
        flags = (
            *QUICK, "--sync_bn", "--forget", "random:40", "--train_num_epochs", 1, "--train_batch_size", 400,
            "--train_learning_rate", 0.02, "--retrain", "--num_epochs", 2, "--finetune_num_epochs", 0,
            "--batch_size", 20, "--judge", "validation",
        )  # fmt: skip
        expected = fork(UNLEARN, *flags, "--log_dir", tmp_path / "whole")
        # Four steps of each model's training, two steps of the first epoch.
        done = fork(UNLEARN, *flags, "--log_dir", tmp_path / "cut", before=partial(signal_at, 4 + 4 + 2 + 1))
        assert done.status == -signal.SIGKILL
        folders = [only(tmp_path / name) for name in ("cut", "whole")]
        done = fork_ranks(UNLEARN, "--resume", folders[0])
        assert [child.status for child in done] == [expected.status, 0] and done[0].err == done[1].err == ""
        assert_same_figures(*folders, 2e-3)
        assert_close(*(weights_of(folder) for folder in folders), atol=1e-3, rtol=1e-3)

    def test_a_rank_that_is_killed_ends_the_run_and_leaves_its_checkpoint(self, trained, tmp_path):
        script = tmp_path / "one_dies.py"
        script.write_text(
            "import os, runpy, sys\n"
            f"sys.path[:0] = [{str(Path.cwd())!r}, {str(Path(__file__).parents[1])!r}]\n"
            "from helpers.processes import signal_at\n"
            "if os.environ['RANK'] == '1':\n"
            "    signal_at(8)\n"
            "runpy.run_path('train.py', run_name='__main__')\n"
        )
        done = run(*TORCHRUN, script, *TRAIN, "--sync_bn", "--log_dir", tmp_path / "runs")
        assert done.status == 1
        assert "train.py: error: rank 0 lost another rank (" in done.err
        assert "rank      : 1 (local_rank: 1)" in done.err and "SIGKILL" in done.err
        root_cause = done.err[done.err.index("Root Cause") :]
        assert "rank      : 1 " in root_cause and "rank      : 0 " not in root_cause
        assert "[rank0]: Traceback" not in done.err
        assert fork("train.py", "--resume", only(tmp_path / "runs")).status == 0
        assert_same_figures(only(tmp_path / "runs"), trained[0].folder, 1e-3)


class TestRefusals:
    def test_a_request_that_cannot_be_met_is_one_line_of_rank_0(self, tmp_path):
        first, second = fork_ranks("train.py", *QUICK, "--forget", "class:nobody", "--log_dir", tmp_path)
        assert_refused(first, "train.py", "nobody")
        assert (second.status, second.out, second.err) == (2, "", "")
        assert contents(tmp_path) == {}

    def test_what_one_rank_alone_cannot_do_is_a_line_with_its_number(self, tmp_path):
        first, second = fork_ranks("train.py", *QUICK, "--log_dir", tmp_path, before=lose_the_data)
        assert second.status == 2 and second.err.startswith("rank 1: train.py: error: ") and second.err.count("\n") == 1
        assert first.status == 1 and first.err.startswith("train.py: error: rank 0 lost another rank")

    def test_devices_that_ranks_cannot_share(self, monkeypatch):
        monkeypatch.setattr("helper_functions.training.devices.world_size", lambda: 2)
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: None)
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert choose_device("auto") == choose_device("cuda") == torch.device("cuda", 1)
        assert choose_device("cpu") == torch.device("cpu")
        for name in ("cuda:1", "mps"):
            with pytest.raises(UserError, match=f"--device {name}: several ranks cannot share it"):
                choose_device(name)
        monkeypatch.setenv("LOCAL_RANK", "2")
        with pytest.raises(UserError, match="this machine has 2 of them; start as many ranks"):
            choose_device("auto")


def stop_rank_1() -> None:
    """Rank 1 alone gets a signal."""
    if os.environ["RANK"] == "1":
        signal_at(7, "SIGTERM")


def lose_the_data() -> None:
    """Rank 1 finds no data set."""
    if os.environ["RANK"] == "1":
        import data.datasets

        def absent(*_: object, **__: object) -> None:
            raise UserError("digits are absent")

        data.datasets.DATASETS["digits"] = absent


@pytest.mark.parametrize(("count", "sizes"), [(9, [3, 3, 3]), (8, [3, 3, 2]), (1, [1, 0, 0]), (0, [0, 0, 0])])
def test_parts_are_as_equal_as_can_be(count, sizes):
    assert split_sizes(count, 3) == sizes
