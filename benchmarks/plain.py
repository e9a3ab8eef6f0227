"""The same jobs as they are usually written in this field: what `benchmarks.throughput` measures ours against.

fp32 and contiguous memory; PIL images that torchvision transforms one by one in a `DataLoader` with 2 workers; one
forward pass for each stream and further ones for metrics; `.item()` at every step; optimizers as torch builds them.
"""

import copy
import time
from collections.abc import Callable, Iterator, Sequence

import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

Batch = Sequence[Tensor]
WORKERS = 2
# Batches that a DataLoader's workers prepare ahead, by its default.
AHEAD = 2 * WORKERS


def clock(device: torch.device) -> float:
    """Seconds, read when the device has finished its work."""
    if device.type != "cpu":
        torch.accelerator.synchronize(device)
    return time.perf_counter()


class PilImages(Dataset):
    """Some images as `torchvision.datasets` hands them out: each one a PIL image that goes through transforms.

    Args:
        images: uint8 `[N, C, H, W]`, of which `indices` (int64 `[n]`) are shown.
        labels: int64 `[N]`.
        mean, std: of the channels.
        augment: whether images are cropped and mirrored at random.
    """

    def __init__(
        self,
        images: Tensor,
        labels: Tensor,
        indices: Tensor,
        mean: Sequence[float],
        std: Sequence[float],
        augment: bool,
    ) -> None:
        self.pixels = images[indices].permute(0, 2, 3, 1).numpy()
        self.labels = labels[indices].tolist()
        size = images.shape[2]
        chance = [transforms.RandomCrop(size, padding=4), transforms.RandomHorizontalFlip()] if augment else []
        self.transform = transforms.Compose([*chance, transforms.ToTensor(), transforms.Normalize(mean, std)])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


class Plain:
    """One job the plain way; calling it measures a stretch and gives images/s.

    Args:
        streams: one set of images for each stream that the job reads.
        step: takes a batch `(inputs, labels)` of each stream.
        steps: batches of each stream in a stretch.
        batch_size: images in a batch.
        device: where `step` computes.
    """

    def __init__(
        self, streams: Sequence[Dataset], step: Callable[..., None], steps: int, batch_size: int, device: torch.device
    ) -> None:
        self.step, self.steps, self.device = step, steps, device
        self.images = steps * batch_size * len(streams)
        self.loaders = [
            DataLoader(
                stream,
                batch_size,
                # One batch before the stretch, and as many after it as the workers will have prepared by its end.
                sampler=RandomSampler(stream, num_samples=(1 + steps + AHEAD) * batch_size),
                num_workers=WORKERS,
                persistent_workers=True,
                pin_memory=device.type == "cuda",
            )
            for stream in streams
        ]

    def __call__(self) -> float:
        batches = self._batches()
        # Not counted: by its end the workers run, and have prepared batches as they have in the middle of an epoch.
        self.step(*next(batches))
        began = clock(self.device)
        for _ in range(self.steps):
            self.step(*next(batches))
        seconds = clock(self.device) - began
        for _ in batches:
            pass  # so that no worker is busy while the other way is measured
        return self.images / seconds

    def _batches(self) -> Iterator[tuple[Batch, ...]]:
        for batches in zip(*self.loaders, strict=True):
            yield tuple([part.to(self.device) for part in batch] for batch in batches)


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Share of right answers in eval mode, from a forward pass of its own; the model is left in training mode."""
    model.eval()
    with torch.no_grad():
        right = (model(inputs).argmax(1) == labels).float().mean().item()
    model.train()
    return right


def training_step(model: nn.Module) -> Callable[[Batch], None]:
    """SGD."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    totals = {"loss": 0.0, "top1": 0.0}
    model.train()

    def step(batch: Batch) -> None:
        inputs, labels = batch
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        optimizer.step()
        totals["loss"] += loss.item()
        totals["top1"] += accuracy(model, inputs, labels)

    return step


def sam_step(model: nn.Module, rho: float = 0.05) -> Callable[[Batch], None]:
    """Sharpness-aware SGD (Foret et al. 2021, algorithm 1), parameter by parameter."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    totals = {"loss": 0.0, "top1": 0.0}
    model.train()

    @torch.no_grad()
    def climb() -> list[Tensor]:
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm().item()
        kept = [p.clone() for p in model.parameters()]
        for p in model.parameters():
            p.add_(p.grad * (rho / (norm + 1e-12)))
        return kept

    @torch.no_grad()
    def return_to(kept: list[Tensor]) -> None:
        for p, value in zip(model.parameters(), kept, strict=True):
            p.copy_(value)

    def step(batch: Batch) -> None:
        inputs, labels = batch
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        kept = climb()
        optimizer.zero_grad()
        F.cross_entropy(model(inputs), labels).backward()
        return_to(kept)
        optimizer.step()
        totals["loss"] += loss.item()
        totals["top1"] += accuracy(model, inputs, labels)

    return step


def constrained_step(model: nn.Module, max_grad_norm: float = 1.0) -> Callable[[Batch, Batch], None]:
    """Raise the forget loss; a hinge with a multiplier holds the retain loss near the original's on the same images."""
    original = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    totals = {"forget_loss": 0.0, "retain_loss": 0.0, "forget_top1": 0.0, "retain_top1": 0.0}
    multiplier, margin = 1.0, 0.1
    model.train()

    def step(forget: Batch, retain: Batch) -> None:
        nonlocal multiplier
        forget_loss = F.cross_entropy(model(forget[0]), forget[1])
        retain_loss = F.cross_entropy(model(retain[0]), retain[1])
        with torch.no_grad():
            epsilon = F.cross_entropy(original(retain[0]), retain[1]).item() + margin
        loss = -forget_loss + multiplier * torch.relu(retain_loss - epsilon)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        multiplier = max(0.0, multiplier + 0.1 * (retain_loss.item() - epsilon))
        totals["forget_loss"] += forget_loss.item()
        totals["retain_loss"] += retain_loss.item()
        totals["forget_top1"] += accuracy(model, *forget)
        totals["retain_top1"] += accuracy(model, *retain)

    return step


def evaluation_step(model: nn.Module) -> Callable[[Batch], None]:
    """Loss and accuracy of a batch, from one forward pass."""
    totals = {"loss": 0.0, "right": 0}
    model.eval()

    @torch.no_grad()
    def step(batch: Batch) -> None:
        inputs, labels = batch
        logits = model(inputs)
        totals["loss"] += F.cross_entropy(logits, labels).item()
        totals["right"] += (logits.argmax(1) == labels).sum().item()

    return step


def loading_step(batch: Batch) -> None:
    """Nothing beyond having the batch on the device."""
