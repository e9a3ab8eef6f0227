"""Forward passes that ranks share: each computes a part of the batch, and every rank gets all outputs."""

import contextlib
import operator
import warnings
from collections.abc import Callable, Iterator
from functools import partialmethod

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel
from torch.utils._pytree import tree_map

from helper_functions.errors import UserError
from helper_functions.training.batch_norm import batch_norm_layers, no_running_stats_update
from helper_functions.training.compilation import Compiled, CompileMode, compiled
from helper_functions.training.devices import seeded
from helper_functions.training.distribution import rank, world_size

PLAIN = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# Fewest images of a rank in a shared pass: a single image with a feature map of one pixel has no variance.
FEWEST = 2
# How many rows of each joined batch each rank computes in the current forward pass; None: each computes all of them.
_parts: list[list[int]] | None = None


def spread(model: nn.Module, mode: CompileMode | None = None) -> Callable[[Tensor], Tensor]:
    """A model's forward pass `[B, ...]` to `[B, K]`, computed by all ranks together; the model itself for one process.

    Every rank passes the same whole batch, or its rows of it as `SharedRows`, and gets the outputs of all of it, so
    losses, constraints and multipliers are the same on all ranks, whatever their form. After a backward pass every rank
    has the gradient of the whole batch. `mode` compiles the pass by torch.compile.
    """
    if world_size() > 1:
        return _Spread(model, mode)
    return model if mode is None else Compiled(model, mode)


def split_sizes(count: int, ranks: int) -> list[int]:
    """How many of `count` rows each rank computes: sizes differ by at most one, the larger parts first."""
    return [count // ranks + (number < count % ranks) for number in range(ranks)]


def own_rows(count: int) -> slice | None:
    """Which rows of a batch this rank makes; None: all of them, where it is alone or the batch is too small."""
    ranks = world_size()
    if ranks == 1 or count < FEWEST * ranks:
        return None
    sizes = split_sizes(count, ranks)
    return slice(sum(sizes[: rank()]), sum(sizes[: rank() + 1]))


def _on_whole(rows: "SharedRows", operation: Callable[[Tensor, object], Tensor], other: object) -> Tensor:
    return operation(rows.whole(), other.whole() if isinstance(other, SharedRows) else other)


class SharedRows:
    """A batch `[B, ...]` of which this rank holds the rows that it makes, `own_rows`, and the other ranks the rest.

    Batches that are joined by `torch.cat` stay so. All else that a tensor can do is done with the whole batch, which
    every rank gathers then.
    """

    def __init__(self, own: Tensor, parts: list[list[int]]) -> None:
        self.own, self.parts = own, parts

    @classmethod
    def of(cls, own: Tensor, count: int) -> "SharedRows":
        """From this rank's rows of a batch of so many."""
        return cls(own, [split_sizes(count, world_size())])

    def __len__(self) -> int:
        return sum(map(sum, self.parts))

    @property
    def shape(self) -> torch.Size:
        """Of the whole batch."""
        return torch.Size((len(self), *self.own.shape[1:]))

    @property
    def device(self) -> torch.device:
        """Of the rows."""
        return self.own.device

    def to(self, *place, **options) -> "SharedRows":
        """The rows there."""
        return SharedRows(self.own.to(*place, **options), self.parts)

    def whole(self) -> Tensor:
        """The batch, gathered from all ranks; all of them have to ask for it."""
        return _gathered(self.own, self.parts)

    def __getattr__(self, name: str):
        return getattr(self.whole(), name)

    def __getitem__(self, wanted) -> Tensor:
        return self.whole()[wanted]

    # Python looks operators up in the class.
    __add__ = __radd__ = partialmethod(_on_whole, operator.add)
    __mul__ = __rmul__ = partialmethod(_on_whole, operator.mul)
    __sub__ = partialmethod(_on_whole, operator.sub)
    __truediv__ = partialmethod(_on_whole, operator.truediv)

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        if function is torch.cat and not kwargs and len(args) == 1 and all(isinstance(each, cls) for each in args[0]):
            return cls(torch.cat([each.own for each in args[0]]), [part for each in args[0] for part in each.parts])
        args, kwargs = tree_map(lambda each: each.whole() if isinstance(each, cls) else each, (args, kwargs or {}))
        return function(*args, **kwargs)


def whole(rows: Tensor) -> Tensor:
    """The rows `[B, ...]` of the whole batch from those of this rank's part, with their gradient; in a shared pass.

    Outside of one, the rows themselves. The gradient of this rank's rows is multiplied by the number of ranks, since
    DistributedDataParallel averages the gradients over ranks.
    """
    return rows if _parts is None else _Whole.apply(rows, _parts)


def share_batch_norm(model: nn.Module) -> nn.Module:
    """Make every batch-norm layer of the model a `SharedBatchNorm`, in place; names and parameters stay.

    Raises UserError for a layer that does more than batch norm does, such as timm's with an activation.
    """
    for layer in batch_norm_layers(model):
        if type(layer) not in PLAIN:
            raise UserError(f"--sync_bn: a {type(layer).__name__} cannot be shared by ranks; leave --sync_bn out")
        layer.__class__ = SharedBatchNorm
    return model


class _Spread:
    def __init__(self, model: nn.Module, mode: CompileMode | None) -> None:
        self.model, self.mode = model, mode
        self.synchronised: DistributedDataParallel | None = None
        self.learning: list[bool] = []

    def __call__(self, inputs: Tensor) -> Tensor:
        if not isinstance(inputs, SharedRows) and (rows := own_rows(len(inputs))) is not None:
            inputs = SharedRows.of(inputs[rows], len(inputs))
        shared = isinstance(inputs, SharedRows)
        part, number, parts = (inputs.own, rank(), inputs.parts) if shared else (inputs, 0, None)
        draws = _draws_of_its_own(number, inputs.device) if self.model.training else contextlib.nullcontext()
        global _parts
        before, _parts = _parts, parts
        try:
            with draws:
                outputs = whole(self._forward(part)(part))
        finally:
            _parts = before
        if shared:
            _average_running_statistics(self.model)
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
        forward = self.model if self.mode is None else compiled(self.model, self.mode, part)
        devices = [part.device] if part.device.type == "cuda" else None
        unused = any(gradient is None for gradient in gradients)
        with warnings.catch_warnings():
            # Newer versions of torch rename `broadcast_buffers`.
            warnings.simplefilter("ignore", FutureWarning)
            return DistributedDataParallel(forward, devices, broadcast_buffers=False, find_unused_parameters=unused)


class SharedBatchNorm(_BatchNorm):
    """Batch norm that normalises by the whole batch in a pass that ranks share, and plain batch norm in any other.

    Like `nn.SyncBatchNorm`, which refuses CPUs. Input and output [B, C, ...], B this rank's part.
    """

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions."""

    def forward(self, input: Tensor) -> Tensor:
        if _parts is None or not self.training:
            return super().forward(input)
        images = sum(map(sum, _parts))
        count = images * input[0, 0].numel()
        weight = input.new_ones(self.num_features, dtype=torch.float32) if self.weight is None else self.weight
        bias = torch.zeros_like(weight) if self.bias is None else self.bias
        output, mean, variance = _Normalise.apply(input, weight, bias, self.eps, len(input) / images, count)
        if self.track_running_stats:
            self.num_batches_tracked.add_(1)
            factor = 1 / self.num_batches_tracked.item() if self.momentum is None else self.momentum
            self.running_mean.lerp_(mean, factor)
            self.running_var.lerp_(variance * (count / (count - 1)), factor)
        return output

    def of_all_ranks(self, variance: Tensor, mean: Tensor) -> tuple[Tensor, Tensor]:
        """Statistics of the whole batch from those of this rank's rows, with their gradient."""
        if _parts is None:
            return variance, mean
        share = sum(part[rank()] for part in _parts) / sum(map(sum, _parts))
        square, mean = _SumOfRanks.apply(share * torch.stack([variance + mean.square(), mean]))
        return square - mean.square(), mean


class _Normalise(torch.autograd.Function):
    """Ioffe and Szegedy 2015, algorithm 1 and its gradient, with sums over all ranks."""

    @staticmethod
    def forward(ctx, inputs: Tensor, weight: Tensor, bias: Tensor, eps: float, share: float, count: int):
        axes = [axis for axis in range(inputs.dim()) if axis != 1]
        variance, mean = torch.var_mean(inputs.float(), axes, correction=0)
        variances, means, shares = _stacked(torch.stack([variance, mean, torch.full_like(mean, share)])).unbind(1)
        # Elementwise in float32: autocast computes matrix products in half precision.
        mean = (shares * means).sum(0)
        variance = (shares * (variances + (means - mean).square())).sum(0)
        ctx.save_for_backward(inputs, weight, mean, variance)
        ctx.eps, ctx.count = eps, count
        ctx.mark_non_differentiable(mean, variance)
        return F.batch_norm(inputs, mean, variance, weight, bias, eps=eps), mean, variance

    @staticmethod
    def backward(ctx, gradient: Tensor, *_):
        inputs, weight, mean, variance = ctx.saved_tensors
        direct, of_weight, of_bias = torch.ops.aten.native_batch_norm_backward(
            gradient, inputs, weight, mean, variance, None, None, False, ctx.eps, [True, True, True]
        )
        # The gradient through the statistics is linear in the inputs, channel by channel.
        sums = torch.stack([of_weight, of_bias])
        dist.all_reduce(sums)
        slope, offset = sums / ctx.count
        scale = (variance + ctx.eps).rsqrt()
        slope = slope * scale
        offset = offset - slope * mean
        shape = [1, -1, *[1] * (inputs.dim() - 2)]
        slope, offset = ((weight * scale * part).view(shape) for part in (slope, offset))
        through = torch.addcmul(offset, inputs, slope)
        return (direct - through).to(inputs.dtype), of_weight, of_bias, None, None, None


class _SumOfRanks(torch.autograd.Function):
    """A sum over ranks, and of its gradient."""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone()
        dist.all_reduce(total)
        return total

    backward = forward


class _Whole(torch.autograd.Function):
    @staticmethod
    def forward(ctx, rows: Tensor, parts: list[list[int]]) -> Tensor:
        ctx.parts = parts
        return _gathered(rows, parts)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        batches = gradient.split([sum(part) for part in ctx.parts])
        own = [batch.split(part)[rank()] for batch, part in zip(batches, ctx.parts, strict=True)]
        return torch.cat(own) * dist.get_world_size(), None


def _gathered(rows: Tensor, parts: list[list[int]]) -> Tensor:
    """All ranks' rows, batch by batch; without gradient."""
    # Collectives require one shape.
    sizes = [sum(part) for part in zip(*parts, strict=True)]
    padded = rows.new_zeros(max(sizes), *rows.shape[1:])
    padded[: len(rows)] = rows
    held = [found[:size].split(list(of_rank)) for found, size, of_rank in zip(
        _stacked(padded), sizes, zip(*parts, strict=True), strict=True)]  # fmt: skip
    return torch.cat([each for batch in zip(*held, strict=True) for each in batch])


def _stacked(values: Tensor) -> Tensor:
    """Tensors of one shape from all ranks, `[ranks, ...]`, without gradient."""
    found = values.new_empty(dist.get_world_size(), *values.shape)
    dist.all_gather(list(found.unbind()), values.contiguous())
    return found


@torch.no_grad()
def _average_running_statistics(model: nn.Module) -> None:
    """Replace running statistics by their mean over ranks, in layers that normalise by a part of a batch."""
    layers = [layer for layer in batch_norm_layers(model) if not isinstance(layer, SharedBatchNorm)]
    moving = [layer for layer in layers if layer.training and layer.track_running_stats]
    # `data`, since autograd saves them for the backward pass, which does not read them in training mode.
    statistics = [value.data for layer in moving for value in (layer.running_mean, layer.running_var)]
    if not statistics:
        return
    mean = torch.cat(statistics)
    dist.all_reduce(mean)
    mean /= dist.get_world_size()
    torch._foreach_copy_(statistics, list(mean.split([len(value) for value in statistics])))


@contextlib.contextmanager
def _draws_of_its_own(number: int, device: torch.device) -> Iterator[None]:
    """Inside, dropout differs by rank; afterwards generators are equal on all ranks, as before if nothing was drawn."""
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
