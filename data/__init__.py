"""Data sets, splits, forget sets, loaders on the device, augmentation, and label corruption."""

from data.augmentation import Augmentation
from data.datasets import DATASETS, Dataset, load_dataset
from data.forget import CONFUSIONS, ForgetRequest, corrupt_labels, parse_forget, select_forget
from data.loaders import TensorLoader, normalise
from data.partition import class_weights, match_by_class
from data.splits import Splits, make_splits
from data.streams import CyclingLoader, PairedLoader

__all__ = [
    "CONFUSIONS", "DATASETS", "Augmentation", "CyclingLoader", "Dataset", "ForgetRequest", "PairedLoader", "Splits",
    "TensorLoader", "class_weights", "corrupt_labels", "load_dataset", "make_splits", "match_by_class", "normalise",
    "parse_forget", "select_forget",
]  # fmt: skip
