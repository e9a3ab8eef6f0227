"""test.py as a process: several retrained models, relearn time, linear probe, and shadow models that are kept."""

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from helpers.processes import SMALL, Done, assert_refused, fork, only

import test as script
from evaluation.checkpoints import check_checkpoints
from evaluation.gaps import avg_gap, noise_floor, retrained_of
from evaluation.report.tables import FIGURES
from helper_functions.errors import UserError
from helper_functions.files import load_config, save_config
from helper_functions.run_folder import result_weights

UNLEARN = "train_constrained_unlearning.py"
# Of the files of --weight_path alone.
OF_METHOD = {"swap_advantage", "klom_shadows"}
ULIRA = {"ulira_auc", "ulira_auc_low", "ulira_auc_high", "ulira_accuracy", "ulira_tpr"} | OF_METHOD
KLOM = {"klom_retain", "klom_forget", "klom_validation"}


@pytest.fixture(scope="module")
def models(original, tmp_path_factory) -> dict[str, Path]:
    """Run folders: the original, two retrained models, an unlearned one."""
    folder = tmp_path_factory.mktemp("models")
    splits = ("--splits", original.folder / "splits.npz")
    for name, seed in (("first", 1), ("second", 2)):
        flags = (*SMALL, *splits, "--retain_only", "--num_epochs", 1, "--seed", seed, "--figures", "False")
        assert fork("train.py", *flags, "--log_dir", folder / name).status == 0
    weights = ("--weight_path", original.folder / "model.pt")
    flags = ("--num_epochs", 1, "--finetune_num_epochs", 1, "--train_num_epochs", 2, "--figures", "False")
    assert fork(UNLEARN, *SMALL, *weights, *flags, "--log_dir", folder / "unlearned").status in (0, 3, 4)
    return {"original": original.folder, **{path.name: only(path) for path in folder.iterdir()}}


def flags_of(models: dict[str, Path], folder: Path) -> tuple:
    return (
        *SMALL, "--weight_path", result_weights(models["unlearned"]),
        "--original_weight_path", models["original"] / "model.pt",
        "--retrained_weight_path", models["first"] / "model.pt", models["second"] / "model.pt",
        "--shadow_config", models["unlearned"] / "config.yaml", "--shadow_dir", folder / "shadows",
    )  # fmt: skip


@pytest.fixture(scope="module")
def judged(models, tmp_path_factory) -> tuple[Done, dict, Path]:
    """Everything that test.py can be asked for: the process, what it wrote, and the folder of its shadow models."""
    folder = tmp_path_factory.mktemp("judged")
    flags = (*flags_of(models, folder), "--relearn", "--linear_probe", "--prototype", "--shadow_models", 4)
    done = fork("test.py", *flags, "--output", folder / "figures.json")
    assert done.status == 0 and done.err == "", done
    return done, json.loads((folder / "figures.json").read_text()), folder


class TestFigures:
    def test_models_and_figures(self, judged, models):
        done, report, _ = judged
        found = report["models"]
        unlearned = str(result_weights(models["unlearned"]))
        assert list(found) == ["original", unlearned, "re-initialised", "retrained", "retrained-2"]
        elsewhere = re.compile("test_remaining|test_adjacent|test_remote|forgotten|.*_agreement")
        expected = {name for name in FIGURES if not elsewhere.match(name)}
        for name, figures in found.items():
            lacking = KLOM | (set() if name == unlearned else OF_METHOD)
            lacking |= {"re-initialised": {"relearn_steps"}, "original": {"retain_exposure"}}.get(name, set())
            assert not lacking & set(figures)
            assert expected - lacking <= set(figures)
            assert all(isinstance(value, int | float) for value in figures.values())
        assert found["original"]["relearn_steps"] == 0
        printed = ("band", "AvgGap (SalUn)", "ToW", "noise floor", "between 2 retrained models", "RMIA AUC", unlearned)
        printed += ("U-LiRA AUC", "relearn time", "linear probe", "10-shot prototypes", "SWAP advantage")
        assert all(text in done.out for text in printed)
        assert all(set(intervals) >= {"avg_gap", "test_top1"} for intervals in report["gap_intervals"].values())

    def test_gaps_are_to_the_mean_of_the_retrained_models(self, judged):
        _, report, _ = judged
        found = report["models"]
        retrained = list(retrained_of(found).values())
        assert report["retrained_models"] == 2 and report["noise_floor"] == pytest.approx(noise_floor(retrained))
        mean = {name: (retrained[0][name] + retrained[1][name]) / 2 for name in retrained[0]}
        for name, gap in report["avg_gap"].items():
            assert gap == pytest.approx(avg_gap(found[name], mean))
        for name, inside in report["inside"].items():
            for figure in ("forget_top1", "test_top1", "mia_auc"):
                values = sorted(model[figure] for model in retrained)
                assert (figure in inside) == (values[0] <= found[name][figure] <= values[1])


def test_several_runs_of_a_method_beside_several_retrained_models(models, tmp_path):
    """Twice the retrained models: their margins vary alike, image by image."""
    names = "first", "second"
    retrained, copies = [models[name] / "model.pt" for name in names], [tmp_path / name for name in names]
    for copy, path in zip(copies, retrained, strict=True):
        shutil.copy(path, copy)
    flags = (*SMALL, "--splits", models["original"] / "splits.npz", "--klom", "--output", tmp_path / "figures.json")
    done = fork("test.py", *flags, "--weight_path", *copies, "--retrained_weight_path", *retrained)
    assert done.status == 0, done
    found = json.loads((tmp_path / "figures.json").read_text())["models"]
    assert all(found[str(copy)][name] == pytest.approx(0, abs=1e-9) for copy in copies for name in KLOM)
    assert not KLOM & set(found["retrained"])


def home_of(shadows: Path) -> Path:
    """The one method's folder among those of shadow models."""
    (home,) = (path for path in shadows.iterdir() if path.name != "originals")
    return home


class TestShadows:
    def test_are_kept_and_used_again(self, judged, models):
        """Of one, the outputs are lost: they are read off its weights, which are there, without a step of training."""
        done, report, folder = judged
        assert done.out.count(": made") == 4
        home = home_of(folder / "shadows")
        files = {path: path.stat().st_mtime_ns for path in home.rglob("*.pt")}
        assert len(files) == 2 * 4, "outputs and weights of each, and nothing that only a resumed run needs"
        lost = home / "shadow-001" / "outputs.pt"
        lost.unlink()
        weights = result_weights(models["unlearned"])
        flags = ("--weight_path", weights, "--shadow_models", 4, "--shadow_config", models["unlearned"] / "config.yaml")
        again = fork("test.py", *SMALL, *flags, "--shadow_dir", folder / "shadows", "--output", folder / "again.json")
        assert again.status == 0 and again.out.count(": reused") == 3 and again.out.count(": made") == 1
        now = {path: path.stat().st_mtime_ns for path in home.rglob("*.pt")}
        assert now.keys() == files.keys() and {path for path in now if now[path] != files[path]} == {lost}
        found = json.loads((folder / "again.json").read_text())["models"][str(weights)]
        assert {name: found[name] for name in ULIRA} == {name: report["models"][str(weights)][name] for name in ULIRA}

    def test_each_has_learned_and_unlearned_a_half_of_the_targets(self, judged):
        _, _, folder = judged
        masks = []
        for shadow in sorted(home_of(folder / "shadows").glob("shadow-*")):
            (run,) = shadow.glob("run-*")
            assert (run / "splits.npz").read_bytes() == (shadow / "splits.npz").read_bytes()
            report = json.loads((run / "report.json").read_text())
            assert report["forget"]["images"] == 40 and report["forget"]["method"] == "constrained"
            masks.append(torch.load(shadow / "outputs.pt", weights_only=True)["unlearned"])
        assert (torch.stack(masks).sum(0) == 2).all() and all(mask.sum() == len(mask) / 2 for mask in masks)

    def test_another_method_unlearns_the_same_originals(self, judged, models, tmp_path):
        """Not a step of training is taken again, and the outputs are those of shadow models made from nothing."""
        _, _, folder = judged
        config = tmp_path / "config.yaml"
        own = load_config(models["unlearned"] / "config.yaml")
        del own["finetune_num_epochs"]  # which the method has not
        save_config({**own, "method": "finetune", "learning_rate": 0.01}, config)
        flags = ("--weight_path", result_weights(models["unlearned"]), "--shadow_models", 4, "--shadow_config", config)
        shutil.copytree(folder / "shadows" / "originals", tmp_path / "shared" / "originals")
        for name in ("shared", "alone"):
            assert fork("test.py", *SMALL, *flags, "--shadow_dir", tmp_path / name).status == 0
        shared, alone = home_of(tmp_path / "shared"), home_of(tmp_path / "alone")
        assert shared.name == alone.name
        for number in range(4):
            home = f"shadow-{number:03d}"
            outputs = [torch.load(parent / home / "outputs.pt", weights_only=True) for parent in (shared, alone)]
            assert all(torch.equal(outputs[0][name], outputs[1][name]) for name in outputs[0])
            logs = [(parent / home / "log.txt").read_text() for parent in (shared, alone)]
            assert "original epoch" not in logs[0] and "original epoch" in logs[1]
            assert not list((alone / home).glob("original-*"))
        originals = [{path.name for path in (parent.parent / "originals").iterdir()} for parent in (shared, alone)]
        assert originals[0] == originals[1] and len(originals[0]) == 4


class TestRefusals:
    @pytest.mark.parametrize(
        ("flags", "says"),
        [
            ([], "--weight_path"),
            (["--weight_path", "{absent}"], "--weight_path {absent}: there is no such file"),
            (["--weight_path", "{file}", "{absent}"], "--weight_path {absent}"),
            (["--weight_path", "{file}", "--retrained_weight_path", "{absent}"], "--retrained_weight_path {absent}"),
            (["--weight_path", "{file}", "--original_weight_path", "{absent}"], "--original_weight_path {absent}"),
            (["--weight_path", "{file}", "--relearn"], "--relearn True: give --original_weight_path"),
            (["--weight_path", "{file}", "--klom"], "--klom True: give two or more different files of --weight_path"),
            (["--weight_path", "{file}", "--shadow_models", "4"], "--shadow_models 4: give --shadow_config"),
            (["--weight_path", "{file}", "--shadow_models", "5", "--shadow_config", "{file}"], "--shadow_models 5"),
            (["--weight_path", "{file}", "--shadow_models", "2", "--shadow_config", "{file}"], "--shadow_models 2"),
            (["--weight_path", "{file}", "--shadow_models", "4", "--shadow_config", "{absent}"], "--shadow_config"),
            (["--weight_path", "{file}", "--shadow_config", "{file}"], "give their number by --shadow_models"),
        ],
    )  # fmt: skip
    def test_what_cannot_be_done_is_said_before_any_work(self, flags, says, tmp_path):
        places = {"file": tmp_path / "file", "absent": tmp_path / "absent"}
        places["file"].write_text("")
        args = script.get_parser().parse([flag.format(**places) for flag in flags])
        with pytest.raises(UserError) as info:
            check_checkpoints(args)
        assert says.format(**places) in str(info.value) and "\n" not in str(info.value)

    def test_a_configuration_of_another_kind(self, models, tmp_path):
        flags = (*SMALL, "--weight_path", result_weights(models["unlearned"]), "--shadow_models", 4, "--shadow_config")
        assert_refused(
            fork("test.py", *flags, models["first"] / "config.yaml"), "test.py", "config.yaml", "unknown key"
        )
        config = (models["unlearned"] / "config.yaml").read_text().replace("untrain: true", "untrain: false")
        (tmp_path / "config.yaml").write_text(config)
        assert_refused(fork("test.py", *flags, tmp_path / "config.yaml"), "test.py", "untrain is False")

    def test_figures_of_forgetting_where_nothing_is_forgotten(self, models, tmp_path):
        (tmp_path / "weights.pt").write_bytes((models["original"] / "model.pt").read_bytes())
        plain = fork("train.py", *SMALL, "--num_epochs", 1, "--figures", "False", "--log_dir", tmp_path / "runs")
        assert plain.status == 0
        weights = only(tmp_path / "runs") / "model.pt"
        done = fork("test.py", *SMALL, "--weight_path", weights, "--linear_probe")
        assert_refused(done, "test.py", "--linear_probe", "no forget set")

    def test_a_retrained_model_of_another_forget_set(self, models):
        flags = ("--weight_path", result_weights(models["unlearned"]), "--forget", "random:30")
        done = fork("test.py", *SMALL, *flags, "--retrained_weight_path", models["first"] / "model.pt")
        assert_refused(done, "test.py", "--retrained_weight_path", "another forget set")
