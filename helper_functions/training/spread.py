"""Forward passes that ranks share: each computes a part of the batch, and every rank gets all outputs."""

import contextlib
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from helper_functions.training.batch_norm import average_running_statistics, no_running_stats_update
from helper_functions.training.compilation import Compiled, CompileMode, compiled
from helper_functions.training.devices import seeded
from helper_functions.training.distribution import rank, world_size
from helper_functions.training.shares import own_part, shared_pass, split_sizes, whole

# Fewest images of a rank in a shared pass: a single image with a feature map of one pixel has no variance.
FEWEST = 2


def spread(model: nn.Module, mode: CompileMode | None = None) -> Callable[[Tensor], Tensor]:
    """A model's forward pass `[B, ...]` to `[B, K]`, computed by all ranks together; the model itself for one process.

    Every rank passes the same whole batch and gets the outputs of all of it, so losses, constraints and multipliers are
    the same on all ranks, whatever their form. After a backward pass every rank has the gradient of the whole batch.
    `mode` compiles the pass by torch.compile.
    """
    if world_size() > 1:
        return _Spread(model, mode)
    return model if mode is None else Compiled(model, mode)


class _Spread:
    def __init__(self, model: nn.Module, mode: CompileMode | None) -> None:
        self.model, self.mode = model, mode
        self.synchronised: DistributedDataParallel | None = None
        self.learning: list[bool] = []

    def __call__(self, inputs: Tensor) -> Tensor:
        sizes = split_sizes(len(inputs), world_size()) if len(inputs) >= FEWEST * world_size() else None
        part = inputs if sizes is None else inputs[own_part(sizes)]
        number = 0 if sizes is None else rank()
        draws = _draws_of_its_own(number, inputs.device) if self.model.training else contextlib.nullcontext()
        with shared_pass(sizes), draws:
            outputs = whole(self._forward(part)(part))
        if sizes is not None:
            average_running_statistics(self.model)
        return outputs

    def _forward(self, part: Tensor) -> nn.Module:
        """The model; for a pass with gradient, wrapped so that gradients are averaged over ranks."""
        learning = [parameter.requires_grad for parameter in self.model.parameters()]
        if not (torch.is_grad_enabled() and any(learning)):
            return self.model
        if learning != self.learning:
            self.learning, self.synchronised = learning, self._synchronise(part)
        return self.synchronised

    def _synchronise(self, part: Tensor) -> DistributedDataParallel:
        with no_running_stats_update(self.model):
            outputs = self.model(part).float().sum()
        parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        gradients = torch.autograd.grad(outputs, parameters, allow_unused=True)
        forward_pass = self.model if self.mode is None else compiled(self.model, self.mode, part)
        with warnings.catch_warnings():
            # Newer versions of torch rename `broadcast_buffers`.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(
                forward_pass,
                device_ids=[part.device] if part.device.type == "cuda" else None,
                broadcast_buffers=False,
                find_unused_parameters=any(gradient is None for gradient in gradients),
            )


@contextlib.contextmanager
def _draws_of_its_own(number: int, device: torch.device) -> Iterator[None]:
    """Inside, dropout differs by rank; afterwards torch's generators are the same on all ranks.

    A pass that draws nothing does not change them.
    """
    before = torch.get_rng_state()
    with seeded(int(torch.randint(2**31, ())) + number, device):
        first = _states(device)
        yield
        drew = _states(device) != first
    if not drew:
        torch.set_rng_state(before)


def _states(device: torch.device) -> list[bytes]:
    states = [torch.get_rng_state(), *([torch.cuda.get_rng_state(device)] if device.type == "cuda" else [])]
    return [state.numpy().tobytes() for state in states]
