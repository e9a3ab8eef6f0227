"""One run for the requests of several people: one forget set, one page for all, one page for each."""

import functools
import json
import signal
from pathlib import Path

import numpy as np
import pytest
from helpers.processes import SMALL, Ran, assert_refused, fork, only, signal_at
from helpers.report_cases import Page
from helpers.run_folders import UNLEARN, report_of
from jsonschema import Draft202012Validator
from PIL import Image

from data.datasets import load_dataset
from data.preprocessing import Preprocessing
from data.split_record import Splits

KINDS = {"ash": (200, 40, 40), "bay": (40, 180, 40), "cat": (40, 60, 200)}
EACH, SIZE = 30, 8
FLAGS = (
    *SMALL, "--image_size", SIZE, "--train_num_epochs", 4, "--train_batch_size", 16, "--num_epochs", 1,
    "--retain_budget", 60, "--validation", "0.3", "--figures", "False",
)  # fmt: skip
SCHEMA = json.loads((Path(__file__).parents[2] / "docs/report.schema.json").read_text())


@pytest.fixture(scope="module")
def office(tmp_path_factory) -> Path:
    """`photos`, a table of requests and one of persons."""
    folder, rng = tmp_path_factory.mktemp("office"), np.random.default_rng(0)
    for kind, colour in KINDS.items():
        (folder / "photos" / kind).mkdir(parents=True)
        for number in range(EACH):
            pixels = np.clip(np.array(colour) + rng.normal(0, 40, (SIZE, SIZE, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "photos" / kind / f"{number:02d}.png")
    (folder / "bens.txt").write_text("photos/bay/03.png\ncat/09.png\ncat/11.png\n")
    rows = ["r1,Anna <a@b>,ash/00.png", "r2,Ben,bens.txt", "r3,Anna <a@b>,photos/ash/29.png"]
    (folder / "requests.csv").write_text("\n".join(["request_id,requester,file", *rows]))
    names = [f"{kind}/{number:02d}.png" for kind in KINDS for number in range(EACH)]
    rows = [f"{name},{'Carl' if name.endswith('4.png') else 'others'}" for name in names]
    (folder / "persons.csv").write_text("\n".join(["file,group", *rows]))
    return folder


def forget(office: Path, log_dir: Path, *flags: object, **options) -> Ran:
    done = fork(UNLEARN, "--data_dir", office / "photos", *FLAGS, "--log_dir", log_dir, *flags, **options)
    return Ran(done, only(log_dir) if log_dir.exists() else log_dir)


def forgotten_names(office: Path, ran: Ran) -> set[str]:
    dataset = load_dataset("imagefolder", office / "photos", Preprocessing(SIZE))
    splits = Splits.load(ran.folder / "splits.npz", dataset)
    return {dataset.file_names[image] for image in splits.forget.tolist()}


@pytest.fixture(scope="module")
def ran(office, tmp_path_factory) -> Ran:
    """All requests in one run."""
    ran = forget(office, tmp_path_factory.mktemp("all"), "--requests", office / "requests.csv", "--keep_checkpoint")
    assert ran.done.status in (0, 4) and ran.done.err == "", ran.done
    return ran


def test_one_run_forgets_the_images_of_all(office, ran):
    assert forgotten_names(office, ran) == {"ash/00.png", "ash/29.png", "bay/03.png", "cat/09.png", "cat/11.png"}
    report = report_of(ran.folder)
    assert list(Draft202012Validator(SCHEMA).iter_errors(report)) == []
    assert report["request"]["forget"] == f"requests:{office}/requests.csv" and report["forget"]["target"] == "unseen"
    told = [(each["requester"], each["requests"], each["images"]) for each in report["requesters"]]
    assert told == [("Anna <a@b>", ["r1", "r3"], 2), ("Ben", ["r2"], 3)]


def test_a_page_for_all_and_a_page_for_each(office, ran):
    page = Page((ran.folder / "report.html").read_text())
    assert page.row("Anna <a@b>")[0] == "r1, r3" and page.row("Ben")[1] == "3"
    anna, ben = (Page((ran.folder / f"requester-{number}.html").read_text()) for number in (1, 2))
    assert "removal of 2 pictures" in anna.text and "removal of 3 pictures" in ben.text
    assert "Ben" not in anna.text and "Anna" not in ben.text and "bay/03" not in ben.text
    assert f"page     {ran.folder}/requester-1.html: Anna <a@b>, 2 images" in ran.done.out
    report = report_of(ran.folder)
    assert anna.headings[1].lower().endswith(report["verdict"]["outcome"].lower())


def test_it_is_verified_page_by_page(ran):
    verified = fork("test.py", "--verify", ran.folder)
    assert verified.status == 0, verified.out
    for line in ("requesters", "requester-1.html", "requests: requests.json"):
        assert any(each.startswith(line) and each.endswith("holds") for each in verified.out.splitlines()), line
    page = ran.folder / "requester-2.html"
    content = page.read_text()
    page.write_text(content.replace("3 pictures", "4 pictures", 1))
    assert fork("test.py", "--verify", ran.folder).status == 3
    page.unlink()
    assert fork("test.py", "--verify", ran.folder).status == 0, "it may have been handed over"
    page.write_text(content)


def test_a_resumed_run_does_not_need_the_table_any_more(office, ran, tmp_path):
    table = tmp_path / "requests.csv"
    table.write_text((office / "requests.csv").read_text().replace("bens.txt", str(office / "bens.txt")))
    begun = forget(office, tmp_path / "runs", "--requests", table, before=functools.partial(signal_at, 14))
    assert begun.done.status == -signal.SIGKILL, begun.done
    table.unlink()
    done = fork(UNLEARN, "--resume", begun.folder)
    assert done.status == ran.done.status and done.err == "", done
    ours, theirs = report_of(begun.folder)["requesters"], report_of(ran.folder)["requesters"]
    assert [each["after"] for each in ours] == [each["after"] for each in theirs]


def test_a_group_is_forgotten_by_its_table(office, tmp_path):
    ran = forget(office, tmp_path / "runs", "--forget", "group:Carl", "--groups", office / "persons.csv")
    assert ran.done.status in (0, 4) and ran.done.err == "", ran.done
    assert forgotten_names(office, ran) == {f"{kind}/{number:02d}.png" for kind in KINDS for number in (4, 14, 24)}


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((), ("--forget: name what to forget, such as random:0.1",)),
        (("--forget", "random:2"), ("2 images or 2 %? write random:2images or random:0.02",)),
        (("--forget", "group:Carl"), ("name the table of groups by --groups FILE.csv",)),
        (("--forget", "group:Karl", "--groups", "{}/persons.csv"), ("no group 'Karl'; did you mean Carl?",)),
        (("--requests", "{}/requests.csv", "--forget", "class:ash"), ("--requests", "--forget class:ash is another",)),
        (("--requests", "{}/requests.csv", "--requester", "Anna"), ("it names who asked; leave 'Anna' out",)),
        (("--requests", "{}/nowhere.csv"), ("cannot read", "nowhere.csv")),
        (("--forget", "file:{}/wrong.txt"), ("'asch/00.png' (nearest: ash/00.png)", "nor are line 2 'bax/03.png'")),
    ],
    ids=range(8),
)  # fmt: skip
def test_mistakes_are_one_line(office, tmp_path, flags, says):
    (office / "wrong.txt").write_text("asch/00.png\nbax/03.png\n")
    ran = forget(office, tmp_path / "runs", *(str(flag).format(office) for flag in flags))
    assert_refused(ran.done, UNLEARN, *says)
    assert not (tmp_path / "runs").exists()
