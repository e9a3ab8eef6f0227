"""What a rank computes in the tests of `test_distribution`: run as a script with the name of one of its functions.

Rank 0, or the only process, saves what the function gives; ranks whose tensors differ in a bit from its own fail.
"""

import copy
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import torch
from torch import Tensor, nn

sys.path[:0] = map(str, Path(__file__).parents[1:3])

from benchmarks.speed.gathered import CountedPictures  # noqa: E402
from data.augmentation import Augmentation  # noqa: E402
from data.loaders import TensorLoader  # noqa: E402
from data.pictures.fetched import Pictures  # noqa: E402
from data.pixels import channels_last_storage  # noqa: E402
from data.streams import CyclingLoader  # noqa: E402
from helper_functions.files import save_tensors  # noqa: E402
from helper_functions.training.distribution import from_main, process_group, world_size  # noqa: E402
from helper_functions.training.inference import predict  # noqa: E402
from helper_functions.training.spread import share_batch_norm, spread  # noqa: E402
from helpers.method_cases import CPU, network, run, streams  # noqa: E402
from models.features import FeatureTap, classifier_head, predict_features  # noqa: E402
from train_constrained_unlearning import untrain_constrained  # noqa: E402
from unlearning.methods import METHODS  # noqa: E402

Tensors = dict[str, Tensor]
# Equal parts, unequal ones, two images a rank, and fewer than ranks can share.
COUNTS = (8, 7, 4, 3, 1)


class HalfUsed(nn.Module):
    """A linear layer, and one that plays no part."""

    def __init__(self) -> None:
        super().__init__()
        self.used, self.unused = nn.Linear(3, 2), nn.Linear(3, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.used(inputs)


def quantile_loss(logits: Tensor) -> Tensor:
    """No mean over images: a part of the batch does not have a part of it."""
    ordered = logits.flatten(1).sort(0).values
    return (ordered * torch.arange(1, len(logits) + 1)[:, None]).square().mean().sqrt()


def step(model: nn.Module, inputs: Tensor, forward: Callable[[Tensor], Tensor] | None = None) -> Tensors:
    """Logits, gradients and buffers of one pass."""
    model.zero_grad()
    forward = forward or spread(model)
    logits = forward(inputs)
    quantile_loss(logits).backward()
    gradients = {f"gradient {n}": p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {"logits": logits.detach(), **gradients, **dict(model.named_buffers())}


def passes() -> Tensors:
    """Passes over batches of several sizes, with frozen statistics."""
    model, found = network().eval(), {}
    for count in COUNTS:
        inputs = torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))
        found |= {f"{count} {name}": value.clone() for name, value in step(model, inputs).items()}
    return found


def changing_layers() -> Tensors:
    """Layers that are frozen between two passes of one forward, and a model that does not use all of its weights."""
    model = network().eval()
    forward = spread(model)
    inputs = torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    found = {f"all {name}": value.clone() for name, value in step(model, inputs, forward).items()}
    model[0].requires_grad_(False)
    found |= {f"some {name}": value.clone() for name, value in step(model, inputs, forward).items()}
    torch.manual_seed(0)
    half = HalfUsed()
    forward = spread(half)
    for number in range(3):
        used = step(half, inputs[:, 0, number, :3], forward)
        found |= {f"half {number} {name}": value.clone() for name, value in used.items()}
    return found


def batch_norms() -> Tensors:
    """Batch norm by the whole batch, of images and of vectors, with and without weights, momentum and statistics."""
    torch.manual_seed(0)
    found = {}
    kinds = {
        "plain": nn.BatchNorm2d(4), "bare": nn.BatchNorm2d(4, affine=False), "mean": nn.BatchNorm2d(4, momentum=None),
        "untracked": nn.BatchNorm2d(4, track_running_stats=False), "vectors": nn.BatchNorm1d(4),
    }  # fmt: skip
    for name, layer in kinds.items():
        for parameter in layer.parameters():
            nn.init.uniform_(parameter, 0.5, 1.5)
        model = share_batch_norm(nn.Sequential(nn.Linear(3, 3), layer))
        forward = spread(model)
        for count in COUNTS[:-1]:
            generator = torch.Generator().manual_seed(count)
            shape = (count, 4, 3) if name == "vectors" else (count, 4, 5, 3)
            # A mean that is far from 0, where sums of squares would lose all digits.
            inputs = 100 + torch.randn(shape, generator=generator)
            found |= {f"{name} {count} {key}": value.clone() for key, value in step(model, inputs, forward).items()}
    return found


def rows() -> Tensors:
    """Batches of loaders, some of them joined."""
    images = torch.randint(256, (40, 3, 6, 6), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    found = {}
    for name, source in (("memory", images), ("fetched", Pictures(channels_last_storage(images)))):
        streams = [
            CyclingLoader(TensorLoader(
                source, torch.arange(40), torch.arange(first, 40), size, mean=[0.4] * 3, std=[0.3] * 3,
                augmentation=Augmentation(padding=2, cutout=3), shuffle=True, seed=first,
            )) for first, size in ((0, 8), (5, 5), (9, 3))
        ]  # fmt: skip
        for number in range(7):
            batches, labels = zip(*(stream.take() for stream in streams), strict=True)
            joined = torch.cat(batches)
            assert joined.shape == (16, 3, 6, 6) and len(batches[0]) == 8
            found |= {f"{name} {number}": joined + 0, f"{name} {number} labels": torch.cat(labels)}
            found[f"{name} {number} two"] = torch.cat(batches[:2]).square()
    return found


def gathered() -> Tensors:
    """How many images all processes gather for a pass in batches of eight, and of three."""
    found = {}
    for size in (8, 3):
        pictures = CountedPictures(torch.zeros(40, 2, 2, 1, dtype=torch.uint8))
        list(TensorLoader(pictures, torch.arange(40), torch.arange(40), size, mean=[0.5], std=[0.3]))
        found[str(size)] = torch.tensor(sum(pictures.gathered) // 4)
        if world_size() > 1:
            torch.distributed.all_reduce(found[str(size)])
    return found


def joined() -> Tensors:
    """A pass over joined batches of a loader, of even and odd sizes."""
    model = share_batch_norm(network()).train()
    images = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    loaders = [
        TensorLoader(images, torch.arange(20), torch.arange(first, 20), size, mean=[0.5], std=[0.3])
        for first, size in ((0, 7), (2, 4), (4, 5))
    ]
    batch = torch.cat([next(iter(loader))[0] for loader in loaders])
    return step(model, batch)


def low_precision() -> Tensors:
    """A training pass in bfloat16."""
    model = share_batch_norm(network()).train()
    inputs = torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        return {name: value.float() for name, value in step(model, inputs).items()}


def part_norms() -> Tensors:
    """Batch norm by parts of the batch: running statistics are the same on all ranks, a backward pass goes through."""
    model = network().train()
    forward = spread(model)
    inputs = 3 + torch.randn(9, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    step(model, inputs, forward)
    return {name: value.clone() for name, value in model.named_buffers()}


def dropout() -> Tensors:
    """What dropout leaves of ones, and what torch's generator gives next."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(16, 16)).train()
    nn.init.eye_(model[1].weight)
    nn.init.zeros_(model[1].bias)
    forward = spread(model)
    found = {"left": forward(torch.ones(7, 16)).detach(), "few": forward(torch.ones(2, 16)).detach()}
    drawn = torch.rand(4)
    without = spread(nn.Linear(16, 16).train())
    torch.manual_seed(0)
    without(torch.ones(7, 16))
    return {**found, "drawn": drawn, "without": torch.rand(4)}


def features() -> Tensors:
    """Features of a batch with their gradient, and of everything in a loader."""
    model = network().eval()
    # Of no use to a loss of features: it gets no gradient.
    classifier_head(model).requires_grad_(False)
    inputs = torch.randn(7, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    with closing(FeatureTap(model)) as tap:
        forward = spread(model)
        forward(inputs)
        quantile_loss(tap.features).backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    loader = streams()["unseen"]
    found["features"], found["logits"], found["labels"] = predict_features(model, loader, CPU)
    return found | {"tapped": tap.features.detach(), "predicted": predict(model, loader, CPU)[0]}


def methods() -> Tensors:
    """Weights after one epoch of every method, and what was measured of them."""
    found, folder = {}, Path(sys.argv[2]).with_suffix(".runs")
    for name in METHODS:
        from_main(lambda name=name: (folder / name).mkdir(parents=True))
        # Adam's first steps are signs of gradients: rounding would decide those near zero.
        model, unlearned = run(
            name, folder / name, model=share_batch_norm(network()), num_epochs=1, optimizer="sgd"
        )  # fmt: skip
        figures = {key: torch.tensor(value) for key, value in unlearned.epochs[-1].items()}
        found |= {f"{name} {key}": value for key, value in {**model.state_dict(), **figures}.items()}
    return found


def from_python() -> Tensors:
    """Weights and figures of an epoch from loaders of a caller's own."""
    model, loaders = network(), {name: list(loader) for name, loader in streams().items()}
    names = ("retain", "forget", "unseen", "validation")
    unlearned = untrain_constrained(
        model, *(loaders[name] for name in names), num_epochs=1, log_dir=Path(sys.argv[2]).with_suffix(".runs"),
        device="cpu", precision="fp32", log_interval=1, finetune_num_epochs=0,
    )  # fmt: skip
    return {**model.state_dict(), **{key: torch.tensor(value) for key, value in unlearned.epochs[-1].items()}}


def main() -> None:
    """Call the function and save what it gives."""
    name, path = sys.argv[1:]
    with process_group():
        found = globals()[name]()
        for key, expected in copy.copy(from_main(lambda: found)).items():
            assert torch.equal(found[key].nan_to_num(), expected.nan_to_num()), f"{key} differs between ranks"
        save_tensors({key: value.clone() for key, value in found.items()}, Path(path))


if __name__ == "__main__":
    main()
