"""What the tests of the scripts share: a small original that train.py made, and a whole run of the main script."""

import pytest
from helpers.processes import SMALL, Ran, fork, only, run


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
    done = run(
        "train_constrained_unlearning.py", "--config_file", "configs/quickstart.yaml", "--width", 4,
        "--train_num_epochs", 2, "--num_epochs", 2, "--finetune_num_epochs", 1, "--batch_size", 32,
        "--log_interval", 2, "--retrain", "--keep_checkpoint", "--log_dir", log_dir,
    )  # fmt: skip
    assert done.status in (0, 3, 4), done.err
    return Ran(done, only(log_dir))
