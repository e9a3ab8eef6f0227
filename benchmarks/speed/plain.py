"""The same jobs as they are usually written in this field: what `benchmarks.speed.throughput` measures ours against.

fp32 and contiguous memory, with torch's own convolutions; PIL images that torchvision transforms one by one in a
`DataLoader` with 2 workers; one forward pass for each stream and further ones for metrics; `.item()` at every step;
optimizers as torch builds them.
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset, RandomSampler
from torchvision import transforms

from benchmarks.speed.utilisation import clock
from data.loaders import TensorLoader
from models.cropped_convolution import CroppedConv2d

Batch = Sequence[Tensor]
WORKERS = 2
# Batches that a DataLoader's workers prepare ahead, by its default.
AHEAD = 2 * WORKERS


def images_per_second(run: Callable[[int], int], amount: int, device: torch.device, warm_up: int = 1) -> float:
    """Time `run(amount)`, which gives the number of images; `run(warm_up)` before it is not counted."""
    run(warm_up)
    began = clock(device)
    images = run(amount)
    return images / (clock(device) - began)


def network(model: nn.Module) -> nn.Module:
    """The model in contiguous memory and with torch's own convolutions, as torchvision has it; changed in place."""
    for module in model.modules():
        if type(module) is CroppedConv2d:
            module.__class__ = nn.Conv2d
    return model.to(memory_format=torch.contiguous_format)


class PilImages(Dataset):
    """The images of one of our loaders, as `torchvision.datasets` hands them out: each one goes through transforms."""

    def __init__(self, loader: TensorLoader) -> None:
        self.pixels = loader.storage.cpu().numpy()  # uint8 [N, H, W, C]
        self.indices = loader.indices.tolist()
        self.labels = loader.labels.cpu()[loader.indices].tolist()
        chance = [transforms.RandomCrop(loader.image_size, padding=4), transforms.RandomHorizontalFlip()]
        to_input = [transforms.ToTensor(), transforms.Normalize(loader.mean, loader.std)]
        self.transform = transforms.Compose([*(chance if loader.augmentation else []), *to_input])

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.transform(Image.fromarray(self.pixels[self.indices[index]])), self.labels[index]


class Plain:
    """One job the plain way; calling it measures a stretch and gives images/s.

    Args:
        step: takes a batch `(inputs, labels)` of each stream.
        streams: our loader of each stream; its images are loaded the plain way.
        batch_size: images in a batch of a stream.
        steps: calls of `step` in a stretch.
    """

    def __init__(self, step: Callable[..., None], streams: Sequence[TensorLoader], batch_size: int, steps: int) -> None:
        self.step, self.steps, self.device = step, steps, streams[0].device
        # One batch before the stretch, and as many after it as the workers will have prepared by its end.
        drawn = (1 + steps + AHEAD) * batch_size
        self.loaders = [
            DataLoader(
                images, batch_size, sampler=RandomSampler(images, num_samples=drawn), num_workers=WORKERS,
                persistent_workers=True, pin_memory=self.device.type == "cuda",
            )
            for images in map(PilImages, streams)
        ]  # fmt: skip

    def __call__(self) -> float:
        batches = zip(*self.loaders, strict=True)
        # By the end of the step that is not counted, the workers run and have prepared batches, as in mid-epoch.
        rate = images_per_second(partial(self._run, batches), self.steps, self.device)
        for _ in batches:
            pass  # so that no worker is busy while the other way is measured
        return rate

    def _run(self, batches: Iterator[tuple[Batch, ...]], steps: int) -> int:
        images = 0
        for streams in islice(batches, steps):
            self.step(*[[part.to(self.device) for part in batch] for batch in streams])
            # A third stream is a reference without gradient, and none of our images.
            images += sum(len(labels) for _, labels in streams[:2])
        return images


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
        norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
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


def ascent(model: nn.Module, forget: Batch) -> Tensor:
    """The forget loss, to be raised."""
    return -F.cross_entropy(model(forget[0]), forget[1])


class AgainstRegression:
    """The student's loss before a logistic regression on group means of losses, fitted anew on the host each time."""

    def __init__(self, model: nn.Module, group_size: int = 16) -> None:
        self.teacher = copy.deepcopy(model).eval()
        self.group_size = group_size

    def means(self, model: nn.Module, batch: Batch) -> Tensor:
        """Of the losses of each group, `[G, 1]`; what fills no group is dropped."""
        losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        size = min(self.group_size, len(losses))
        return losses[: len(losses) // size * size].view(-1, size).mean(1, keepdim=True)

    def __call__(self, model: nn.Module, forget: Batch, unseen: Batch) -> Tensor:
        student = self.means(model, forget)
        with torch.no_grad():
            teacher = self.means(self.teacher, unseen)
        groups = torch.cat([student.detach(), teacher]).cpu().numpy()
        regression = LogisticRegression().fit(groups, [0] * len(student) + [1] * len(teacher))
        coefficients = torch.tensor(regression.coef_[0], dtype=student.dtype, device=student.device)
        return F.softplus(-(student @ coefficients + float(regression.intercept_[0]))).mean()


def constrained_step(
    model: nn.Module, objective: Callable[..., Tensor] = ascent, max_grad_norm: float = 1.0
) -> Callable[..., None]:
    """Lower an objective on forget data; a hinge with a multiplier holds the retain loss near the original's."""
    original = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    totals = {"forget_loss": 0.0, "retain_loss": 0.0, "forget_top1": 0.0, "retain_top1": 0.0}
    multiplier, margin = 1.0, 0.1
    model.train()

    def step(forget: Batch, retain: Batch, *others: Batch) -> None:
        nonlocal multiplier
        forget_loss = objective(model, forget, *others)
        retain_loss = F.cross_entropy(model(retain[0]), retain[1])
        with torch.no_grad():
            epsilon = F.cross_entropy(original(retain[0]), retain[1]) + margin
        loss = forget_loss + multiplier * torch.relu(retain_loss - epsilon)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), max_grad_norm)
        optimizer.step()
        multiplier = max(0.0, multiplier + 0.1 * (retain_loss - epsilon).item())
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
