"""Image classifiers by name: small ResNets of our own, torchvision's, and those of `models.sources`."""

import importlib.util
import re

import torch
from torch import nn

from helper_functions.errors import UserError
from helper_functions.training.inference import evaluation_mode
from helper_functions.wording import did_you_mean
from models.cropped_convolution import crop_convolutions
from models.resnet import SmallResNet
from models.sources import TIMM, Size, build, is_code, made, with_options

SMALL_RESNETS = {"resnet8": 1, "resnet20": 3}  # blocks per stage, n of 6n + 2
STEMS = ("imagenet", "cifar")


def get_model(
    name: str, num_classes: int, in_channels: int = 3, stem: str = "imagenet", width: int = 16,
    image_size: Size | None = None,
) -> nn.Module:  # fmt: skip
    """Build a classifier: images [B, in_channels, H, W] to logits [B, num_classes].

    `name` is `resnet8` or `resnet20` (He et al. 2016, section 4.2, `width` channels in the first stage), the name of
    any torchvision classification model, built without auxiliary heads, or one of `models.sources`; options of its
    constructor may follow, `NAME,KEY=VALUE`. `stem='cifar'` gives torchvision's ResNets a 3 x 3 convolution of stride 1
    and no pooling; the small ResNets have it always. With `image_size`, height and width in pixels, models are built
    for it where they depend on it, tried on it, and in channels_last memory if they can compute in it.

    Raises UserError for an unknown name, stem or option, and for images that the model does not take.
    """
    if stem not in STEMS:
        raise UserError(f"stem {stem!r} is unknown: pass one of {', '.join(STEMS)}")
    if name in SMALL_RESNETS:
        model = SmallResNet(SMALL_RESNETS[name], num_classes, in_channels, width)
        return model if image_size is None else model.to(memory_format=torch.channels_last)
    if ":" in name:
        if stem == "cifar":
            raise UserError(f"stem cifar is for torchvision's ResNets, and {name} is not one: pass stem imagenet")
        model = build(name, num_classes, in_channels, image_size)
    else:
        model = _torchvision_model(*with_options(name), num_classes, image_size)
        if stem == "cifar":
            _use_cifar_stem(model, name)
        if in_channels != 3:
            _replace_first_convolution(model, in_channels)
    if not is_code(name):
        crop_convolutions(model)
    return model if image_size is None else _tried(model, name, num_classes, (in_channels, *image_size))


def list_models() -> list[str]:
    """Names that `get_model` knows without a prefix."""
    import torchvision  # imported late, for it takes a second

    return [*SMALL_RESNETS, *torchvision.models.list_models(module=torchvision.models)]


def has_stem(name: str) -> bool:
    """Whether a model has a stem to choose: torchvision's ResNets, and the small ones, which ignore it."""
    return re.match(r"(wide_)?res(net|next)\d", name) is not None


def _torchvision_model(name: str, options: dict[str, object], num_classes: int, image_size: Size | None) -> nn.Module:
    import torchvision

    known = list_models()
    if name not in known:
        if importlib.util.find_spec("timm") is not None:
            import timm

            known += [f"{TIMM}{each}" for each in timm.list_models()]
        forms = "; give a name of torchvision, timm:NAME, hf:FOLDER or FILE.py:FUNCTION"
        raise UserError(f"model {name!r} is unknown{did_you_mean(name, known) or forms}")
    if name in SMALL_RESNETS:
        raise UserError(f"--model {name} takes no option but --width; leave {', '.join(options)} out")
    own: dict[str, object] = {}
    if name in ("inception_v3", "googlenet"):
        own |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_") and image_size is not None:
        patch_size = int(name.rsplit("_", 1)[1])
        if image_size[0] != image_size[1] or image_size[0] % patch_size:
            size = " x ".join(map(str, image_size))
            raise UserError(f"images are {size}: {name} cuts square ones into {patch_size} x {patch_size} patches")
        own["image_size"] = image_size[0]
    own |= {"num_classes": num_classes, **options}
    return made(name, lambda: torchvision.models.get_model(name, weights=None, **own))


def _tried(model: nn.Module, name: str, num_classes: int, shape: tuple[int, int, int]) -> nn.Module:
    """The model after a pass over two images of a shape [C, H, W], in the memory format that it can compute in.

    A forward pass that calls `view` fails in channels_last.
    """
    size, images = " x ".join(map(str, shape)), torch.zeros(2, *shape)
    _check_patches(model, name, shape[1:])

    def forward(memory_format: torch.memory_format) -> torch.Size:
        model.to(memory_format=memory_format)
        with evaluation_mode(model), torch.no_grad():
            return model(images.contiguous(memory_format=memory_format)).shape

    try:
        found = forward(torch.channels_last)
    except Exception:
        try:
            found = made(f"{name} on images of {size}", lambda: forward(torch.contiguous_format))
        except UserError as error:
            own = f"--transform {name.partition(',')[0]}, or " * name.startswith(("hf:", "timm:"))
            raise UserError(f"{error}; give {own}the --image_size and --channels that it takes") from None
        model.register_forward_pre_hook(_contiguous)
    if tuple(found) != (2, num_classes):
        raise UserError(
            f"--model {name}: for 2 images it gives {list(found)}, and the data set has {num_classes} classes: it has "
            f"to give logits [2, {num_classes}]"
        )
    return model


def _contiguous(module: nn.Module, inputs: tuple) -> tuple:
    # Of one channel, memory of either format counts as contiguous: only a copy has the strides.
    return tuple(each.clone(memory_format=torch.contiguous_format) for each in inputs)


def _check_patches(model: nn.Module, name: str, image_size: Size) -> None:
    """Refuse images that timm would cut at the edge, without a message, since patches do not fill them."""
    patches = getattr(model, "patch_embed", None)
    size = getattr(patches, "patch_size", None)
    if not isinstance(size, tuple) or getattr(patches, "dynamic_img_pad", False):
        return
    if any(pixels % patch for pixels, patch in zip(image_size, size, strict=True)):
        told, cut = (" x ".join(map(str, pair)) for pair in (image_size, size))
        raise UserError(f"--model {name}: images of {told} cannot be cut into patches of {cut}; add patch_size=…")


def _use_cifar_stem(model: nn.Module, name: str) -> None:
    from torchvision.models import ResNet

    if not isinstance(model, ResNet):
        raise UserError(f"stem cifar is for ResNets, and {name} is not one: pass stem imagenet")
    model.conv1 = _he_initialised(nn.Conv2d(3, model.conv1.out_channels, 3, padding=1, bias=False))
    model.maxpool = nn.Identity()


def _replace_first_convolution(model: nn.Module, in_channels: int) -> None:
    """Give the stem, which torchvision registers before every other convolution, another number of inputs."""
    path, old = next((path, module) for path, module in model.named_modules() if isinstance(module, nn.Conv2d))
    new = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, old.padding, bias=old.bias is not None)
    model.set_submodule(path, _he_initialised(new))


def _he_initialised(convolution: nn.Conv2d) -> nn.Conv2d:
    """Initialised as in torchvision's ResNets: He et al. 2015, by the number of outputs."""
    nn.init.kaiming_normal_(convolution.weight, mode="fan_out", nonlinearity="relu")
    if convolution.bias is not None:
        nn.init.zeros_(convolution.bias)
    return convolution
