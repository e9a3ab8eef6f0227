"""The deletion benchmark: its folder, its requests and its output; no time is judged."""

import json
from pathlib import Path

import numpy as np
import pytest
from helpers.processes import Done, assert_refused, fork
from PIL import Image
from sklearn.datasets import load_digits

from benchmarks.sweeps.deletion import Args, make_pictures


def run(**flags) -> Done:
    argv = [text for name, value in {"data_dir": "digits", **flags}.items() for text in (f"--{name}", str(value))]
    return fork("benchmarks.sweeps.deletion", *argv)


def test_a_folder_is_made_and_each_seeds_request_answered(tmp_path):
    done = run(
        log_dir=tmp_path / "made", output=tmp_path / "deletion.json", classes=3, pictures=120, withdrawn=8,
        image_size=32, train_num_epochs=12, train_batch_size=16, seeds=2,
    )  # fmt: skip
    assert done.status == 0 and done.err == "", done
    (folder,) = (tmp_path / "made").iterdir()
    names = {path.relative_to(folder / "photos").as_posix() for path in (folder / "photos").rglob("*.png")}
    assert len(names) == 120 and {Path(name).parent.name for name in names} == {"0", "3", "6"}
    withdrawn, held_out = ((folder / f"{part}.txt").read_text().split("\n")[:-1] for part in ("withdrawn", "held_out"))
    assert len(withdrawn) == 8 and set(withdrawn) | set(held_out) < names and not set(withdrawn) & set(held_out)

    result = json.loads((tmp_path / "deletion.json").read_text())
    assert [request["seed"] for request in result["requests"]] == [0, 1]
    for request in result["requests"]:
        assert request["seconds"] > request["unlearning_seconds"] > 0 and request["gradient_steps"] == 3 * 3
        accuracy = [request[model]["forget_top1"] for model in ("original", "unlearned")]
        assert "forget {:.1f} to {:.1f}".format(*accuracy) in done.out
    assert result["retraining_seconds"] > 0 and "training again without them, 12 passes" in done.out


@pytest.mark.parametrize(
    ("flags", "said"),
    [({"pictures": 900}, "--pictures 900: digits has no 3 classes of 300 pictures"),
     ({"output": "absent/deletion.json"}, "--output absent/deletion.json: there is no such folder")],
)  # fmt: skip
def test_impossible_flags_are_refused_before_anything_is_made(tmp_path, flags, said):
    done = run(log_dir=tmp_path / "made", classes=3, **flags)
    assert_refused(done, "benchmarks.sweeps.deletion", said)
    assert not (tmp_path / "made").exists()


def test_the_pictures_are_those_of_the_data_set(tmp_path):
    make_pictures(Args(data_dir="digits", classes=2, pictures=4), tmp_path)
    digits = load_digits()
    for label in (0, 5):
        of_class = digits.images[digits.target == label]
        for number in range(2):
            picture = np.asarray(Image.open(tmp_path / str(label) / f"000{number}.png"))
            assert np.abs(picture / 255 - of_class[number][:, :, None] / 16).max() < 1 / 255
