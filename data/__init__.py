"""What is learned and what is forgotten: data sets, splits, loaders on the device, augmentation, confusion."""

from data.augmentation import Augmentation, AugmentationPlan
from data.confusion import CONFUSIONS, corrupt_labels
from data.datasets import DATASETS, Dataset, load_dataset
from data.forget import ForgetRequest, parse_forget, select_forget
from data.loaders import TensorLoader, normalise
from data.pairing import class_weights, match_by_class
from data.splits import Splits, make_splits
from data.streams import CyclingLoader, PairedLoader

__all__ = [
    "CONFUSIONS",
    "DATASETS",
    "Augmentation",
    "AugmentationPlan",
    "CyclingLoader",
    "Dataset",
    "ForgetRequest",
    "PairedLoader",
    "Splits",
    "TensorLoader",
    "class_weights",
    "corrupt_labels",
    "load_dataset",
    "make_splits",
    "match_by_class",
    "normalise",
    "parse_forget",
    "select_forget",
]
