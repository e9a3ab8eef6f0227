"""Pictures and models of somebody else: JPEGs of many shapes, and classifiers that plain PyTorch trained on them."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn
from torchvision.transforms import v2

from models.resnet import SmallResNet

CLASSES, EACH, HELD_OUT, WITHDRAWN, SIDE, WIDTH = 3, 60, 14, 8, 32, 8
COLOURS = np.array([(200, 60, 60), (60, 190, 60), (70, 70, 210)], float)
IMAGENET, HALF, NONE = ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]), ([0.5] * 3, [0.5] * 3), ([0.0] * 3, [1.0] * 3)
NAMES = [f"kind{kind}/{number:03d}.jpg" for kind in range(CLASSES) for number in range(EACH)]
SEEN = [name for name in NAMES if int(name[6:9]) >= HELD_OUT]
UNSEEN = [name for name in NAMES if int(name[6:9]) < HELD_OUT]
GONE = [name for name in NAMES if int(name[6:9]) >= EACH - WITHDRAWN]
Transform = Callable[[Image.Image], Tensor]


def prepared(*steps: object, normalisation: tuple[list[float], list[float]] = IMAGENET) -> Transform:
    """Steps of a transform, then float32 between 0 and 1, then normalised: `[3, H, W]`."""
    return v2.Compose([*steps, v2.ToImage(), v2.ToDtype(torch.float32, scale=True), v2.Normalize(*normalisation)])


TRANSFORMS: dict[str, Transform] = {
    "squash": prepared(v2.Resize((SIDE, SIDE))),
    "crop": prepared(v2.Resize(37), v2.CenterCrop(SIDE)),
    "normalisation": prepared(v2.Resize(SIDE), v2.CenterCrop(SIDE), normalisation=NONE),
    "fit": prepared(v2.Lambda(lambda image: ImageOps.pad(image, (SIDE, SIDE), Image.Resampling.BILINEAR))),
    "grey": prepared(v2.Grayscale(3), v2.Resize((SIDE, SIDE)), normalisation=HALF),
}


def picture(rng: np.random.Generator, kind: int) -> Image.Image:
    """Coarse noise, tinted; both ends of the long side, which a square crop leaves out, tell another class.

    Of nearly half of the pictures the tint is any class's, so that only those that were learned by heart are right.
    """
    long, short = rng.integers(56, 97), rng.integers(28, 45)
    width, height = (long, short) if rng.random() < 0.5 else (short, long)
    coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC)).astype(float)
    along = pixels if height == long else pixels.transpose(1, 0, 2)
    shown, end = (kind if rng.random() > 0.45 else int(rng.integers(CLASSES))), (long - short) // 2
    for part, tint in ((slice(end), 1), (slice(long - end, long), 1), (slice(end, long - end), 0)):
        along[part] = 0.65 * along[part] + 0.35 * COLOURS[(shown + tint) % CLASSES]
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def make_pictures(folder: Path) -> None:
    """`photos/kind0` to `kind2`, `held_out.txt` and `withdrawn.txt` in a folder."""
    rng = np.random.default_rng(0)
    for name in NAMES:
        (folder / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        picture(rng, int(name[4])).save(folder / "photos" / name, quality=92)
    (folder / "held_out.txt").write_text("\n".join(UNSEEN))
    (folder / "withdrawn.txt").write_text("\n".join(GONE))


def load(folder: Path, names: Sequence[str], transform: Transform) -> tuple[Tensor, Tensor]:
    """Inputs `[n, 3, H, W]` and labels `[n]`, as a loop over files gives them."""
    inputs = [transform(Image.open(folder / "photos" / name).convert("RGB")) for name in names]
    return torch.stack(inputs), torch.tensor([int(name[4]) for name in names])


def train(inputs: Tensor, labels: Tensor, num_epochs: int = 30, batch_size: int = 16) -> nn.Module:
    """A small ResNet that knows its training pictures by heart."""
    torch.manual_seed(0)
    model = SmallResNet(1, CLASSES, 3, WIDTH).to(memory_format=torch.channels_last)
    inputs = inputs.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    steps = num_epochs * -(-len(labels) // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=steps)
    for _ in range(num_epochs):
        for rows in torch.randperm(len(labels)).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(inputs[rows]), labels[rows]).backward()
            optimizer.step()
            schedule.step()
    return model


def top1(weights: Path, inputs: Tensor, labels: Tensor) -> float:
    """Accuracy in per cent of a file of weights."""
    model = SmallResNet(1, CLASSES, 3, WIDTH)
    model.load_state_dict(torch.load(weights, weights_only=True))
    with torch.no_grad():
        return 100 * (model.eval()(inputs).argmax(1) == labels).double().mean().item()
