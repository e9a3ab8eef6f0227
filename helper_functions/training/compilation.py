"""torch.compile for the forward passes of training, and plain ones where it cannot be had."""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
# Kinds of passes for which there is a graph of its own: modes, sizes of batches, with and without gradient. Beyond
# torch's own limit of 8 the rest would run as it is, without a word.
MOST_GRAPHS = 64


def compiled(model: nn.Module, mode: CompileMode, inputs: Tensor) -> nn.Module:
    """The model through torch.compile, or the model itself, and a line that says why, where that is not possible.

    Not possible: there is no compiler, or it does not know an operation. The model keeps its parameters and the names
    that they have; what is given back shares them.

    Args:
        model: whose forward pass is compiled, and the backward pass with it.
        mode: of torch.compile; the last two record CUDA graphs on a GPU.
        inputs: a batch, `[B, ...]`, to try it on.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
    # Tried on a copy: a pass that fails half-way, or in its backward pass, would leave its traces.
    trial = torch.compile(copy.deepcopy(model), mode=mode, dynamic=False)
    try:
        total = trial(inputs).float().sum()
        if total.requires_grad:
            total.backward()
    except Exception as error:  # of many kinds: the tracer's, the backend's, a compiler's that is not there
        reason = " ".join(str(error).split())[:100]
        print(f"compile  not possible, the model runs as it is ({type(error).__name__}: {reason})", flush=True)
        return model
    return torch.compile(model, mode=mode, dynamic=False)


class Compiled:
    """Forward passes of a model, `compiled` at the first of them."""

    def __init__(self, model: nn.Module, mode: CompileMode) -> None:
        self.model, self.mode = model, mode
        self.ready: nn.Module | None = None

    def __call__(self, inputs: Tensor) -> Tensor:
        if self.ready is None:
            self.ready = compiled(self.model, self.mode, inputs)
        outputs = self.ready(inputs)
        # A CUDA graph writes its outputs to the same place each time, and another model's pass may come before they
        # are used.
        return outputs if self.mode == "default" else outputs.clone()
