"""The same jobs as they are usually written in this field: the baseline of `benchmarks.speed.throughput`.

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

from benchmarks.speed.utilisation import rate_of
from data.loaders import TensorLoader
from models.cropped_convolution import CroppedConv2d

Batch = Sequence[Tensor]
Step = Callable[..., tuple[float, ...]]  # takes a batch of each stream, gives the figures that it would log
WORKERS = 2


def network(model: nn.Module) -> nn.Module:
    """The model in contiguous memory and with torch's own convolutions, as torchvision has it; changed in place."""
    for module in model.modules():
        if type(module) is CroppedConv2d:
            module.__class__ = nn.Conv2d
    return model.to(memory_format=torch.contiguous_format)


class PilImages(Dataset):
    """The images of one of our loaders as a `torchvision.datasets` set has them: each goes through transforms."""

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
    """One job the plain way, on the images of our loaders; a call times a stretch of `steps` and gives images/s."""

    def __init__(self, step: Step, streams: Sequence[TensorLoader], batch_size: int, steps: int) -> None:
        self.step, self.steps, self.device = step, steps, streams[0].device
        # One batch before the stretch, and as many after it as the workers prepare ahead, by default two each.
        drawn = (1 + steps + 2 * WORKERS) * batch_size
        self.loaders = [
            DataLoader(
                images, batch_size, sampler=RandomSampler(images, num_samples=drawn), num_workers=WORKERS,
                persistent_workers=True, pin_memory=self.device.type == "cuda",
            )
            for images in map(PilImages, streams)
        ]  # fmt: skip

    def __call__(self) -> float:
        batches = zip(*self.loaders, strict=True)
        # By the end of the step that is not timed, the workers have prepared batches, as in mid-epoch.
        rate = rate_of(partial(self._run, batches), self.steps, self.device)
        for _ in batches:
            pass  # so that no worker is busy while our way is measured
        return rate

    def _run(self, batches: Iterator[tuple[Batch, ...]], steps: int) -> int:
        images = 0
        for streams in islice(batches, steps):
            self.step(*[[part.to(self.device) for part in batch] for batch in streams])
            # A third stream is a reference without gradient and does not count, nor does it in our way.
            images += sum(len(labels) for _, labels in streams[:2])
        return images


def accuracy(model: nn.Module, inputs: Tensor, labels: Tensor) -> float:
    """Top-1 accuracy in eval mode, by another forward pass; the model is left in training mode."""
    model.eval()
    with torch.no_grad():
        right = (model(inputs).argmax(1) == labels).float().mean().item()
    model.train()
    return right


def training_step(model: nn.Module, rho: float = 0.0) -> Step:
    """SGD; with a radius `rho`, sharpness-aware SGD (Foret et al. 2021, algorithm 1), parameter by parameter."""
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4, nesterov=True)
    model.train()

    def step(batch: Batch) -> tuple[float, float]:
        inputs, labels = batch
        optimizer.zero_grad()
        loss = F.cross_entropy(model(inputs), labels)
        loss.backward()
        if rho:
            kept = [p.detach().clone() for p in model.parameters()]
            norm = torch.stack([p.grad.norm() for p in model.parameters()]).norm()
            with torch.no_grad():
                for p in model.parameters():
                    p.add_(p.grad * (rho / (norm + 1e-12)))
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), labels).backward()
            with torch.no_grad():
                for p, value in zip(model.parameters(), kept, strict=True):
                    p.copy_(value)
        optimizer.step()
        return loss.item(), accuracy(model, inputs, labels)

    return step


def ascent(model: nn.Module, forget: Batch) -> Tensor:
    """The negative forget loss."""
    return -F.cross_entropy(model(forget[0]), forget[1])


def against_regression(model: nn.Module) -> Callable[..., Tensor]:
    """The student's loss against a logistic regression on group means of losses, fitted anew on the host each step."""
    teacher_model = copy.deepcopy(model).eval()

    def means(model: nn.Module, batch: Batch) -> Tensor:
        losses = F.cross_entropy(model(batch[0]), batch[1], reduction="none")
        size = min(16, len(losses))
        return losses[: len(losses) // size * size].view(-1, size).mean(1, keepdim=True)

    def objective(model: nn.Module, forget: Batch, unseen: Batch) -> Tensor:
        student = means(model, forget)
        with torch.no_grad():
            teacher = means(teacher_model, unseen)
        groups = torch.cat([student.detach(), teacher]).cpu().numpy()
        regression = LogisticRegression().fit(groups, [0] * len(student) + [1] * len(teacher))
        coefficients = torch.tensor(regression.coef_[0], dtype=student.dtype, device=student.device)
        return F.softplus(-(student @ coefficients + float(regression.intercept_[0]))).mean()

    return objective


def constrained_step(model: nn.Module, objective: Callable[..., Tensor]) -> Step:
    """Minimise an objective on forget data; a hinge with a multiplier bounds the gap of the retain loss."""
    original = copy.deepcopy(model).eval()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, nesterov=True)
    multiplier, margin = 1.0, 0.1
    model.train()

    def step(forget: Batch, retain: Batch, *others: Batch) -> tuple[float, ...]:
        nonlocal multiplier
        forget_loss = objective(model, forget, *others)
        retain_loss = F.cross_entropy(model(retain[0]), retain[1])
        with torch.no_grad():
            bound = F.cross_entropy(original(retain[0]), retain[1]) + margin
        optimizer.zero_grad()
        (forget_loss + multiplier * torch.relu(retain_loss - bound)).backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        multiplier = max(0.0, multiplier + 0.1 * (retain_loss - bound).item())
        return forget_loss.item(), retain_loss.item(), accuracy(model, *forget), accuracy(model, *retain)

    return step


def evaluation_step(model: nn.Module) -> Step:
    """Loss and number of right answers of a batch, from one forward pass."""
    model.eval()

    @torch.no_grad()
    def step(batch: Batch) -> tuple[float, float]:
        inputs, labels = batch
        logits = model(inputs)
        return F.cross_entropy(logits, labels).item(), (logits.argmax(1) == labels).sum().item()

    return step
