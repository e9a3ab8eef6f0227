"""Models of every kind through every script: trained, unlearned, stopped, resumed, verified, turned, and followed."""

import functools
import importlib.util
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.processes import Ran, assert_refused, contents, fork, only, signal_at
from helpers.run_folders import assert_same_weights, report_of, weights_of
from safetensors.torch import load_file, save_file

from helper_functions.errors import UserError
from models.weight_files import read_weight_file
from unlearning.known_weights import described

UNLEARN = "train_constrained_unlearning.py"
needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
MODELS = {
    "vit": "timm:vit_tiny_patch16_224,patch_size=4,embed_dim=16,depth=2,num_heads=2",
    "convnext": "tests/helpers/small_models.py:convnext",
    "efficientnet": "tests/helpers/small_models.py:efficientnet",
}
FAST = ("--precision", "fp32", "--figures", False, "--judge", "validation")
# Whether it is forgotten does not matter here.
DONE = (0, 4)
EPOCH = ("--finetune_num_epochs", 1, "--retain_budget", 100, *FAST)


def train(model: str, log_dir: Path, *flags: object) -> Ran:
    done = fork(
        "train.py", "--dataset", "digits", "--model", model, "--forget", "random:40", "--num_epochs", 3,
        "--batch_size", 32, "--optimizer", "adamw", "--learning_rate", 0.01, "--precision", "fp32",
        "--log_dir", log_dir, *flags,
    )  # fmt: skip
    assert done.status == 0, done.err
    return Ran(done, only(log_dir))


@pytest.fixture(scope="module")
def train_once(tmp_path_factory) -> Callable[[str], Ran]:
    """The run of train.py on a model, made when it is first asked for."""
    return functools.cache(lambda model: train(model, tmp_path_factory.mktemp("original")))


@pytest.fixture(scope="module", params=[pytest.param("vit", marks=needs_timm), "convnext"])
def trained(request, train_once) -> tuple[str, Ran]:
    """The name of a model, and the run of train.py on it."""
    model = MODELS[request.param]
    return model, train_once(model)


@pytest.fixture(scope="module")
def unlearned(trained, tmp_path_factory) -> tuple[str, Ran]:
    """Its unlearning, stopped at a step and resumed."""
    model, original = trained
    log_dir, weights = tmp_path_factory.mktemp("unlearned"), original.folder / "model.pt"
    flags = ("--model", model, "--weight_path", weights, "--log_dir", log_dir, *EPOCH)
    stopped = fork(UNLEARN, *flags, before=functools.partial(signal_at, 5, "SIGTERM"))
    folder = only(log_dir)
    assert stopped.status == 143, stopped
    assert f"--resume {folder}" in stopped.err and stopped.err.endswith(f" --model {model}\n") == (":" in model)
    resumed = fork(UNLEARN, "--resume", folder, "--model", model)
    assert resumed.status in DONE, resumed
    return model, Ran(resumed, folder)


class TestWholeRuns:
    def test_it_learned_and_it_moved(self, trained, unlearned):
        (_, original), (_, run) = trained, unlearned
        assert report_of(original.folder)["models"]["original"]["retain_top1"] > 30
        before, after = weights_of(original.folder, "model.pt"), weights_of(run.folder)
        assert before.keys() == after.keys() and not all(torch.equal(before[name], after[name]) for name in before)

    def test_the_report_holds(self, unlearned):
        model, run = unlearned
        done = fork("test.py", "--verify", run.folder, "--model", model)
        assert done.status == 0 and "the report HOLDS" in done.out, done

    def test_the_checkpoint_is_judged(self, trained):
        model, original = trained
        done = fork("test.py", "--weight_path", original.folder / "model.pt", "--model", model, "--linear_probe")
        assert done.status == 0, done.err


@pytest.fixture(scope="module")
def own(train_once, tmp_path_factory) -> tuple[str, Ran, Ran]:
    """A user's own model with batch norm, its training, and an unlearning of its head alone."""
    model = MODELS["efficientnet"]
    original = train_once(model)
    log_dir = tmp_path_factory.mktemp("unlearned")
    done = fork(
        UNLEARN, "--model", model, "--weight_path", original.folder / "model.pt", "--trainable", "head", "--retrain",
        "--train_num_epochs", 1, "--bn", "train", "--num_epochs", 1, "--use_sam", "--log_dir", log_dir, *EPOCH,
    )  # fmt: skip
    assert done.status in DONE, done
    return model, original, Ran(done, only(log_dir))


class TestTrainable:
    def test_the_head_alone_moves(self, own):
        """Statistics included, in both stages and with SAM; the retrained model keeps what stays as well."""
        _, original, run = own
        before = weights_of(original.folder, "model.pt")
        for name in ("model.pt", "retrained.pt"):
            after = weights_of(run.folder, name)
            moved = {key for key in before if not torch.equal(before[key], after[key])}
            assert moved == {"classifier.1.weight", "classifier.1.bias"}

    def test_training_from_the_seed(self, tmp_path):
        flags = ("--num_epochs", 1, "--model", "resnet8", "--width", 4)
        folders = [train("resnet8", tmp_path / which, "--trainable", which, *flags).folder for which in ("head", "fc")]
        head, regex = (weights_of(folder) for folder in folders)
        assert_same_weights(head, regex)
        assert not head["bn1.running_mean"].any() and head["bn1.num_batches_tracked"] == 0

    @pytest.mark.parametrize(
        ("flags", "part"),
        [
            (("--trainable", "classifer"), "matches none of the"),
            (("--trainable", "last:none"), "last:2"),
            (("--trainable", "head", "--method", "untrain", "--discriminate", "features"), "--discriminate features"),
        ],
    )
    def test_mistakes_are_told_before_any_work(self, own, tmp_path, flags, part):
        model, original, _ = own
        asked = ("--model", model, "--weight_path", original.folder / "model.pt", "--log_dir", tmp_path / "runs")
        assert_refused(fork(UNLEARN, *asked, *flags), UNLEARN, part)
        assert not (tmp_path / "runs").exists()

    def test_a_student_of_the_head(self, own, tmp_path):
        model, original, _ = own
        done = fork(
            "train_contrastive.py", "--model", model, "--weight_path", original.folder / "model.pt", "--trainable",
            "head", "--num_epochs", 1, "--precision", "fp32", "--figures", False, "--log_dir", tmp_path,
        )  # fmt: skip
        assert done.status == 0, done.err
        before, after = weights_of(original.folder, "model.pt"), weights_of(only(tmp_path))
        moved = {key for key in before if not torch.equal(before[key], after[key])}
        assert moved == {"classifier.1.weight", "classifier.1.bias"}


class TestCodeIsNamed:
    """A run folder may be a stranger's: its model is run only if the user names it as well."""

    @pytest.mark.parametrize(
        ("script", "flag"),
        [
            (UNLEARN, "--resume"), (UNLEARN, "--previous_run"), (UNLEARN, "--dial"), (UNLEARN, "--weight_path"),
            ("train_contrastive.py", "--weight_path"), ("test.py", "--weight_path"),
        ],
    )  # fmt: skip
    def test_not_by_the_folder_alone(self, own, script, flag, tmp_path):
        _, _, run = own
        folder = tmp_path / "run"
        shutil.copytree(run.folder, folder)
        trace, code = tmp_path / "trace", tmp_path / "stranger.py"
        code.write_text(f"open({str(trace)!r}, 'w')\n")
        config = (folder / "config.yaml").read_text().replace(MODELS["efficientnet"], f"{code}:build")
        (folder / "config.yaml").write_text(config)
        if flag == "--resume":  # as of a run that has not ended
            (folder / "report.json").unlink()
        named = folder / "model.pt" if flag == "--weight_path" else folder
        done = fork(script, flag, named, *(("--forget", "random:9") if flag == "--previous_run" else ()))
        assert_refused(done, script, flag, f"add --model {code}:build")
        assert not trace.exists()

    def test_a_run_of_ones_own(self, own):
        model, original, run = own
        for script, flag, folder in (("train.py", "--resume", original.folder), ("test.py", "--verify", run.folder)):
            assert_refused(fork(script, flag, folder), script, flag, f"add --model {model}")

    def test_code_that_lies_elsewhere_now(self, own):
        _, original, _ = own
        asked = type("Asked", (), {"dataset": "auto", "data_dir": None, "model": "resnet18", "transform": None})
        with pytest.raises(UserError, match="add --model"):
            described(str(original.folder / "model.pt"), asked)
        asked.model = "elsewhere/small_models.py:efficientnet"
        assert described(str(original.folder / "model.pt"), asked)["dataset"] == "digits"


class TestNextRequests:
    def test_the_dial(self, own, tmp_path):
        model, _, run = own
        done = fork(UNLEARN, "--dial", run.folder, "--model", model, "--retain_budget", 50, "--log_dir", tmp_path)
        assert done.status in DONE, done

    def test_a_second_request(self, own, tmp_path):
        model, original, run = own
        flags = ("--previous_run", run.folder, "--model", model, "--forget", "random:20", "--log_dir", tmp_path)
        done = fork(UNLEARN, *flags, *EPOCH)
        assert done.status in DONE, done
        before, after = weights_of(run.folder), weights_of(only(tmp_path))
        moved = {key for key in before if not torch.equal(before[key], after[key])}
        assert moved == {"classifier.1.weight", "classifier.1.bias"}, "--trainable is taken over"


def lightning(path: Path, state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A checkpoint as Lightning writes one around a backbone and a head of other names."""
    names = {name: f"model.backbone.{name}" for name in state if not name.startswith("classifier.")}
    names |= {f"classifier.1.{last}": f"model.head.{last}" for last in ("weight", "bias")}
    content = {names[name]: value for name, value in state.items()}
    torch.save({"state_dict": {**content, "loss.weight": torch.ones(10)}, "epoch": 3}, path)
    return content


def test_a_checkpoint_with_other_names_comes_back_under_them(own, tmp_path):
    model, original, _ = own
    given = lightning(tmp_path / "last.ckpt", weights_of(original.folder, "model.pt"))
    done = fork(
        UNLEARN, "--dataset", "digits", "--model", model, "--weight_path", tmp_path / "last.ckpt", "--splits",
        original.folder / "splits.npz", "--log_dir", tmp_path / "runs", *EPOCH,
    )  # fmt: skip
    assert done.status in DONE, done
    said = "names without 'model.backbone.', head classifier.1 from model.head, without loss.weight"
    assert done.out.count(f"weights  {tmp_path}/last.ckpt: {said}\n") == 1
    folder = only(tmp_path / "runs")
    result, plain = torch.load(folder / "unlearned.ckpt", weights_only=True), weights_of(folder)
    assert list(result) == ["state_dict"] and list(result["state_dict"]) == list(given)
    assert torch.equal(result["state_dict"]["model.head.bias"], plain["classifier.1.bias"])
    # Its verification, and the next request, read it under the same names.
    verified = fork("test.py", "--verify", folder, "--model", model)
    assert verified.status == 0, verified
    weights, form = read_weight_file(folder / "unlearned.ckpt")
    assert form.key == "state_dict" and weights.keys() == given.keys()


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A small ViT that train.py made, in a folder as transformers saves one."""
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("saved")
    config = transformers.ViTConfig(
        hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32, image_size=8, patch_size=4,
        num_channels=1, num_labels=10,
    )  # fmt: skip
    config.save_pretrained(folder)
    run = train(f"hf:{folder}", tmp_path_factory.mktemp("original"))
    model = transformers.ViTForImageClassification(config)
    model.load_state_dict(weights_of(run.folder))
    model.save_pretrained(folder)
    shutil.copy(run.folder / "splits.npz", folder)
    return folder


class TestHuggingFace:
    """A folder of save_pretrained: its configuration and its weights in, its safetensors out."""

    def test_in_and_out(self, folder, tmp_path):
        from transformers import AutoModelForImageClassification

        before = contents(folder)
        done = fork(
            UNLEARN, "--dataset", "digits", "--model", f"hf:{folder}", "--log_dir", tmp_path / "runs", *EPOCH
        )
        assert done.status in DONE, done
        run = only(tmp_path / "runs")
        assert contents(folder) == before
        saved, result = load_file(folder / "model.safetensors"), load_file(run / "unlearned.safetensors")
        assert saved.keys() == result.keys() and any(not torch.equal(saved[name], result[name]) for name in saved)
        shutil.copytree(folder, tmp_path / "next")
        shutil.copy(run / "unlearned.safetensors", tmp_path / "next" / "model.safetensors")
        model, told = AutoModelForImageClassification.from_pretrained(tmp_path / "next", output_loading_info=True)
        assert not told["missing_keys"] and not told["unexpected_keys"]
        assert_same_weights(model.state_dict(), weights_of(run))
        done = fork("test.py", "--verify", run)
        assert done.status == 0, done

    def test_judged_by_its_folder(self, folder):
        done = fork("test.py", "--dataset", "digits", "--model", f"hf:{folder}")
        assert done.status == 0 and "model.safetensors" in done.out, done

    def test_a_file_that_lacks_a_tensor(self, folder, tmp_path):
        shutil.copytree(folder, tmp_path / "saved")
        state = load_file(folder / "model.safetensors")
        del state["vit.embeddings.cls_token"]
        save_file(state, tmp_path / "saved" / "model.safetensors")
        done = fork(UNLEARN, "--dataset", "digits", "--model", f"hf:{tmp_path}/saved", "--log_dir", tmp_path / "runs")
        assert_refused(done, UNLEARN, "1 keys missing (first: vit.embeddings.cls_token)")
