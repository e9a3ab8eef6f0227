"""The grammar of forget requests, the images they select, the labels they corrupt, and the refusal of others."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from data.datasets import Dataset, by_superclass
from data.forget import CONFUSIONS, ForgetRequest, corrupt_labels, describe, parse_forget, select_forget
from data.partition import Partition
from helper_functions.errors import UserError

# Four classes, of which one is named like another's number; images 40 to 49 are the official test part.
CLASSES = ("apple", "pear", "0", "cat, sleeping")
LABELS = torch.arange(50) % 4
TRAIN = np.arange(0, 36)
PREFIXES = ("random:", "class:", "mislabelled:", "mislabelled:0.1:", "long_tailed:0.1:")


def toy(**options) -> Dataset:
    fields = {
        "name": "toy",
        "images": torch.zeros(50, 1, 2, 2, dtype=torch.uint8),
        "labels": LABELS,
        "classes": CLASSES,
        "num_train": 40,
        "mean": (0.5,),
        "std": (0.5,),
        "superclasses": {"fruit": ("apple", "pear"), "rest": ("0", "cat, sleeping")},
    }
    return Dataset(**(fields | options))


def select(spec: str, dataset: Dataset | None = None, seed: int = 0, train: np.ndarray = TRAIN) -> np.ndarray:
    dataset = dataset or toy()
    held_out = np.setdiff1d(np.arange(dataset.num_train), train)[:2]
    test = np.setdiff1d(np.arange(50), np.concatenate([train, held_out]))
    return select_forget(parse_forget(spec), dataset, Partition(train, held_out, test, "official test"), seed)


def listing(tmp_path, text: str | bytes) -> str:
    path = tmp_path / "list.txt"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return f"file:{path}"


def complaint(function, *arguments) -> str:
    with pytest.raises(UserError) as info:
        function(*arguments)
    message = str(info.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("spec, request_", [
    ("random:0.1", ForgetRequest("random", fraction=0.1)),
    ("random:1e-2", ForgetRequest("random", fraction=0.01)),
    (" random : 500 ", ForgetRequest("random", count=500)),
    ("random:2images", ForgetRequest("random", count=2)), ("random:1 image", ForgetRequest("random", count=1)),
    ("group:Anna B, C", ForgetRequest("group", names=("Anna B", "C"))),
    ("requests:a.csv", ForgetRequest("requests", path="a.csv")),
    ("class:apple, 7", ForgetRequest("class", names=("apple", "7"))),
    ("superclass:fish", ForgetRequest("superclass", names=("fish",))),
    ("mislabelled:.25", ForgetRequest("mislabelled", fraction=0.25)),
    ("mislabelled:0.1:0.25", ForgetRequest("mislabelled", fraction=0.1, share=0.25)),
    ("long_tailed:0.1:10", ForgetRequest("long_tailed", fraction=0.1, imbalance=10.0)),
    ("long_tailed: .2 : 1.5 ", ForgetRequest("long_tailed", fraction=0.2, imbalance=1.5)),
    ("file:C:/a b,c.txt", ForgetRequest("file", path="C:/a b,c.txt")),
])  # fmt: skip
def test_grammar(spec, request_):
    assert parse_forget(spec) == request_
    assert parse_forget(describe(request_)) == request_


@pytest.mark.parametrize("spec, words", [
    ("", "random:0.1, random:500"), ("0.1", "random:0.1, random:500"), ("clas:apple", "did you mean class"),
    ("random", "names nothing"), ("random:", "names nothing"), ("class: ", "names nothing"),
    ("class:apple,,pear", "empty name"), ("random:0", "no image"), ("random:1.0", "strictly between 0 and 1"),
    ("random:0.0", "strictly between"), ("random:-0.1", "strictly between"), ("random:-5", "strictly between"),
    ("random:nan", "strictly between"), ("random:inf", "strictly between"), ("random:ten", "is not a number"),
    ("random:2", "2 images or 2 %? write random:2images or random:0.02"), ("random:9", "write random:9images"),
    ("random:1", "1 image or 1 %? write random:1image or random:0.01"),
    ("random:" + "9" * 5000, "strictly between"), ("mislabelled:5", "strictly between"),
    ("mislabelled:0.1:", "share of the wrong labels that is forgotten: '' is not a number"),
    ("mislabelled:0.1:1", "strictly between"), ("mislabelled:0.1:0.5:2", "is not a number"),
    ("long_tailed:0.1", "imbalance factor ''; give, after the fraction"), ("long_tailed:2:10", "strictly between"),
    ("long_tailed:0.1:0.5", "imbalance factor '0.5'"), ("long_tailed:0.1:nan", "imbalance factor"),
    ("long_tailed:0.1:inf", "imbalance factor"), ("long_tailed:0.1:x", "how many times as many images"),
    ("mislabelled:x", "is not a number"), ("Random:0.1", "did you mean random"),
])  # fmt: skip
def test_grammar_errors(spec, words):
    assert words in complaint(parse_forget, spec)


@settings(max_examples=80)
@given(st.text(max_size=30) | st.tuples(st.sampled_from(PREFIXES), st.text()).map("".join))
def test_any_text_parses_or_is_refused_in_one_line(spec):
    try:
        parse_forget(spec)
    except UserError as error:
        assert str(error)


@settings(max_examples=60)
@given(count=st.integers(1, 35), seed=st.integers(0, 100))
def test_random_sets_have_their_size_and_are_repeatable(count, seed):
    forget = select(f"random:{count}images", seed=seed)
    assert len(forget) == count and set(forget) <= set(TRAIN) and (np.diff(forget) > 0).all()
    assert np.array_equal(forget, select(f"random:{count} images", seed=seed))
    # A larger request of the same seed only adds images.
    assert set(forget) <= set(select("random:35", seed=seed))


def test_fractions_are_of_the_training_set():
    assert len(select("random:0.25")) == 9 and len(select("mislabelled:0.5")) == 18
    assert not np.array_equal(select("random:0.5"), select("random:0.5", seed=1))


def test_golden_forget_set():
    assert select("random:5images", seed=1).tolist() == [2, 15, 16, 23, 30]


@pytest.mark.parametrize("spec, labels", [
    ("class:apple", [0]), ("class:1", [1]), ("class:0", [2]), ("class:cat, sleeping", [3]), ("class:3,pear", [1, 3]),
    ("class:apple,apple", [0]), ("superclass:fruit", [0, 1]),
])  # fmt: skip
def test_classes_by_name_and_number(spec, labels):
    expected = [i for i in TRAIN if LABELS[i] in labels]
    assert select(spec).tolist() == expected


@pytest.mark.parametrize("spec, words", [
    ("class:aple", "no class 'aple'; did you mean apple?"), ("class:4", "no class '4'"), ("class:-1", "no class '-1'"),
    ("class:zzz", "choose from apple, pear, 0"), ("superclass:fruits", "did you mean fruit?"),
    ("class:0,1,3,apple", "whole training set"), ("superclass:fruit,rest", "whole training set"),
    ("random:36", "36 of 36"), ("random:4000", "4000 of 36"), ("random:0.001", "is empty"),
    ("mislabelled:0.999", "36 of 36"), ("file:/nowhere/at.all", "No such file"), ("file:/", "/"),
])  # fmt: skip
def test_impossible_selections(spec, words):
    assert words in complaint(select, spec)


def test_a_class_without_training_images_is_empty():
    assert "is empty" in complaint(select, "class:apple", None, 0, TRAIN[TRAIN % 4 != 0])


def test_a_subclass_is_named_like_a_class():
    fine = toy()
    coarse = by_superclass(fine)
    assert coarse.classes == ("fruit", "rest")
    assert coarse.labels.tolist() == [int(CLASSES[label] not in ("apple", "pear")) for label in LABELS.tolist()]
    assert np.array_equal(select("class:apple", coarse), select("class:apple", fine))
    for whole in ("class:fruit", "class:apple,pear", "superclass:fruit"):
        expected = select("superclass:fruit", fine)
        assert np.array_equal(select(whole, coarse), expected), whole
    assert "did you mean apple?" in complaint(select, "class:appel", coarse)


def test_data_sets_without_superclasses_say_so():
    assert "toy has no superclasses" in complaint(select, "superclass:fish", toy(superclasses={}))


def test_lists_of_indices(tmp_path):
    spec = listing(tmp_path, "\ufeff# taken back\r\n\r\n 7\r\n3\n3\n007\n35")
    assert select(spec).tolist() == [3, 7, 35]


def test_lists_of_file_names(tmp_path):
    names = tuple(f"class {i % 4}/{i}.png" for i in range(50))
    dataset = toy(file_names=names, num_train=50)
    spec = listing(tmp_path, "class 1/5.png\n./class 0/8.png\nclass 0/../class 0/12.png\n2\n")
    assert select(spec, dataset).tolist() == [2, 5, 8, 12]
    for name in ("../class 1/5.png", "/etc/passwd", "class 1/6.png", "5.png"):
        assert repr(name) in complaint(select, listing(tmp_path, name), dataset)
    message = complaint(select, listing(tmp_path, "\n".join(f"clas 1/{i}.png" for i in range(1, 33, 4))), dataset)
    assert "'clas 1/1.png' (nearest: class 1/1.png) is no image of toy, nor are line 2 " in message
    assert "line 5 'clas 1/17.png' (nearest: class 1/17.png) and 3 more; give an index" in message
    formats = toy(file_names=tuple(f"a/{i:04}.{'webp' if i == 3 else 'jpg'}" for i in range(50)), num_train=50)
    assert "(nearest: a/0003.webp)" in complaint(select, listing(tmp_path, "A/0003.jpeg"), formats)
    held_out = complaint(select, listing(tmp_path, "class 1/37.png"), dataset)
    assert "cannot be forgotten: class 1/37.png (validation); take" in held_out


def test_a_list_without_its_kind(tmp_path):
    path = listing(tmp_path, "3\n").removeprefix("file:")
    assert complaint(parse_forget, path).endswith(f"; did you mean file:{path}?")


@pytest.mark.parametrize("text, words", [
    ("", "lists no image"), ("# nothing\n\n", "lists no image"), ("3\nx.png\n", "line 2 of"),
    ("40", "'40' is no image of toy; give an index from 0 to 39"),
    ("36\n37\n3", "36 (validation), 37 (validation)"), ("39\n36\n38", "36 (validation), 38 (test), 39 (test)"),
])  # fmt: skip
def test_bad_lists(tmp_path, text, words):
    message = complaint(select, listing(tmp_path, text))
    assert words in message and "list.txt" in message


@settings(max_examples=60)
@given(
    num_classes=st.integers(2, 12), count=st.integers(0, 40), kind=st.sampled_from(sorted(CONFUSIONS)), data=st.data()
)
def test_exactly_the_named_labels_become_wrong(num_classes, count, kind, data):
    labels = torch.tensor(data.draw(st.lists(st.integers(0, num_classes - 1), min_size=40, max_size=40)))
    before = labels.clone()
    chosen = np.sort(np.random.RandomState(0).permutation(40)[:count])
    corrupted = corrupt_labels(labels, chosen, num_classes, kind, np.random.RandomState(1))
    assert torch.equal(torch.nonzero(corrupted != labels).flatten(), torch.from_numpy(chosen))
    assert int(corrupted.min()) >= 0 and int(corrupted.max()) < num_classes
    assert torch.equal(labels, before) and corrupted.dtype == torch.int64
    if kind == "pairwise":
        assert torch.equal(corrupted[chosen], (labels[chosen] + 1) % num_classes)


def test_uniform_confusion_is_uniform_over_the_other_classes():
    labels = torch.arange(5).repeat(4000)
    corrupted = corrupt_labels(labels, np.arange(20_000), 5, "uniform", np.random.RandomState(0))
    for label in range(5):
        counts = torch.bincount(corrupted[labels == label], minlength=5).tolist()
        assert counts.pop(label) == 0
        assert chisquare(counts).pvalue > 0.001


def test_the_same_stream_gives_the_same_labels():
    labels, chosen = torch.arange(10), np.arange(10)
    first, second = (corrupt_labels(labels, chosen, 10, "uniform", np.random.RandomState(7)) for _ in range(2))
    assert torch.equal(first, second)
    # Golden values: the labels of a run must be the same on every platform, next year too.
    assert first.tolist() == [5, 8, 6, 7, 2, 3, 4, 6, 7, 7]


class TestLongTail:
    LABELS = torch.arange(10_000) % 10
    DATASET = {
        "images": torch.zeros(10_000, 1, 1, 1, dtype=torch.uint8), "labels": LABELS, "num_train": 9_000,
        "classes": tuple(f"class {number}" for number in range(10)), "superclasses": None,
    }  # fmt: skip

    def drawn(self, spec: str, seed: int = 0) -> np.ndarray:
        partition = Partition(np.arange(8_000), np.arange(8_000, 9_000), np.arange(9_000, 10_000), "official test")
        return select_forget(parse_forget(spec), toy(**self.DATASET), partition, seed)

    @pytest.mark.parametrize("imbalance", [1, 4, 30])
    def test_counts_fall_by_one_factor_from_class_to_class(self, imbalance):
        images = self.drawn(f"long_tailed:0.2:{imbalance}")
        assert len(images) == 1600 and (np.diff(images) > 0).all() and images.max() < 8_000
        counts = np.sort(np.bincount(self.LABELS[images].numpy(), minlength=10))[::-1]
        largest = 1600 / sum(imbalance ** (-number / 9) for number in range(10))
        for number, count in enumerate(counts):
            assert abs(count - largest * imbalance ** (-number / 9)) <= 1

    def test_classes_and_images_are_drawn_from_the_seed(self):
        first, again, other = (self.drawn("long_tailed:0.2:30", seed) for seed in (0, 0, 1))
        assert np.array_equal(first, again) and not np.array_equal(first, other)
        orders = [np.argsort(np.bincount(self.LABELS[images].numpy())).tolist() for images in (first, other)]
        assert orders[0] != orders[1]

    @pytest.mark.parametrize(
        ("spec", "words"),
        [("long_tailed:0.5:30", "of class class .*, which has 800; give a smaller imbalance factor, or a smaller"),
         ("long_tailed:0.002:100", "takes 0 images of class class .*; give a smaller imbalance factor, or a larger")],
    )  # fmt: skip
    def test_a_class_that_is_too_small_for_it_is_named(self, spec, words):
        with pytest.raises(UserError, match=words):
            self.drawn(spec)
