"""torch.compile for the forward passes of training, with the plain model as fallback."""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

CompileMode = Literal["default", "reduce-overhead", "max-autotune"]
# Graphs of one model: by mode, batch size, with and without gradient. Beyond torch's own limit of 8, further graphs
# would run uncompiled without a message.
MOST_GRAPHS = 64


def compiled(model: nn.Module, mode: CompileMode, inputs: Tensor) -> nn.Module:
    """The model compiled by torch.compile; the model itself, and one line of output, where that fails.

    It fails without a compiler, or with an operation that the compiler does not support. The result shares the model's
    parameters, whose names stay. It is tried on a batch `inputs`, `[B, ...]`.
    """
    torch._dynamo.config.recompile_limit = max(torch._dynamo.config.recompile_limit, MOST_GRAPHS)
    # Tried on a copy, since a pass that fails half-way changes buffers and gradients.
    trial = torch.compile(copy.deepcopy(model), mode=mode, dynamic=False)
    try:
        total = trial(inputs).float().sum()
        if total.requires_grad:
            total.backward()
    except Exception as error:  # of the tracer, the backend, or a missing compiler
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
        # A CUDA graph reuses the memory of its outputs, and another model's pass may come before they are used.
        return outputs if self.mode == "default" else outputs.clone()
