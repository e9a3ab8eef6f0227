"""From the run that forgets to the next training, which leaves these pictures out."""

import numpy as np
from helpers.processes import SMALL, assert_refused, fork, only
from helpers.run_folders import report_of

from data.datasets import load_dataset
from data.exclusion import HASHES, pixel_hashes


def test_the_next_training_leaves_out_what_a_run_has_forgotten(quickstart, tmp_path):
    with np.load(quickstart.folder / "splits.npz") as archive:
        forget = archive["forget"].tolist()
    path = quickstart.folder / HASHES
    hashes = path.read_text().splitlines()
    assert hashes == sorted(set(pixel_hashes(load_dataset("digits", "."), forget)))
    listed = {file["path"]: file["role"] for file in report_of(quickstart.folder)["files"]}
    assert listed[HASHES] == "hashes"
    done = fork("train.py", *SMALL, "--exclude", path, "--num_epochs", 1, "--log_dir", tmp_path)
    assert done.status == 0 and done.err == "", done
    assert f"exclude  {len(hashes)} of the {len(hashes)} pictures of {path} found: " in done.out
    with np.load(only(tmp_path) / "splits.npz") as archive:
        parts = {name: set(archive[name].tolist()) for name in ("train", "validation", "test", "forgotten")}
    assert parts["forgotten"] >= set(forget) and not parts["forgotten"] & set.union(*list(parts.values())[:3])
    assert sum(map(len, parts.values())) == 1797


def test_another_file_is_refused_before_any_work(quickstart, tmp_path):
    flags = ("--exclude", quickstart.folder / "config.yaml", "--log_dir", tmp_path / "runs")
    assert_refused(fork("train.py", *SMALL, *flags), "train.py", "--exclude, line 1 of ", HASHES)
    assert not (tmp_path / "runs").exists()
