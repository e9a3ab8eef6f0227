"""Fixtures that several test modules share: runs of the scripts, digits with wrong labels, limits on time."""

import gc
import signal
from collections.abc import Iterator

import pytest
from helpers.processes import SMALL, Ran, fork, judge_briefly, only
from hypothesis import settings

# A busy machine takes longer over any example.
settings.register_profile("untimed", deadline=None, max_examples=50)
settings.load_profile("untimed")


def pytest_collection_finish() -> None:
    """Each run looks for garbage before its memory is measured: not among all that was imported."""
    gc.freeze()


@pytest.fixture(scope="session")
def original(tmp_path_factory) -> Ran:
    """`train.py` on digits for two epochs, with 40 images that later runs forget."""
    log_dir = tmp_path_factory.mktemp("original")
    done = fork("train.py", *SMALL, "--forget", "random:40", "--num_epochs", 2, "--log_dir", log_dir)
    assert done.status == 0, done.err
    return Ran(done, only(log_dir))


@pytest.fixture(scope="session")
def quickstart(tmp_path_factory) -> Ran:
    """The README's command, its model and its epochs made smaller, with a retrained model and both stages."""
    log_dir = tmp_path_factory.mktemp("quickstart")
    done = fork(
        "train_constrained_unlearning.py", "--config_file", "configs/quickstart.yaml", "--width", 4,
        "--train_num_epochs", 2, "--num_epochs", 2, "--finetune_num_epochs", 1, "--batch_size", 32,
        "--log_interval", 2, "--retrain", "--keep_checkpoint", "--log_dir", log_dir,
    )  # fmt: skip
    assert done.status in (0, 3, 4), done.err
    return Ran(done, only(log_dir))


@pytest.fixture(scope="session")
def digits():
    """`helpers.digits.Digits`."""
    from helpers.digits import Digits

    return Digits()


@pytest.fixture(scope="session")
def mislabelled(digits):
    """A classifier that knows the digits' wrong labels by heart; to be copied."""
    return digits.fit(digits.given)


@pytest.fixture
def hasty(monkeypatch) -> None:
    """Discriminators that learn in a few steps, where it does not matter how much."""
    monkeypatch.setattr("contrastive_discrimination.games.WARM_UP_STEPS", 3)
    judge_briefly(monkeypatch.setattr)


@pytest.fixture
def soon() -> Iterator[None]:
    """A test that takes too long, even for a busy machine, fails."""

    def give_up(*_: object) -> None:
        raise TimeoutError("it hangs")

    earlier = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(120)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, earlier)
