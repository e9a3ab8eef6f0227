"""Device, precision, seeds and the states of random generators."""

import contextlib
import os
import platform
import random
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist

from helper_functions.errors import UserError
from helper_functions.training.compilation import CompileMode
from helper_functions.training.distribution import world_size


def choose_device(name: str = "auto", deterministic: bool = False) -> torch.device:
    """The device called `name`; `auto` takes CUDA, then MPS, then the CPU.

    With several ranks, each has a CUDA device of its own, or all share the CPU. `deterministic`: from now on, an
    operation of this process gives the same bits again or raises an error.
    """
    if deterministic:
        # cuBLAS reads this variable when it starts, which is later.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
        torch.backends.cudnn.deterministic, torch.backends.cudnn.benchmark = True, False
    if name == "auto":
        mps = torch.backends.mps.is_available() and world_size() == 1
        name = "cuda" if torch.cuda.is_available() else "mps" if mps else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"--device {name}: no such device; use auto, cpu, cuda, cuda:N or mps") from None
    if world_size() > 1 and name != "cpu":
        if name != "cuda":
            remedy = "use auto, cuda or cpu, and each has its own"
            raise UserError(f"--device {name}: several ranks cannot share it; {remedy}")
        number, count = dist.get_node_local_rank(fallback_rank=0), torch.cuda.device_count()
        if number >= count:
            remedy = "start as many ranks, by --nproc_per_node"
            raise UserError(f"--device {name}: this machine has {count} of them; {remedy}")
        torch.cuda.set_device(number)
        return torch.device("cuda", number)
    present = {"cpu": 1, "cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    if (device.index or 0) >= present.get(device.type, 0):
        raise UserError(f"--device {name}: this machine has no such device; use --device auto or --device cpu")
    return device


@dataclass(frozen=True)
class Precision:
    """A device and the dtype that forward passes compute in; weights and optimizer states stay in float32.

    `compile_mode`: of torch.compile, for training passes; None does not compile.
    """

    device: torch.device
    dtype: torch.dtype
    compile_mode: CompileMode | None = None

    def autocast(self) -> contextlib.AbstractContextManager:
        """Context in which matrix products and convolutions run in `dtype`."""
        if self.dtype == torch.float32:
            return contextlib.nullcontext()
        return torch.autocast(self.device.type, self.dtype)


def lacks_determinism(error: RuntimeError) -> str | None:
    """The message for an operation that `--deterministic` does not allow, None for any other error."""
    # PyTorch has no exception class for it.
    operation, found, _ = str(error).partition(" does not have a deterministic implementation")
    if not found and "CUBLAS_WORKSPACE_CONFIG" not in operation:
        return None
    what = f"{operation} has no deterministic form" if found else "CUBLAS_WORKSPACE_CONFIG is not :4096:8 or :16:8"
    return f"--deterministic True: {what} on this device; leave it out, or compute with --device cpu"


def has_bf16(device: torch.device) -> bool:
    """Whether the device computes in bfloat16 by hardware."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def choose_precision(device: torch.device, name: str = "auto", compile_mode: CompileMode | None = None) -> Precision:
    """`fp32`, `bf16`, or `auto`: bf16 where the hardware has it."""
    if name == "auto":
        name = "bf16" if has_bf16(device) else "fp32"
    return Precision(device, {"fp32": torch.float32, "bf16": torch.bfloat16}[name], compile_mode)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and PyTorch's generators on all devices."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def describe_environment(device: torch.device) -> dict:
    """Versions and hardware, which belong beside every published figure."""
    import torchvision

    cpu = platform.processor() or platform.machine()
    with contextlib.suppress(FileNotFoundError), open("/proc/cpuinfo") as lines:
        cpu = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), cpu)
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else device.type,
        "cpu": cpu,
        "cpu_threads": torch.get_num_threads(),
    }


@contextlib.contextmanager
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Inside, the generators of the CPU and of `device` start from `seed`; their states are restored afterwards."""
    mps = torch.mps.get_rng_state() if device.type == "mps" else None
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.default_generator.manual_seed(seed)
        if device.type == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif device.type == "mps":
            torch.mps.manual_seed(seed)
        try:
            yield
        finally:
            if mps is not None:
                torch.mps.set_rng_state(mps)


def generator_states() -> dict:
    """The states of Python's, NumPy's and PyTorch's generators, as plain values that a checkpoint can hold."""
    version, numbers, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    states = {
        "python": (version, torch.tensor(numbers), gauss),
        "numpy": (name, torch.from_numpy(keys.astype(np.int64)), position, has_gauss, cached),
        "cpu": torch.get_rng_state(),
    }
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        states["cuda"] = torch.cuda.get_rng_state()
    if torch.backends.mps.is_available():
        states["mps"] = torch.mps.get_rng_state()
    return states


def restore_generators(states: dict) -> None:
    """Inverse of `generator_states`; states of devices that are absent here are ignored."""
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers.tolist()), gauss))
    name, keys, *rest = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(states["cpu"])
    if "cuda" in states and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"])
    if "mps" in states and torch.backends.mps.is_available():
        torch.mps.set_rng_state(states["mps"])
