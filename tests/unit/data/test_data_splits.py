"""Invariants of every split, and the refusal of impossible options."""

import numpy as np
import pytest
import torch
from helpers.toy_splits import held_out, sets, toy
from hypothesis import given, settings
from hypothesis import strategies as st

from data.datasets import Dataset, load_dataset
from data.partition import copy_groups
from data.split_record import FINAL_TESTS, PARTS
from data.splits import make_splits
from helper_functions.errors import UserError


def check_invariants(splits, dataset: Dataset) -> None:
    parts = sets(splits)
    for name in PARTS:
        tensor = getattr(splits, name)
        assert tensor.dtype == torch.int64 and (tensor.diff() > 0).all()
    assert parts["forget"] | parts["retain"] == parts["train"] and not parts["forget"] & parts["retain"]
    assert not parts["validation"] & parts["unseen"]
    assert not parts["train"] & held_out(splits) and not (parts["train"] | held_out(splits)) & parts["test"]
    assert parts["train"] | held_out(splits) | parts["test"] == set(range(len(dataset.labels)))
    assert max(parts["train"]) < dataset.num_train and splits.final_test in FINAL_TESTS
    unseen, forget = dataset.labels[splits.unseen], dataset.labels[splits.forget]
    held = dataset.labels[sorted(held_out(splits))]
    for label in range(dataset.num_classes):
        expected = int((held == label).sum()) // 2 if label in forget else 0
        assert int((unseen == label).sum()) == expected


requests = st.sampled_from(
    [None, "random:0.1", "random:17", "class:0", "class:1,3", "superclass:few", "mislabelled:0.2", "file"]
)


@pytest.fixture(scope="module")
def forget_file(tmp_path_factory):
    """Writes a list of images and gives the request that names it."""
    folder = tmp_path_factory.mktemp("lists")

    def write(indices) -> str:
        path = folder / "list.txt"
        path.write_text("\n".join(map(str, indices)))
        return f"file:{path}"

    return write


@settings(max_examples=60)
@given(
    forget=requests,
    test=st.sampled_from([0, 60]),
    copies=st.sampled_from([0, 20]),
    seed=st.integers(0, 3),
    classes=st.integers(4, 6),
    validation=st.sampled_from(["0.2", "0.3"]),
    confusion=st.sampled_from(["uniform", "pairwise"]),
)
def test_invariants(forget_file, forget, test, copies, seed, classes, validation, confusion):
    dataset = toy(test=test, copies=copies, classes=classes)
    options = {"validation": validation, "seed": seed, "confusion": confusion}
    plain = make_splits(dataset, None, **options)
    if forget == "file":
        forget = forget_file(plain.train[3:9].tolist())
    splits = make_splits(dataset, forget, **options)
    check_invariants(splits, dataset)
    assert splits.sha256 == make_splits(dataset, forget, **options).sha256
    # The forget set moves nothing between train, held-out and test.
    assert torch.equal(splits.train, plain.train) and torch.equal(splits.test, plain.test)
    assert held_out(splits) == held_out(plain)
    assert splits.final_test == ("official test" if test else "stratified")
    # Copies stand on one side; the official test part is as it is.
    groups = copy_groups(dataset.images)
    own = np.arange(len(groups)) < dataset.num_train
    side = np.zeros(len(groups), dtype=int)
    side[sorted(held_out(splits))], side[splits.test] = 1, 2
    for group in np.unique(groups[own]):
        assert len(np.unique(side[own & (groups == group)])) == 1


def test_seeds_and_fractions_change_the_partition():
    dataset = toy(test=0)
    first, other = (make_splits(dataset, None, seed=seed) for seed in (0, 1))
    assert held_out(first) != held_out(other) and sets(first)["test"] != sets(other)["test"]
    half = make_splits(dataset, None, test=0.5)
    assert len(half.test) == 100 and len(make_splits(dataset, None, validation="0.3").validation) == 48
    # The test share does not depend on how much is held out of the rest.
    assert torch.equal(first.test, make_splits(dataset, None, validation="0.3").test)


def test_a_subset_is_drawn_by_class_and_divided_like_a_whole_data_set():
    dataset = load_dataset("digits", "data")
    splits = make_splits(dataset, "random:0.1", validation="0.25", subset=400, seed=1)
    used = torch.cat([splits.train, splits.validation, splits.unseen])
    whole = make_splits(dataset, "random:0.1", seed=1)
    assert len(used) == 400 and len(splits.train) == 300 and len(splits.forget) == 30
    assert torch.equal(splits.test, whole.test) and not set(used.tolist()) & set(splits.test.tolist())
    counts = torch.bincount(dataset.labels[used], minlength=10).float()
    rest = torch.ones(len(dataset.labels), dtype=torch.bool)
    rest[splits.test] = False
    torch.testing.assert_close(counts, torch.bincount(dataset.labels[rest]) * 400 / rest.sum(), atol=1.0, rtol=0)
    other = make_splits(dataset, "random:0.1", validation="0.25", subset=400, seed=2)
    assert set(used.tolist()) != {*other.train.tolist(), *other.validation.tolist(), *other.unseen.tolist()}
    assert torch.equal(make_splits(dataset, None, subset=int(rest.sum()), seed=1).train, whole.train)


@pytest.mark.parametrize(
    "options, words",
    [({"subset": 5000}, "1438 training images"), ({"subset": 9}, "10 classes"), ({"foreign": True}, "leave it out")],
)
def test_an_impossible_subset_is_refused(options, words):
    with pytest.raises(UserError, match=f"--subset .*{words}"):
        make_splits(load_dataset("digits", "data"), "random:0.1", **{"subset": 400, **options})


def test_a_plain_training_forgets_nothing():
    splits = make_splits(toy(), None)
    assert len(splits.forget) == len(splits.unseen) == 0 and torch.equal(splits.train, splits.retain)
    assert splits.forget_request == ""


def test_of_wrong_labels_a_share_is_known_and_the_others_stay():
    dataset = toy()
    everything = make_splits(dataset, "mislabelled:0.2", seed=3)
    part = make_splits(dataset, "mislabelled:0.2:0.25", seed=3)
    assert torch.equal(part.labels, everything.labels)
    wrong = set(torch.nonzero(part.labels != dataset.labels).flatten().tolist())
    assert wrong == set(everything.forget.tolist())
    assert set(part.forget.tolist()) < wrong and len(part.forget) == round(0.25 * len(wrong))
    assert wrong - set(part.forget.tolist()) < set(part.retain.tolist())
    assert make_splits(dataset, "mislabelled:0.2:0.25", seed=3, previous=part) is part
    assert not torch.equal(make_splits(dataset, "mislabelled:0.2:0.25", seed=4).forget, part.forget)
    with pytest.raises(UserError, match="lists 0 of [0-9]+ wrong labels; give another share"):
        make_splits(dataset, "mislabelled:0.2:0.001", seed=3)


@pytest.mark.parametrize("confusion", ["uniform", "pairwise"])
def test_mislabelled_images_are_the_forget_set(confusion):
    dataset = toy()
    splits = make_splits(dataset, "mislabelled:0.2", confusion=confusion)
    wrong = torch.nonzero(splits.labels != dataset.labels).flatten()
    assert torch.equal(wrong, splits.forget) and len(wrong) == 36
    if confusion == "pairwise":
        assert torch.equal(splits.labels[wrong], (dataset.labels[wrong] + 1) % 4)
    assert torch.equal(make_splits(dataset, "random:0.2").labels, dataset.labels)


def test_golden_values():
    dataset = toy(test=0)
    splits = make_splits(dataset, "mislabelled:0.05", seed=1)
    assert splits.forget.tolist() == [35, 70, 107, 130, 146, 169, 196]
    assert splits.unseen.tolist() == [2, 33, 45, 62, 65, 66, 135, 184]
    assert splits.sha256 == "896aad8592ec22d852ef2aeb5acc865c123e5ed6e22564d575b73f0777a4a490"
    digits = make_splits(load_dataset("digits", "."), "random:0.1")
    assert digits.sha256 == "a807d8f0f53527b5e1af97fb50f0549bb4a66d0f6f9c1c9336a8957416fde7f9"


def test_listed_images_are_held_out(forget_file):
    listed = list(range(10, 50))
    for dataset in (toy(), toy(test=0)):
        splits = make_splits(dataset, "class:0", validation=forget_file(listed))
        check_invariants(splits, dataset)
        assert held_out(splits) == set(listed)
    assert splits.final_test == "stratified" and len(splits.test) == 32


def test_foreign_weights_saw_everything_but_the_list(forget_file):
    dataset, listed = toy(), list(range(10, 50))
    splits = make_splits(dataset, "class:0", validation=forget_file(listed), foreign=True)
    check_invariants(splits, dataset)
    assert held_out(splits) == set(listed) and splits.final_test == "official test" and len(splits.test) == 60
    dataset = toy(test=0)
    splits = make_splits(dataset, "class:0", validation=forget_file(listed), foreign=True)
    check_invariants(splits, dataset)
    assert held_out(splits) | sets(splits)["test"] == set(listed)
    assert splits.final_test == "half of the never-seen" and len(splits.test) == 20


def test_foreign_weights_without_a_list_saw_the_whole_training_part():
    dataset = toy()
    splits = make_splits(dataset, "random:0.1", foreign=True)
    check_invariants(splits, dataset)
    assert sets(splits)["train"] == set(range(200)) and splits.final_test == "half of official test"
    halves = (torch.bincount(dataset.labels[part]) for part in (splits.test, sorted(held_out(splits))))
    assert (torch.stack(list(halves)).diff(dim=0).abs() <= 1).all()
    with pytest.raises(UserError, match="no test part: name images never seen by --validation file"):
        make_splits(toy(test=0), "random:0.1", foreign=True)
    with pytest.raises(UserError, match="corrupts labels before training"):
        make_splits(dataset, "mislabelled:0.1", foreign=True)


def test_previous_splits_are_used_again():
    dataset = toy()
    previous = make_splits(dataset, "mislabelled:0.10", seed=3)
    for request in (None, "mislabelled:0.10", "mislabelled:0.1"):
        assert make_splits(dataset, request, previous=previous) is previous
    for request in ("class:1", "random:9images"):
        splits = make_splits(dataset, request, previous=previous, validation="0.4", seed=9)
        check_invariants(splits, dataset)
        assert torch.equal(splits.train, previous.train) and torch.equal(splits.test, previous.test)
        assert held_out(splits) == held_out(previous) and torch.equal(splits.labels, previous.labels)
        assert splits.forget_request == request
    with pytest.raises(UserError, match="trained with mislabelled:0.10"):
        make_splits(dataset, "mislabelled:0.2", previous=previous)
    with pytest.raises(UserError, match="trained with no forget set"):
        make_splits(dataset, "mislabelled:0.2", previous=make_splits(dataset, None))


def test_an_edited_list_is_read_again(forget_file):
    dataset = toy()
    train = make_splits(dataset, None).train.tolist()
    request = forget_file(train[:5])
    previous = make_splits(dataset, request)
    assert make_splits(dataset, request, previous=previous) is previous
    forget_file(train[5:8])
    assert make_splits(dataset, request, previous=previous).forget.tolist() == train[5:8]


@pytest.mark.parametrize("options, words", [
    ({"validation": "0"}, "--validation: 0 is not strictly between"), ({"validation": "x"}, "'x' is not a number"),
    ({"validation": "nan"}, "strictly between"), ({"validation": "0.0001"}, "0.0001 of 200 images is no image"),
    ({"validation": "file:/nowhere"}, "No such file"),
])  # fmt: skip
def test_impossible_options(options, words):
    with pytest.raises(UserError, match=words):
        make_splits(toy(), "mislabelled:0.1", **options)


def test_an_impossible_test_share_is_refused():
    for test in (0.0, 1.0, float("nan")):
        with pytest.raises(UserError, match="--test"):
            make_splits(toy(test=0), None, test=test)


def test_a_list_of_everything_is_refused(forget_file):
    with pytest.raises(UserError, match="lists the whole training part"):
        make_splits(toy(), None, validation=forget_file(range(200)))


def test_too_few_held_out_images_are_an_error_that_names_the_class():
    dataset = toy(train=40)
    with pytest.raises(UserError, match="class 2 is in the forget set but has 1 held-out images.*raise --validation"):
        make_splits(dataset, "class:2")
    check_invariants(make_splits(dataset, "class:2", validation="0.2"), dataset)


def test_unseen_of_a_class_does_not_depend_on_the_others():
    dataset = toy()
    one, two = make_splits(dataset, "class:1"), make_splits(dataset, "class:1,2")
    assert sets(one)["unseen"] == {i for i in sets(two)["unseen"] if dataset.labels[i] == 1}
