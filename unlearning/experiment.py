"""What a script works on, from its arguments: device, data set, splits, loaders, and classifiers."""

import dataclasses
from pathlib import Path
from typing import Any

import torch
from torch import nn

from data.arguments import DataArgs, augmentation_from, dataset_from
from data.exclusion import exclude
from data.forget import BY_NAME, GRAMMAR, parse_forget
from data.image_sets import ImageSets
from data.preprocessing import as_flags
from data.split_record import OPTIONAL, PARTS, Splits
from data.splits import make_splits
from helper_functions.config import RunArgs
from helper_functions.errors import UserError
from helper_functions.metrics import summarise
from helper_functions.safe_files.printable import printable
from helper_functions.training.devices import choose_device, choose_precision, seed_everything
from helper_functions.training.distribution import from_main, say
from helper_functions.training.inference import predict
from helper_functions.training.spread import share_batch_norm
from models.classifiers import get_model, has_stem
from models.trainable import set_trainable
from models.weight_files import WeightFile, check_weight_file, read_weight_file
from models.weights import infer_stem, load_weights
from unlearning.arguments import UnlearnArgs, batch_sizes, finetune_batch_sizes

# Of data sets that serve comparisons; nobody withdraws a random tenth of his own pictures.
DEFAULT_FORGET = "random:0.1"
TARGETS = {
    "random": "unseen", "long_tailed": "unseen", "file": "unseen", "group": "unseen", "requests": "unseen",
    "class": "zero", "superclass": "zero", "mislabelled": "chance",
}  # fmt: skip


class Experiment:
    """Data and models of one run; UserError, before anything is written, for a request that cannot be met.

    Args:
        args: an instance of a script's `Args`, with the fields of `ComputeArgs`, `DataArgs` and `ModelArgs`.
        weight_path: weights that the run starts from; the splits.npz beside them is used again, and where there is
            none, they are taken to have been trained elsewhere.
        must_forget: whether a forget set is needed.
        following: whether the forget set beside these weights has been asked for, and another one is now.
        again: whether it was not forgotten, and joins the other one.
        with_copies: whether copies of forget images are forgotten as well.
        excluded: file of hashes of pictures that are in no part.
    """

    def __init__(
        self, args: DataArgs, weight_path: str | None = None, *, must_forget: bool = False, following: bool = False,
        again: bool = False, with_copies: bool = False, excluded: str | None = None,
    ) -> None:  # fmt: skip
        self.args = args
        self.trains = isinstance(args, RunArgs)
        # Of the weight files that were read, by path.
        self.forms: dict[str, WeightFile] = {}
        # Of the first model, the original, which others follow.
        self.stem: str | None = None
        mode = None
        if self.trains:
            if args.compile_mode != "default" and not args.compile:
                raise UserError(f"--compile_mode {args.compile_mode}: nothing is compiled; give --compile beside it")
            mode = args.compile_mode if args.compile else None
        self.precision = choose_precision(choose_device(args.device, args.deterministic), args.precision, mode)
        # Before the data set, which takes longer to load.
        if weight_path is not None:
            check_weight_file(weight_path)
        # These need the pictures of a run that may have overwritten some since.
        whole = any(getattr(args, name, None) is not None for name in ("resume", "dial", "splits"))
        self.dataset = dataset_from(args, whole)
        self.size_stated = args.image_size is not None
        # What was not stated is recorded as well.
        self.args = args = dataclasses.replace(args, **self.dataset.preprocessing.stated())
        self.splits = from_main(
            lambda: self._splits(weight_path, must_forget, following, again, with_copies, excluded)
        )
        augmentation = augmentation_from(args, self.dataset)
        self.sets = ImageSets(
            self.dataset, self.splits, augmentation, self.precision.device, args.seed, args.data_on_device
        )

    def _splits(
        self, weight_path: str | None, must_forget: bool, following: bool, again: bool, with_copies: bool,
        excluded: str | None,
    ) -> Splits:  # fmt: skip
        args = self.args
        # A resumed run keeps its own splits, even if the lists and weights that it began with are gone.
        own = Path(args.resume) / "splits.npz" if self.trains and args.resume is not None else None
        if own is not None and own.is_file():
            return Splits.load(own, self.dataset)
        beside = Path(weight_path).with_name("splits.npz") if weight_path is not None else None
        listed = args.validation.startswith("file:") and not following
        path = args.splits or (beside if beside is not None and beside.is_file() and not listed else None)
        gone = following and not again
        previous = Splits.load(path, self.dataset, forget_may_lack=gone) if path is not None else None
        if following:
            previous = previous.following(again=again)
        if args.requests is not None and args.forget is not None:
            raise UserError(f"--requests {args.requests}: --forget {args.forget} is another forget set; give one")
        forget = args.forget if args.requests is None else f"requests:{args.requests}"
        if forget is None and must_forget and (previous is None or not previous.forget_request):
            if self.dataset.name == "imagefolder":
                raise UserError(f"--forget: name what to forget, such as {GRAMMAR}")
            forget = DEFAULT_FORGET
        if forget is None and with_copies and previous is not None:
            forget = previous.forget_request
        splits = make_splits(
            self.dataset, forget, validation=args.validation, test=args.test, seed=args.seed,
            confusion=args.confusion, foreign=weight_path is not None and previous is None, previous=previous,
            with_copies=with_copies, groups=args.groups, subset=args.subset,
        )  # fmt: skip
        return splits if excluded is None else exclude(splits, self.dataset, excluded)

    def model(self, weight_path: str | None = None, name: str | None = None) -> nn.Module:
        """The classifier that the arguments ask for, or the one called `name`, with weights from a file or the seed.

        Raises UserError where there is no such architecture, or weights cannot be read or do not fit.
        """
        seed_everything(self.args.seed)
        args, dataset = self.args, self.dataset
        name = name or args.model
        weights, form = ({}, None) if weight_path is None else read_weight_file(weight_path)
        # A student's architecture may have no stem to choose.
        stem = args.stem if name == args.model or has_stem(name) else "imagenet"
        if stem == "auto":
            stem = (infer_stem(weights) or self.stem if has_stem(name) else None) or "imagenet"
        model = get_model(name, dataset.num_classes, dataset.in_channels, stem, args.width, dataset.image_size)
        self.stem = self.stem or infer_stem(model.state_dict())
        if form is not None:
            form = load_weights(model, weights, form, weight_path, name)
            if form.matched and weight_path not in self.forms:
                say(f"weights  {weight_path}: {form.matched}")
            self.forms[weight_path] = form
        if self.trains:
            if args.sync_bn:
                share_batch_norm(model)
            set_trainable(model, args.trainable)
        return model.to(self.precision.device)

    def retrained(self, weight_path: str) -> nn.Module:
        """The retrained model from a file; UserError where splits beside it leave another forget set out."""
        beside = Path(weight_path).with_name("splits.npz")
        if beside.is_file():
            theirs = Splits.load(beside, self.dataset)
            if not torch.equal(theirs.retain, self.splits.retain):
                raise UserError(f"--retrained_weight_path {weight_path}: it was trained without another forget set")
        return self.model(weight_path)

    def validation_figures(self, model: nn.Module) -> dict[str, float]:
        """Validation top-1 and top-5 in percent and loss, for the table of epochs."""
        logits, labels = predict(model, self.sets.evaluation(self.splits.validation), self.precision)
        return {f"validation/{name}": value for name, value in summarise(logits, labels).items()}

    def withdrawn(self) -> list[str]:
        """Names of the pictures that are to be overwritten in the file of pixels."""
        if self.dataset.pixel_file is None or parse_forget(self.splits.forget_request).kind not in BY_NAME:
            return []
        return [self.dataset.file_names[image] for image in self.splits.forget.tolist()]

    def seen(self) -> dict[str, Any]:
        """What the model sees: architecture, folder, order of the classes, and all of the preprocessing."""
        names = ("model", "stem", "width", "data_dir", "class_order")
        stated = dataclasses.asdict(self.dataset.preprocessing)
        shape = {"image_size": [*self.dataset.image_size], "channels": self.dataset.in_channels}
        return {name: getattr(self.args, name) for name in names} | stated | shape

    def describe(self) -> str:
        """Data set and its parts, preprocessing, forget set, and model with its device, a line each."""
        splits = self.splits
        parts = (*PARTS, OPTIONAL) if len(splits.forgotten) else PARTS
        sizes = ", ".join(f"{name} {len(getattr(splits, name)):,}" for name in parts)
        device, dtype = self.precision.device, str(self.precision.dtype).removeprefix("torch.")
        forget = printable(splits.forget_request) or "nothing"
        by = f", {self.dataset.num_classes} superclasses" * bool(self.dataset.subclasses)
        data = f"{self.dataset.name}{by}: {sizes} ({splits.final_test})"
        stated = {
            name: [f"{each:.4g}" for each in value] if name in ("mean", "std") else value
            for name, value in self.dataset.preprocessing.stated().items() if name not in ("image_size", "channels")
        }  # fmt: skip
        shape = " x ".join(map(str, (self.dataset.in_channels, *self.dataset.image_size)))
        seen = f"{shape}, {printable(as_flags(stated))}"
        model = f"{printable(self.args.model)} on {device}, {dtype}"
        return f"data     {data}\ninput    {seen}\nforget   {forget}\nmodel    {model}"

    def target(self, name: str) -> str:
        """The forget target called `name`, or the one that fits the forget set for `auto`.

        Raises UserError for `auto` and classes that go beside subclasses of such that stay.
        """
        found = TARGETS[parse_forget(self.splits.forget_request).kind] if name == "auto" else name
        if name != "auto" or found != "zero" or not self.dataset.subclasses:
            return found
        labels, splits = self.dataset.labels, self.splits
        # A class whose other subclasses stay goes on being predicted.
        stays = torch.isin(labels[splits.forget], labels[splits.retain])
        if stays.any() and not stays.all():
            raise UserError(f"--forget {splits.forget_request}: whole classes and parts of others have other targets; "
                            "forget one after the other, or give --forget_target")  # fmt: skip
        return "unseen" if stays.any() else "zero"

    def loaders(self, args: UnlearnArgs, *, augment: bool = False) -> dict:
        """Loaders for unlearning by name; forget and retain shuffled, augmented where it is asked for.

        Constrained methods ask for none: the budget is on images as they are. Measured on augmented ones, the fall is
        another one, and so is the price of forgetting. Their fine-tuning learns from augmented ones, in batches like
        those of training.
        """
        splits, sets = self.splits, self.sets
        forget, retain = batch_sizes(args, len(splits.forget), self.dataset.num_classes)
        finetune_forget, finetune_retain = finetune_batch_sizes(args, len(splits.retain))
        return {
            "retain": sets.training(splits.retain, retain, augment=augment, stream=1),
            "forget": sets.training(splits.forget, forget, augment=augment, stream=2),
            "finetune_retain": sets.training(splits.retain, finetune_retain, augment=True, stream=3),
            "finetune_forget": sets.training(splits.forget, finetune_forget, augment=False, stream=4),
            "unseen": sets.evaluation(splits.unseen),
            "validation": sets.evaluation(splits.validation),
        }
