"""The built-in data sets: their content, and the errors where they cannot be loaded."""

import hashlib
import os
import pickle
import subprocess
import sys
import urllib.error
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.guard import Payload

from data.arguments import DataArgs, dataset_from
from data.datasets import DATASETS, load_dataset
from data.image_list import in_class_order
from data.preprocessing import Preprocessing
from helper_functions.errors import UserError

REPOSITORY = Path(__file__).parents[3]
CIFAR100 = REPOSITORY / "data" / "cifar100"
needs_cifar100 = pytest.mark.skipif(
    not (CIFAR100 / "cifar-100-python").is_dir(), reason="data/cifar100/cifar-100-python is not there"
)


@pytest.fixture(scope="module")
def cifar100():
    return load_dataset("cifar100", CIFAR100)


def complaint(name: str, folder: Path, *options) -> str:
    with pytest.raises(UserError) as info:
        load_dataset(name, folder, *options)
    assert "\n" not in str(info.value)
    return str(info.value)


@pytest.fixture
def no_network(monkeypatch):
    def unreachable(*_, **__):
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr("urllib.request.urlopen", unreachable)


def test_digits_are_scikit_learns():
    from sklearn.datasets import load_digits

    dataset = load_dataset("digits", "nowhere")
    digits = load_digits()
    assert dataset.images.shape == (1797, 1, 8, 8) and dataset.images.dtype == torch.uint8
    assert torch.equal(dataset.images[:, 0].double().mul(16 / 255).round(), torch.from_numpy(digits.images))
    assert dataset.labels.tolist() == digits.target.tolist() and dataset.labels.dtype == torch.int64
    assert dataset.num_train == 1797 and dataset.num_classes == 10 and dataset.classes[3] == "3"
    assert (dataset.in_channels, dataset.image_size) == (1, (8, 8))
    scaled = dataset.images.double() / 255
    assert dataset.mean[0] == pytest.approx(float(scaled.mean()))
    assert dataset.std[0] == pytest.approx(float(scaled.std(correction=0)))


@needs_cifar100
def test_cifar100_statistics_are_those_of_its_training_part(cifar100):
    # Every tenth image: enough to tell the constants from those of another data set.
    scaled = cifar100.images[:50000:10].permute(1, 0, 2, 3).reshape(3, -1).float() / 255
    assert np.allclose(cifar100.mean, scaled.mean(1), atol=3e-3)
    assert np.allclose(cifar100.std, scaled.std(1), atol=3e-3)


@needs_cifar100
def test_cifar100_is_in_the_files(cifar100):
    """Images, labels, classes and superclasses, as the pickles hold them."""
    content = {}
    for name in ("meta", "train", "test"):
        with open(CIFAR100 / "cifar-100-python" / name, "rb") as file:
            content[name] = pickle.load(file, encoding="latin1")
    assert cifar100.images.shape == (60000, 3, 32, 32) and cifar100.num_train == 50000
    assert cifar100.images.is_contiguous(memory_format=torch.channels_last)
    for name, part in (("train", slice(0, 50000)), ("test", slice(50000, 60000))):
        assert np.array_equal(cifar100.images[part].flatten(1).numpy(), content[name]["data"])
        assert cifar100.labels[part].tolist() == content[name]["fine_labels"]
    names = content["meta"]
    assert list(cifar100.classes) == names["fine_label_names"]
    expected = {name: set() for name in names["coarse_label_names"]}
    for label, superclass in zip(content["train"]["fine_labels"], content["train"]["coarse_labels"], strict=True):
        expected[names["coarse_label_names"][superclass]].add(names["fine_label_names"][label])
    assert {name: set(members) for name, members in cifar100.superclasses.items()} == expected


class FakeArchive:
    """Stands for a torchvision data set of ten images of noise."""

    classes = [f"class {i}" for i in range(10)]

    def __init__(self, root, part, download):
        rng = np.random.RandomState(part in (True, "train"))
        self.data = rng.randint(0, 256, (10, 32, 32, 3), dtype=np.uint8)
        self.targets = list(range(10))
        self.labels = np.arange(10)


class FakeSVHN(FakeArchive):
    def __init__(self, root, part, download):
        super().__init__(root, part, download)
        self.data = self.data.transpose(0, 3, 1, 2)


@pytest.mark.parametrize("name, reader, fake", [("cifar10", "CIFAR10", FakeArchive), ("svhn", "SVHN", FakeSVHN)])
def test_training_and_test_part_stand_one_after_the_other(monkeypatch, name, reader, fake):
    monkeypatch.setattr(f"torchvision.datasets.{reader}", fake)
    dataset = load_dataset(name, "nowhere")
    expected = np.concatenate([FakeArchive("", part, False).data for part in (True, False)])
    assert np.array_equal(dataset.images.permute(0, 2, 3, 1).numpy(), expected)
    assert dataset.images.is_contiguous(memory_format=torch.channels_last)
    assert dataset.labels.tolist() == [*range(10), *range(10)] and dataset.num_train == 10
    assert dataset.num_classes == 10 and len(dataset.mean) == 3


@pytest.mark.parametrize("name, file", [
    ("cifar10", "cifar-10-python.tar.gz"), ("cifar100", "cifar-100-python.tar.gz"), ("svhn", "train_32x32.mat"),
    ("fashion_mnist", "FashionMNIST/raw/t10k-labels-idx1-ubyte"),
])  # fmt: skip
def test_no_network_is_one_line_that_says_where_to_put_the_files(name, file, tmp_path, no_network):
    message = complaint(name, tmp_path)
    assert "Name or service not known" in message and file in message and str(tmp_path) in message


def test_a_damaged_file_is_not_opened(tmp_path, no_network):
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name in ("train", "test", "meta"):
        # A pickle that would raise something else if anyone loaded it.
        (folder / name).write_bytes(b"cos\nabort\n(tR.")
    assert "damaged" in complaint("cifar100", tmp_path)


@pytest.fixture(params=["cifar10", "cifar100"])
def cifar(request, tmp_path, monkeypatch):
    """A small CIFAR folder and the names of its files, its own checksums in place of the real ones."""
    import torchvision.datasets

    reader = getattr(torchvision.datasets, request.param.upper())
    names = [name for name, _ in reader.train_list + reader.test_list]
    label_key = "labels" if request.param == "cifar10" else "fine_labels"
    batch = {"data": np.zeros((2, 3 * 32 * 32), dtype=np.uint8), label_key: [0, 1]}
    content = dict.fromkeys(names, batch) | {reader.meta["filename"]: {reader.meta["key"]: ["a", "b"]}}
    folder, sums = tmp_path / reader.base_folder, {}
    folder.mkdir()
    for name, value in content.items():
        (folder / name).write_bytes(pickle.dumps(value))
        sums[name] = hashlib.md5((folder / name).read_bytes()).hexdigest()
    for part in ("train_list", "test_list"):
        monkeypatch.setattr(reader, part, [[name, sums[name]] for name, _ in getattr(reader, part)])
    monkeypatch.setattr(reader, "meta", reader.meta | {"md5": sums[reader.meta["filename"]]})
    return request.param, folder, list(content)


def test_no_file_of_cifar_is_unpickled_unchecked(cifar, tmp_path, no_network):
    name, folder, files = cifar
    assert load_dataset(name, tmp_path).classes == ("a", "b")
    for file in files:
        whole = (folder / file).read_bytes()
        (folder / file).write_bytes(pickle.dumps(Payload(tmp_path / "payload")))
        assert "damaged" in complaint(name, tmp_path)
        (folder / file).unlink()
        os.mkfifo(folder / file)
        assert "damaged" in complaint(name, tmp_path)
        (folder / file).unlink()
        (folder / file).write_bytes(whole)
    assert not (tmp_path / "payload").exists()


def test_no_file_of_svhn_is_opened_unchecked(tmp_path, no_network, monkeypatch):
    import scipy.io

    monkeypatch.setattr(scipy.io, "loadmat", lambda *_, **__: pytest.fail("it was opened"))
    for file in ("train_32x32.mat", "test_32x32.mat"):
        (tmp_path / file).write_bytes(pickle.dumps(Payload(tmp_path / "payload")))
    assert "damaged" in complaint("svhn", tmp_path)
    assert not (tmp_path / "payload").exists()


FASHION_MNIST = REPOSITORY / "data" / "fashion_mnist"


@pytest.mark.skipif(not (FASHION_MNIST / "FashionMNIST").is_dir(), reason="data/fashion_mnist is not there")
def test_fashion_mnist_is_what_torchvision_reads():
    from torchvision.datasets import FashionMNIST

    dataset = load_dataset("fashion_mnist", FASHION_MNIST)
    assert dataset.images.shape == (70000, 1, 28, 28) and dataset.num_train == 60000
    assert dataset.images.is_contiguous(memory_format=torch.channels_last)
    for train, part in ((True, slice(0, 60000)), (False, slice(60000, 70000))):
        theirs = FashionMNIST(FASHION_MNIST, train)
        assert torch.equal(dataset.images[part, 0], theirs.data) and torch.equal(dataset.labels[part], theirs.targets)
    assert list(dataset.classes) == FashionMNIST.classes
    scaled = dataset.images[:60000:10].double() / 255
    assert dataset.mean[0] == pytest.approx(scaled.mean().item(), abs=3e-3)
    assert dataset.std[0] == pytest.approx(scaled.std().item(), abs=3e-3)


@pytest.fixture
def fashion_mnist(tmp_path, monkeypatch):
    """A small Fashion-MNIST, of six and two images, its own checksums in place of the real ones; the four files."""
    import data.datasets

    files, sums = [], []
    for file, header in zip(data.datasets._ARCHIVES["fashion_mnist"].files, (16, 16, 8, 8), strict=True):
        path, count = tmp_path / file, 6 if "train" in file else 2
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(header) + bytes(range(count)) * (784 if header == 16 else 1))
        files.append(path)
        sums.append(hashlib.md5(path.read_bytes()).hexdigest())
    monkeypatch.setattr(data.datasets, "_FASHION_MNIST_SUMS", tuple(sums))
    return files


def test_no_file_of_fashion_mnist_is_read_unchecked(fashion_mnist, tmp_path, no_network):
    dataset = load_dataset("fashion_mnist", tmp_path)
    assert dataset.images.shape == (8, 1, 28, 28) and dataset.num_train == 6
    assert dataset.labels.tolist() == [0, 1, 2, 3, 4, 5, 0, 1]
    for path in fashion_mnist:
        whole = path.read_bytes()
        path.write_bytes(whole[:-1] + b"x")
        assert "damaged" in complaint("fashion_mnist", tmp_path)
        path.unlink()
        os.mkfifo(path)
        assert "absent" in complaint("fashion_mnist", tmp_path)
        path.unlink()
        path.write_bytes(whole)


def test_a_file_in_the_way_of_the_folder(tmp_path, no_network):
    (tmp_path / "file").write_text("")
    complaint("cifar10", tmp_path / "file")


def test_a_file_that_may_not_be_read(monkeypatch, tmp_path):
    def refuse(*_, **__):
        raise PermissionError(13, "Permission denied", "train")

    monkeypatch.setattr("torchvision.datasets.CIFAR100", refuse)
    assert "cannot read cifar100" in complaint("cifar100", tmp_path) and "denied" in complaint("cifar100", tmp_path)


@pytest.mark.skipif(os.name != "posix" or os.geteuid() == 0, reason="the superuser may read everything")
def test_a_folder_without_permission(tmp_path, no_network):
    tmp_path.chmod(0)
    try:
        for name in ("cifar100", "svhn", "fashion_mnist", "imagefolder"):
            complaint(name, tmp_path)
    finally:
        tmp_path.chmod(0o700)


def test_what_does_not_exist_is_refused():
    assert "choose from cifar10, cifar100, svhn, fashion_mnist, digits, imagefolder" in complaint("mnist", Path())
    assert "leave --image_size out" in complaint("digits", Path(), Preprocessing(16))
    assert list(DATASETS) == ["cifar10", "cifar100", "svhn", "fashion_mnist", "digits", "imagefolder"]


def test_importing_data_and_models_imports_no_reader():
    """A fresh interpreter: this one has imported everything."""
    script = (
        "import data, models, sys; models.get_model('resnet8', 2)\n"
        "print([m for m in ('sklearn', 'torchvision', 'PIL', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


class TestClassOrder:
    def ordered(self, tmp_path, *lines: str):
        (tmp_path / "classes.txt").write_text("\n".join(lines))
        return in_class_order(load_dataset("digits", ""), tmp_path / "classes.txt")

    def test_classes_are_numbered_as_they_are_listed(self, tmp_path):
        names = ["3", "1", "0", "2", "9", "8", "", "7 ", "6", "5", "4"]
        dataset, before = self.ordered(tmp_path, *names), load_dataset("digits", "")
        assert dataset.classes == ("3", "1", "0", "2", "9", "8", "7", "6", "5", "4")
        assert [dataset.classes[label] for label in dataset.labels] == [before.classes[n] for n in before.labels]
        args = DataArgs(class_order=str(tmp_path / "classes.txt"))
        assert torch.equal(dataset_from(args).labels, dataset.labels)

    @pytest.mark.parametrize(
        ("lines", "says"),
        [
            ("012345678", "class '9' is missing"), ("0123456788", "line 10: class '8' is there twice"),
            ("012345678x", "line 10: the data set has no class 'x'"), ("", "class '0' is missing"),
        ],
    )  # fmt: skip
    def test_what_is_no_order(self, tmp_path, lines, says):
        with pytest.raises(UserError, match=f"--class_order.*{says}"):
            self.ordered(tmp_path, *lines)

    def test_files_that_cannot_be_read(self, tmp_path):
        for content in (b"\xff", b"x" * 5000, b"\n" * 5000):
            (tmp_path / "classes.txt").write_bytes(content)
            with pytest.raises(UserError, match="classes.txt"):
                in_class_order(load_dataset("digits", ""), tmp_path / "classes.txt")
        with pytest.raises(UserError, match="No such file"):
            in_class_order(load_dataset("digits", ""), tmp_path / "nowhere.txt")


def test_a_folder_that_is_not_there_or_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    for name, says in {"nowhere": "there is no such folder", "file": "it is a file, not a folder"}.items():
        with pytest.raises(UserError, match=f"--data_dir {tmp_path / name}: {says}"):
            dataset_from(DataArgs(data_dir=str(tmp_path / name)))
