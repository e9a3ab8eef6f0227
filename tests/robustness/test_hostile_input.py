"""Hostile input: one clear line and exit status 2, in time; nothing is executed, written, or sent to the terminal."""

import io
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.processes import SMALL, Done, assert_refused, run
from PIL import Image

import test
import train
import train_constrained_unlearning
import train_contrastive
from benchmarks.sweeps.sweep import read_rows
from data.datasets import Dataset, load_dataset
from data.image_list import FURTHER_LINES, LINES_PER_IMAGE, read_image_list
from data.pictures.reading import read_image_folder
from data.preprocessing import Preprocessing
from helper_functions.config import run_script
from helper_functions.errors import UserError
from helper_functions.exit_status import complain
from helper_functions.files import LARGEST_CONFIG, load_config
from helper_functions.record import CHECKPOINT_FORMAT, RunRecord
from helper_functions.safe_files.printable import printable
from helper_functions.training.distribution import say
from unlearning.experiment import Experiment

SCRIPTS = {
    "train.py": train, "train_constrained_unlearning.py": train_constrained_unlearning,
    "train_contrastive.py": train_contrastive, "test.py": test,
}  # fmt: skip
pytestmark = pytest.mark.usefixtures("soon")
CONTROL = "a\x1b[2J\nb\x07\x9b\u202ec\u2028\udcffd"
NINE = 9


@pytest.fixture
def refuse(tmp_path, monkeypatch, capsys) -> Callable:
    """Run a script in this process; it must refuse in one printable line and change no file."""

    def check(script: str, *flags: object, says: list[object]) -> str:
        earlier = sorted(tmp_path.rglob("*"))
        if script != "test.py" and "--resume" not in flags:
            flags = ("--log_dir", tmp_path / "runs", *flags)
        monkeypatch.setattr("threading.excepthook", lambda hook: None)
        monkeypatch.setattr("sys.argv", [script, *map(str, flags)])
        capsys.readouterr()
        done = Done(run_script(SCRIPTS[script].get_parser, SCRIPTS[script].main), *capsys.readouterr())
        assert_refused(done, script, *says)
        assert done.out == "" and printable(done.err, keep="\n") == done.err and len(done.err) < 2200
        assert sorted(tmp_path.rglob("*")) == earlier
        return done.err

    return check


def complaint(function: Callable, *arguments: object) -> str:
    with pytest.raises(UserError) as info:
        function(*arguments)
    return str(info.value)


def bomb(levels: int, start: str = "&a0 [x,x,x,x,x,x,x,x,x]") -> str:
    """A list of 9 ** levels words in a few hundred characters."""
    lists = [f"&a{level} [{','.join([f'*a{level - 1}'] * NINE)}]" for level in range(1, levels)]
    return f"[{','.join([start, *lists])}]"


class TestConfiguration:
    @pytest.mark.parametrize(
        ("text", "says"),
        [
            (f"mean: {bomb(12)}", ["alias"]),
            (f"mean: '{bomb(12)}'", ["alias"]),
            (f"device: '{bomb(12)}'", ["alias"]),
            ("a: &a {b: 1}\n" + "\n".join(f"c{i}: {{<<: [*a, *a]}}" for i in range(9)), ["alias"]),
            ("seed: !!python/object/apply:os.mkdir [payload]", ["os.mkdir"]),
            ("seed: !!python/name:os.system", ["os.system"]),
            ("precision: '!!python/object/apply:os.mkdir [payload]'", ["--precision"]),
            ("compile: '!!timestamp x'", ["compile", "no valid YAML"]),
            ("compile: '!!int \"\"'", ["compile", "no valid YAML"]),
            ("seed: !!timestamp x", ["no valid YAML", "timestamp"]),
            ('seed: !!int ""', ["no valid YAML"]),
            ('seed: "\\U99999999"', ["no valid YAML"]),
            ("seed: " + "[" * 20_000, ["no valid YAML"]),
            ("seed: " + "{a: " * 20_000, ["no valid YAML"]),
            ("- " * 20_000, ["no valid YAML"]),
            ("? " * 20_000, ["no valid YAML"]),
            ("seed: " + "9" * 90_000, ["no valid YAML", "digits"]),
            ("seed: 0x" + "f" * 90_000, ["--seed"]),
            ("seed: " + "9" * 4000, ["--seed"]),
            ("seed: 1.0e+999", ["--seed", "inf"]),
            ("seed: 0x1F", ["--seed", "0x1F"]),
            ("seed: 1:30", ["--seed", "1:30"]),
            ("seed: 1\nseed: 2", ["seed", "twice"]),
            ('device: "a\\0b"', ["--device", "\\x00"]),
            ('device: "\\ud800"', ["--device", "\\ud800"]),
            ('device: "\\e[2J\\n"', ["--device", "\\x1b"]),
            ("\n".join(f"k{i}: 1" for i in range(3_000)), ["unknown key 'k0'"]),
        ],
    )
    def test_text(self, refuse, tmp_path, monkeypatch, text, says):
        monkeypatch.chdir(tmp_path)
        (tmp_path / "config.yaml").write_text(text)
        refuse("train.py", "--config_file", tmp_path / "config.yaml", says=says)
        assert not Path("payload").exists()

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"seed: 1\0", "#x0000"),
            ("seed: 1".encode("utf-16"), "not a text file"),
            ("seed: 1".encode("utf-16-le"), "#x0000"),
            (os.urandom(1) + b"\xff\xfe\x80" * 1000, "not a text file"),
            (b"#" * (LARGEST_CONFIG + 1), "longer than"),
        ],
    )
    def test_bytes(self, refuse, tmp_path, content, says):
        (tmp_path / "config.yaml").write_bytes(content)
        refuse("train.py", "--config_file", tmp_path / "config.yaml", says=["config.yaml", says])

    def test_a_file_that_is_not_regular(self, refuse, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        with open(tmp_path / "huge", "wb") as file:
            file.truncate(10**12)
        for path in (tmp_path / "fifo", "/dev/zero"):
            refuse("train.py", "--config_file", path, says=[path, "no regular file"])
        refuse("train.py", "--config_file", tmp_path / "huge", says=["huge", "longer than"])

    def test_a_resumed_run_and_shadow_runs_read_it_likewise(self, refuse, tmp_path):
        (tmp_path / "run").mkdir()
        config = tmp_path / "run/config.yaml"
        config.write_text(f"mean: {bomb(12)}")
        (tmp_path / "weights.pt").write_bytes(b"")
        shadows = ("--weight_path", tmp_path / "weights.pt", "--shadow_models", 4, "--shadow_config", config)
        refuse("test.py", *shadows, says=[config, "alias"])
        refuse("train.py", "--resume", tmp_path / "run", says=[config, "alias"])
        config.unlink()
        os.mkfifo(config)
        refuse("train.py", "--resume", tmp_path / "run", says=["no run folder"])

    @pytest.mark.parametrize(
        ("text", "value"),
        [
            ("name_prefix: 010", "010"), ("name_prefix: 1:30", "1:30"), ("name_prefix: 1_000", "1_000"),
            ("name_prefix: 0x1F", "0x1F"), ("seed: 010", 10), ("seed: 1_000", 1000), ("learning_rate: 1_0.5", 10.5),
            ("\ufeffseed: 3", 3),
        ],
    )  # fmt: skip
    def test_a_value_means_what_it_does_on_the_command_line(self, tmp_path, text, value):
        (tmp_path / "config.yaml").write_text(text)
        name, _, written = text.lstrip("\ufeff").partition(": ")
        parsed = train.get_parser().parse(["--config_file", str(tmp_path / "config.yaml")])
        assert getattr(parsed, name) == value == getattr(train.get_parser().parse([f"--{name}", written]), name)

    def test_harmless_aliases_are_refused_too(self, tmp_path):
        (tmp_path / "config.yaml").write_text("a: &x 1\nb: *x\n")
        assert "alias *x" in complaint(load_config, tmp_path / "config.yaml")
        (tmp_path / "config.yaml").write_text("forget: file:a&b*.txt\nweight_path: '*.pt & more'\n")
        assert load_config(tmp_path / "config.yaml")["weight_path"] == "*.pt & more"


class TestFlags:
    @pytest.mark.parametrize("value", [bomb(12), f"[{bomb(12)}]"])
    @pytest.mark.parametrize("flag", ["--mean", "--forget", "--seed", "--compile"])
    def test_alias_bombs(self, refuse, flag, value):
        refuse("train.py", flag, value, says=["alias"])

    @pytest.mark.parametrize("name", ["..", "../x", "/x", ".x", "a/b", "a\\b", "-x", "x" * 300, "a\nb", "a\x1bb"])
    def test_prefixes(self, refuse, name):
        refuse("train.py", *SMALL, "--num_epochs", 1, f"--name_prefix={name}", says=["--name_prefix"])

    @pytest.mark.parametrize("place", ["fifo", "file", "file/runs", "/proc/runs", "/dev/null", "a\nb", "x" * 300])
    def test_folders_for_runs(self, refuse, tmp_path, place):
        os.mkfifo(tmp_path / "fifo")
        (tmp_path / "file").write_text("earlier")
        refuse("train.py", *SMALL, "--num_epochs", 1, "--log_dir", tmp_path / place, says=["--log_dir"])
        assert (tmp_path / "file").read_text() == "earlier"

    @pytest.mark.parametrize(
        "name", ["<script>alert(1)</script>", "a,b", "'; rm -rf /", "../..", "0x1", "１", "-1", "9" * 3000, "%s{0}"]
    )
    def test_unknown_classes(self, refuse, name):
        refuse("train.py", *SMALL, "--forget", f"class:{name}", says=["no class"])

    def test_a_class_with_a_newline(self, refuse):
        refuse("train.py", *SMALL, "--forget", "class:a\nb", says=["--forget", "\\n"])

    def test_a_very_long_value_is_shortened(self, refuse):
        refuse("train.py", "--device", "x" * 100_000, says=["--device xxx", "[…]", "no such device"])


class TestTerminal:
    def test_an_error_is_one_printable_line(self, capsys):
        complain("script.py", CONTROL)
        assert capsys.readouterr().err == "script.py: error: a\\x1b[2J b\\x07\\x9b\\u202ec \\udcffd\n"

    def test_other_lines_keep_their_ends_alone(self, capsys):
        say("one\ntwo", CONTROL)
        assert capsys.readouterr().out == "one\ntwo a\\x1b[2J\nb\\x07\\x9b\\u202ec\\u2028\\udcffd\n"

    def test_names_in_any_script_stay(self):
        for text in ("naïve", "猫", "كلب", "👩‍🔬", "a b"):
            assert printable(text) == text

    def test_a_forget_request_out_of_a_splits_file(self, original, tmp_path, capsys):
        arrays = dict(np.load(original.folder / "splits.npz"))
        np.savez(tmp_path / "splits.npz", **{**arrays, "forget_request": np.array("class:\x1b[2J\nverdict  feasible")})
        flags = [*map(str, SMALL), "--splits", str(tmp_path / "splits.npz")]
        lines = Experiment(train.get_parser().parse(flags)).describe().splitlines()
        assert "forget   class:\\x1b[2J\\nverdict  feasible" in lines

    def test_ascii_alone(self, tmp_path, monkeypatch):
        """Tables have dashes and folders any name, which ASCII cannot show."""
        monkeypatch.setenv("PYTHONIOENCODING", "ascii")
        done = run("train.py", *SMALL, "--num_epochs", 1, "--name_prefix", "größe", "--log_dir", tmp_path / "läufe")
        assert done.status == 0, done.err
        assert "l\\xe4ufe" in done.out


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(width: int = 4, height: int = 4, extra: bytes = b"", bits: int = 8) -> bytes:
    """A black picture of at most four rows, with extra chunks before the pixels."""
    header = struct.pack(">IIBBBBB", width, height, bits, 0, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + (width * bits + 7) // 8) * min(height, 4)))
    parts = chunk(b"IHDR", header) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + parts


def saved(image: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def jpeg(width: int, height: int) -> bytes:
    whole = saved(Image.new("RGB", (8, 8)), "JPEG")
    start = whole.index(b"\xff\xc0") + 5
    return whole[:start] + struct.pack(">HH", height, width) + whole[start + 4 :]


MEGABYTES = zlib.compress(bytes(10**8))
RED = Image.new("RGB", (4, 4), (255, 0, 0))
SMALLEST = Preprocessing(4).resolved()
BAD_PICTURES = {
    "a PNG bomb": png(50_000, 50_000, bits=1),
    "a strip": png(2**31 - 1, 1, bits=1),
    "a JPEG bomb": jpeg(65_535, 65_535),
    "no pixel": png(0, 4),
    "cut": png()[:40],
    "empty": b"",
    "text": b"no picture",
    "markup": b'<svg xmlns="http://www.w3.org/2000/svg" onload="alert(1)"/>',
    "compressed text": png(extra=chunk(b"zTXt", b"key\0\0" + MEGABYTES)),
    "compressed international text": png(extra=chunk(b"iTXt", b"key\0\1\0\0\0" + MEGABYTES)),
    "a profile": png(extra=chunk(b"iCCP", b"key\0\0" + MEGABYTES)),
    "a claimed length": png(extra=struct.pack(">I", 2**31 - 1) + b"tEXtabc"),
    "PostScript": saved(RED, "EPS"),
    "Targa": saved(RED, "TGA"),
    "a line of pixels": png(2 * 10**7, 1),
}
EXIF = b"MM\0*\0\0\0\x08"
GOOD_PICTURES = {
    **{kind: (saved(RED, kind), (255, 0, 0)) for kind in ("GIF", "BMP", "TIFF")},
    "WEBP": (saved(RED, "WEBP", lossless=True), (255, 0, 0)),
    "CMYK": (saved(Image.new("CMYK", (4, 4), (0, 255, 255, 0)), "JPEG"), (255, 0, 0)),
    "palette": (saved(RED.convert("P"), "PNG"), (255, 0, 0)),
    "alpha": (saved(Image.new("RGBA", (4, 4), (255, 0, 0, 255)), "PNG"), (255, 0, 0)),
    "16 bits": (saved(Image.fromarray(np.full((4, 4), 30_000, np.uint16)), "PNG"), (117, 117, 117)),
    "animated": (saved(RED, "PNG", save_all=True, append_images=[Image.new("RGB", (4, 4))]), (255, 0, 0)),
    "orientation 255": (png(extra=chunk(b"eXIf", EXIF + b"\0\1\1\x12\0\3\0\0\0\1\0\xff\0\0" + bytes(4))), (0, 0, 0)),
    "EXIF in a circle": (png(extra=chunk(b"eXIf", EXIF + b"\0\1\x87\x69\0\4\0\0\0\1\0\0\0\x08" + EXIF[4:])), (0, 0, 0)),
    "EXIF cut short": (png(extra=chunk(b"eXIf", EXIF + b"\xff\xff" + b"\1\x12\xff\xff" * 9)), (0, 0, 0)),
}


class TestPictures:
    @pytest.fixture
    def folder(self, tmp_path) -> Path:
        for name in ("a", "b"):
            (tmp_path / "photos" / name).mkdir(parents=True)
            RED.save(tmp_path / "photos" / name / "0.png")
        return tmp_path / "photos"

    @pytest.mark.parametrize("kind", BAD_PICTURES)
    def test_refused(self, refuse, folder, kind):
        (folder / "a/x.png").write_bytes(BAD_PICTURES[kind])
        flags = ("--dataset", "imagefolder", "--data_dir", folder, "--image_size", 4)
        refuse("train.py", *SMALL, *flags, says=["a/x.png", "--skip_unreadable"])

    @pytest.mark.parametrize("kind", GOOD_PICTURES)
    def test_read(self, folder, kind, recwarn):
        content, colour = GOOD_PICTURES[kind]
        (folder / "a/x.png").write_bytes(content)
        pixels = read_image_folder(folder, SMALLEST, False).images[1].permute(1, 2, 0).numpy()
        assert np.abs(pixels.astype(int) - colour).max() <= 2  # JPEG's
        assert not recwarn.list

    def test_entries_named_like_a_picture_that_are_no_file(self, folder):
        (folder / "a/x.png").mkdir()
        RED.save(folder / "a/x.png/inside.png")
        os.mkfifo(folder / "a/fifo.png")
        (folder / "a/device.png").symlink_to("/dev/zero")
        (folder / "a/itself.png").symlink_to("itself.png")
        (folder / "a/nowhere.png").symlink_to("nowhere.jpg")
        assert read_image_folder(folder, SMALLEST, False).listing.files == ("a/0.png", "a/x.png/inside.png", "b/0.png")

    def test_links(self, folder, tmp_path):
        """Links to pictures and to class folders are followed; links that lead to a cycle are not."""
        (tmp_path / "elsewhere").mkdir()
        RED.save(tmp_path / "elsewhere/1.png")
        (folder / "a/1.png").symlink_to(tmp_path / "elsewhere/1.png")
        (folder / "c").symlink_to(tmp_path / "elsewhere")
        (folder / "a/up").symlink_to("..")
        (folder / "a/again").symlink_to(".")
        assert read_image_folder(folder, SMALLEST, False).listing.files == ("a/0.png", "a/1.png", "b/0.png", "c/1.png")

    def test_a_folder_deeper_than_any_path(self, folder, monkeypatch):
        monkeypatch.chdir(folder / "a")
        for _ in range(2500):
            os.mkdir("s")
            os.chdir("s")
        message = complaint(read_image_folder, folder, SMALLEST, False)
        for _ in range(2500):  # pytest could not remove it
            os.chdir("..")
            os.rmdir("s")
        assert f"--data_dir {folder}: " in message and "too long" in message

    def test_names(self, folder, capsys):
        """Any name that the file system allows is read and printed safely."""
        names = [
            "-rf.png", "a\nb.png", "\x1b[2J.png", "\u202egnp.png", "<img src=x onerror=alert(1)>.png", "\udcff.png",
            "x" * 251 + ".png", "a,b.png", " .png", "%s{0}.png",
        ]  # fmt: skip
        classes = ["<script>alert(1)<", "line\nline", "\udcfe", "-c", "\x1b]0;title\x07"]
        for name in classes:
            (folder / name).mkdir()
            for picture in names:
                (folder / name / picture).write_bytes(png())
            (folder / name / "bad.png").write_bytes(b"")
        assert "\n" not in complaint(read_image_folder, folder, SMALLEST, False).replace("line\nline", "")
        dataset = load_dataset("imagefolder", folder, Preprocessing(4), skip_unreadable=True)
        assert dataset.num_train == 2 + len(classes) * len(names) and set(classes) < set(dataset.classes)
        printed = capsys.readouterr().err
        assert printed.startswith("skipped 5 files that cannot be read") and printable(printed, keep="\n") == printed

    def test_more_pixels_than_memory(self, folder, monkeypatch):
        def no_memory(*_: object, **__: object) -> None:
            raise MemoryError

        monkeypatch.setattr(np, "empty", no_memory)
        assert "--image_size" in complaint(read_image_folder, folder, SMALLEST, False)


class TestForgetLists:
    NAMES = tuple(f"c{i % 2}/{i}.png" for i in range(20))

    @pytest.fixture
    def dataset(self) -> Dataset:
        images = torch.zeros(20, 1, 2, 2, dtype=torch.uint8)
        fields = {"num_train": 20, "mean": (0.5,), "std": (0.5,), "file_names": self.NAMES}
        return Dataset("toy", images, torch.arange(20) % 2, ("c0", "c1"), **fields)

    @pytest.fixture
    def read(self, dataset, tmp_path) -> Callable:
        def read(content: bytes | str) -> list[int]:
            (tmp_path / "list.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
            return read_image_list(tmp_path / "list.txt", dataset).tolist()

        return read

    def test_names_are_looked_up_and_never_opened(self, read, monkeypatch, tmp_path):
        """The list is the only file that is opened."""
        opened, real = [], os.open
        monkeypatch.setattr(os, "open", lambda path, *rest: opened.append(path) or real(path, *rest))
        (tmp_path / "secret.png").write_bytes(png())
        for line in (
            "../../etc/passwd", "/etc/passwd", "c0/../../secret.png", str(tmp_path / "secret.png"), "../secret.png",
            "c0", "c0/", ".", "..", "~/x.png", "file:///etc/passwd", "c0/0.png\0.jpg", "C:\\0.png", "c0//../c1/0.png",
        ):  # fmt: skip
            assert "is no image of toy" in complaint(read, line)
        assert read("c0/../c0/./2.png\nc1//3.png") == [2, 3]
        assert {str(path) for path in opened} == {str(tmp_path / "list.txt")}

    @pytest.mark.parametrize(
        "entry", ["0x10", "1e3", "-1", "+1", "1.0", "1_0", "١", "²", "１", "1 2", "1,2", "1-3", "\ufeff5", "10**2", "*"]
    )
    def test_invalid_indices(self, read, entry):
        assert "line 2 of" in complaint(read, f"1\n{entry}\n")

    @pytest.mark.parametrize("entry", ["20", "1" + "0" * 30, "9" * 4000, "18446744073709551616"])
    def test_indices_outside(self, read, entry):
        message = complaint(read, entry)
        assert "give an index from 0 to 19" in message and len(message) < 500

    def test_line_endings(self, read):
        assert read("1\r\n2\r3\n\r\n4") == [1, 2, 3, 4]
        assert read("\ufeff1\n") == [1]

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            ("1\n2\n".encode("utf-16"), "no UTF-8"), ("1\n2\n".encode("utf-16-be"), "is no image"),
            (b"1\n\x00\n", "is no image"), (b"1\n" + b"\x00" * 5000, "longer than"), (b"\x80", "no UTF-8"),
            (b"x" * 10**6, "longer than"), ("é" * 4097, "longer than"),
        ],
    )  # fmt: skip
    def test_invalid_lists(self, read, content, says):
        assert says in complaint(read, content)

    @pytest.mark.parametrize("line", ["3\n", "\n", "# nothing\n", "c0/2.png\n", "\r"])
    def test_the_limit_of_lines(self, read, line):
        most = LINES_PER_IMAGE * 20 + FURTHER_LINES
        assert read("3\n" + line * (most - 1))
        assert f"more than {most} lines" in complaint(read, "3\n" + line * most)

    def test_a_file_that_grows_while_it_is_read(self, dataset, tmp_path):
        """A list of a billion lines is refused after a few thousand."""
        path = tmp_path / "list.txt"
        path.write_text("3\n" * 100_000)
        with open(path, "ab") as file:
            file.truncate(10**12)
        assert "more than" in complaint(read_image_list, path, dataset)

    def test_a_file_that_is_not_regular(self, dataset, tmp_path):
        os.mkfifo(tmp_path / "fifo")
        for path in (tmp_path / "fifo", "/dev/zero", "/dev/stdin", "/dev/null"):
            if not Path(path).is_file():
                assert "no regular file" in complaint(read_image_list, path, dataset)
        assert "name" in complaint(read_image_list, "a\0b", dataset)

    def test_by_every_flag(self, refuse, tmp_path):
        os.mkfifo(tmp_path / "list.txt")
        for flag in ("--forget", "--validation"):
            refuse("train.py", *SMALL, flag, f"file:{tmp_path}/list.txt", says=["list.txt", "no regular file"])


class TestRowsOfALeaderboard:
    LINE = b'{"key": "0123"}\n'

    @pytest.mark.parametrize(
        "bad", [b"\xff\xfe", b"[" * 100_000, b"9" * 5000, b'{"key": [1]}', b"\0", "{}".encode("utf-16")]
    )
    def test_invalid_lines(self, tmp_path, bad):
        path = tmp_path / "rows.jsonl"
        path.write_bytes(self.LINE + bad + b"\n" + self.LINE)
        assert "line 2 is no finished cell" in complaint(read_rows, path)
        path.write_bytes(self.LINE + bad)
        assert list(read_rows(path)) == ["0123"]


@pytest.mark.parametrize(
    "lengths", [3, [1], {"metrics.jsonl": "x"}, {"metrics.jsonl": -1}, {"metrics.jsonl": [1]}, None]
)
def test_a_checkpoint_that_would_cut_the_record_anywhere(tmp_path, lengths):
    (tmp_path / "metrics.jsonl").write_text("earlier")
    torch.save({"format": CHECKPOINT_FORMAT, "lengths": lengths, "step": 1}, tmp_path / "checkpoint.pt")
    assert "no checkpoint of this version" in complaint(RunRecord(tmp_path).load_checkpoint)
    assert (tmp_path / "metrics.jsonl").read_text() == "earlier"
