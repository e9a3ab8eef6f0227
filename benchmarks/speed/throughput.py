"""Images a second of our steps and of the same steps as they are usually written, measured side by side.

    python -m benchmarks.speed.throughput --data_dir data/cifar100 --output throughput.json
    python -m benchmarks.speed.throughput --batch_sizes 128 512 1024
    python -m benchmarks.speed.throughput --pairs 2 --steps 1

torchvision's ResNet-18, 32 x 32 images, 100 classes. Ours and the plain way (see `benchmarks.speed.plain`) take turns,
so that a slower machine slows both; a ratio is that of two neighbours. MFU, model FLOP utilisation, is the share of a
matrix product's rate, in the same dtype and in turns with ours, at which the operations of our step are done.
"""

import dataclasses
import statistics
import sys
from collections.abc import Callable, Sequence
from functools import partial
from operator import truediv
from pathlib import Path
from typing import Literal

import PIL
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # where this file is run by its path

from benchmarks.speed.bench import JOBS, Bench, Pair, images_from
from benchmarks.speed.utilisation import matrix_product
from data.augmentation import Augmentation
from data.image_sets import ImageSets
from data.splits import make_splits
from helper_functions.config import PositiveInt, ScriptParser, run_script
from helper_functions.errors import UserError
from helper_functions.files import check_new_file, write_json
from helper_functions.training.devices import choose_device, choose_precision, describe_environment
from helper_functions.training.peak_memory import peak_memory, release_memory, reset_peak_memory

GIB = 2**30


@dataclasses.dataclass
class Args:
    """Flags of benchmarks.speed.throughput."""

    data_dir: str = "data/cifar100"
    """Folder of CIFAR-100; where it is absent, the images are random ones of the same shape."""
    batch_sizes: list[PositiveInt] = dataclasses.field(default_factory=lambda: [128])
    """Images in a batch; the constrained step takes as many forget images and as many retain images."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of ours; auto is bf16 where the hardware has it. The plain way is fp32."""
    pairs: PositiveInt = 5
    """Measurements of ours and of the plain way, in turns."""
    steps: PositiveInt = 10
    """Gradient steps in a measurement with the first batch size, of the same images with the others; evaluation takes
    4, the loader 40 batches for each."""
    device: str = "auto"
    """auto takes CUDA, then MPS, then the CPU; or cpu, cuda, cuda:N, mps."""
    output: str | None = None
    """JSON file to write, in a folder that exists; a file that exists is not overwritten."""


def get_parser() -> ScriptParser:
    """The command line of this script."""
    return ScriptParser(Args, "benchmarks.speed.throughput", __doc__)


def in_turns(measures: Sequence[Callable[[], float]], rounds: int, device: torch.device) -> list[tuple]:
    """Call measures in turns; for each its values, `rounds` of them, and the peak of memory in bytes in its turns."""
    values, peaks = [[] for _ in measures], [0 for _ in measures]
    release_memory()
    for _ in range(rounds):
        for number, measure in enumerate(measures):
            reset_peak_memory(device)
            values[number].append(measure())
            peaks[number] = max(peaks[number], peak_memory(device))
    return list(zip(values, peaks, strict=True))


def measure(name: str, job: Callable[[Bench], Pair], bench: Bench, pairs: int) -> dict:
    """Time one job both ways in turns; prints its row, gives medians, ranges, utilisation and memory."""
    ours, other = job(bench)
    turns = in_turns([ours, other, partial(matrix_product, bench.precision)], pairs, bench.precision.device)
    (our_rates, our_memory), (rates, memory), (products, _) = turns
    flops = ours.flops_per_image()
    columns = {
        "ours": our_rates, "plain": rates, "ratio": list(map(truediv, our_rates, rates)),
        "utilisation": [flops * rate / product for rate, product in zip(our_rates, products, strict=True)],
        "peak_flops": products,
    }  # fmt: skip
    medians = {key: statistics.median(values) for key, values in columns.items()}
    ranges = {key: [min(values), max(values)] for key, values in columns.items()}
    row = f"{name:<12}"
    for key, form in {"ours": ",.0f", "plain": ",.0f", "ratio": ".2f"}.items():
        low, high = ranges[key]
        row += f"{f'{medians[key]:{form}} [{low:{form}}-{high:{form}}]':>25}"
    used = f"{100 * medians['utilisation']:.1f} %" if flops else "-"
    print(f"{row}{used:>10}{our_memory / GIB:>10.2f}{memory / GIB:>10.2f}", flush=True)
    costs = {"flops_per_image": flops, "ours_memory_bytes": our_memory, "plain_memory_bytes": memory}
    return {"name": name, **medians, **costs, "ranges": ranges}


def measure_all(bench: Bench, dataset: str, pairs: int) -> dict:
    """All jobs with one batch size, as a table."""
    asked = f"batches of {bench.batch_size}, median [range] of {pairs} pairs of {bench.steps} steps"
    print(f"images/s of {dataset}, {asked}; GiB at the peak, on the device or of the process without its workers")
    print(f"{'':<12}{'ours':>25}{'plain':>25}{'ratio':>25}{'MFU':>10}{'GiB ours':>10}{'GiB plain':>10}")
    return {"batch_size": bench.batch_size, "pairs": [measure(*job, bench, pairs) for job in JOBS.items()]}


def main(args: Args) -> dict:
    """Measure every job; returns what the JSON file holds."""
    check_new_file("output", args.output)
    device = choose_device(args.device)
    precision = choose_precision(device, args.precision)
    if not args.batch_sizes:
        raise UserError("--batch_sizes is empty; give at least one, such as 128")
    dataset = images_from(args.data_dir)
    splits = make_splits(dataset, "random:0.1")
    most, name = min((len(getattr(splits, name)), name) for name in ("forget", "unseen"))
    if max(args.batch_sizes) > most:
        raise UserError(f"--batch_sizes {max(args.batch_sizes)}: the {name} set has {most} images; give at most {most}")
    sets = ImageSets(dataset, splits, Augmentation(), device, seed=0)
    bench = Bench(sets, precision, args.batch_sizes[0], args.steps)

    first, *further = (measure_all(bench.resized(size), dataset.name, args.pairs) for size in args.batch_sizes)
    result = {**first, "further": further}
    environment = {**describe_environment(device), "pillow": PIL.__version__, "our_dtype": str(precision.dtype)}
    print(", ".join(f"{key} {value}" for key, value in environment.items()))
    result |= {"environment": environment, "settings": dataclasses.asdict(args)}
    if args.output is not None:
        write_json(args.output, result)
    return result


if __name__ == "__main__":
    sys.exit(run_script(get_parser, main))
