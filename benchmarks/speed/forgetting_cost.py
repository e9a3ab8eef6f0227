"""What one pass of constrained unlearning costs in one setting: unlearning and evaluation apart."""

import dataclasses
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.speed.utilisation import clock, flops_of
from data.datasets import Dataset
from data.loaders import TensorLoader
from data.random_streams import random_state
from helper_functions.training.devices import Precision, seed_everything
from models import get_model
from optimizer.training import Recipe, fit_classifier
from unlearning.arguments import MethodArgs
from unlearning.evaluator import Evaluator
from unlearning.run import UnlearningRun

BATCH_SIZE = 128
HELD_OUT = 500  # unseen images, and as many for validation, in every setting
LEARNED = 20 * BATCH_SIZE  # images that an original is trained on: enough for sound weights, and not measured


@dataclasses.dataclass(frozen=True)
class Setting:
    """Sizes of one measurement: images to forget, out of how many, of how many classes, and the model's."""

    forget: int
    images: int
    classes: int
    model: str
    width: int


class Unrecorded:
    """A run's record that keeps nothing, so that no time goes into writing files."""

    def __getattr__(self, name: str) -> Any:
        return lambda *arguments: None


class TimedEvaluator(Evaluator):
    """An evaluator that adds up the time of its measurements in `seconds`."""

    seconds = 0.0

    def __call__(self, *arguments: Any) -> Any:
        return self._timed(super().__call__, *arguments)

    def losses(self, *arguments: Any) -> Tensor:
        """As `Evaluator.losses`."""
        return self._timed(super().losses, *arguments)

    def _timed(self, measure, *arguments: Any) -> Any:
        began = clock(self.precision.device)
        found = measure(*arguments)
        self.seconds += clock(self.precision.device) - began
        return found


class Forgetting:
    """Runs one pass of the method `constrained` on subsets of a data set, drawn by `seed`."""

    def __init__(self, dataset: Dataset, precision: Precision, seed: int) -> None:
        self.dataset, self.precision, self.seed = dataset, precision, seed
        self.images, self.labels = dataset.images.to(precision.device), dataset.labels.to(precision.device)
        self.original = cache(self._original)

    def cost(self, setting: Setting) -> dict[str, float]:
        """The cost of one pass; evaluation measures the original before and the model after it."""
        device, learned = self.precision.device, self._shuffled(setting.classes, test=False)[: setting.images]
        held_out = self._shuffled(setting.classes, test=True)
        loaders = {
            "forget": self._loader(learned[: setting.forget], shuffle=True),
            "retain": self._loader(learned[setting.forget :], shuffle=True),
            "unseen": self._loader(held_out[:HELD_OUT]),
            "validation": self._loader(held_out[HELD_OUT : 2 * HELD_OUT]),
        }
        model = self._model(setting)
        weights, flops = self.original(dataclasses.replace(setting, forget=0, images=LEARNED))
        model.load_state_dict(weights)

        began = clock(device)
        run = UnlearningRun(
            model, loaders, MethodArgs(num_epochs=1, finetune_num_epochs=0), "unseen", "constrained", self.precision,
            Unrecorded(), self.seed,
        )  # fmt: skip
        evaluated = clock(device)
        run.evaluator.__class__ = TimedEvaluator
        run.run()
        ended = clock(device)
        return {
            "gradient_steps": run.cost.gradient_steps,
            "gradient_images": run.cost.images,
            "unlearning_seconds": ended - evaluated - run.evaluator.seconds,
            "evaluation_seconds": evaluated - began + run.evaluator.seconds,
            "forward_flops": flops,
        }

    def _original(self, setting: Setting) -> tuple[dict[str, Tensor], int]:
        """Weights of a model after one short epoch, and operations of its forward pass of one image."""
        model = self._model(setting)
        loader = self._loader(self._shuffled(setting.classes, test=False)[: setting.images], shuffle=True)
        fit_classifier(model, loader, Recipe(num_epochs=1), self.precision, Unrecorded())
        model.eval()
        inputs, _ = next(iter(loader))
        with torch.no_grad():
            _, flops = flops_of(lambda: model(inputs[:1]))
        return model.state_dict(), flops

    def _model(self, setting: Setting) -> nn.Module:
        seed_everything(self.seed)
        model = get_model(setting.model, setting.classes, width=setting.width)
        return model.to(self.precision.device, memory_format=torch.channels_last)

    def _shuffled(self, classes: int, test: bool) -> Tensor:
        """Images of the first classes in an order of the seed: int64 indices."""
        first, end = (self.dataset.num_train, len(self.labels)) if test else (0, self.dataset.num_train)
        indices = torch.arange(first, end)[self.dataset.labels[first:end] < classes]
        return indices[torch.from_numpy(random_state(self.seed, "growth").permutation(len(indices)))]

    def _loader(self, indices: Tensor, shuffle: bool = False) -> TensorLoader:
        return TensorLoader(
            self.images, self.labels, indices, min(BATCH_SIZE, len(indices)), mean=self.dataset.mean,
            std=self.dataset.std, shuffle=shuffle, seed=self.seed, device=self.precision.device,
        )  # fmt: skip
