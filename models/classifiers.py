"""Image classifiers by name: small ResNets of our own and every classification model of torchvision."""

import difflib

from torch import nn

from helper_functions.errors import UserError
from models.cropped_convolution import crop_convolutions
from models.resnet import SmallResNet

SMALL_RESNETS = {"resnet8": 1, "resnet20": 3}  # blocks per stage, n of 6n + 2
STEMS = ("imagenet", "cifar")


def get_model(
    name: str,
    num_classes: int,
    in_channels: int = 3,
    stem: str = "imagenet",
    width: int = 16,
    image_size: int | None = None,
) -> nn.Module:
    """Build a classifier: images [B, in_channels, H, W] to logits [B, num_classes].

    `name` is `resnet8` or `resnet20` (He et al. 2016, section 4.2, `width` channels in the first stage), or the name of
    any torchvision classification model, built without auxiliary heads. `stem='cifar'` gives torchvision's ResNets a
    3 x 3 convolution of stride 1 and no pooling; the small ResNets have it always. `image_size` in pixels is for
    `vit_*` alone. Raises UserError for an unknown name or stem, and for an image size that does not fit.
    """
    if stem not in STEMS:
        raise UserError(f"stem {stem!r} is unknown: pass one of {', '.join(STEMS)}")
    if name in SMALL_RESNETS:
        model = SmallResNet(SMALL_RESNETS[name], num_classes, in_channels, width)
    else:
        model = _torchvision_model(name, num_classes, image_size)
        if stem == "cifar":
            _use_cifar_stem(model, name)
        if in_channels != 3:
            _replace_first_convolution(model, in_channels)
        crop_convolutions(model)
    return model


def list_models() -> list[str]:
    """Names that `get_model` knows."""
    import torchvision  # imported late, for it takes a second

    return [*SMALL_RESNETS, *torchvision.models.list_models(module=torchvision.models)]


def _torchvision_model(name: str, num_classes: int, image_size: int | None) -> nn.Module:
    import torchvision

    known = list_models()
    if name not in known:
        close = difflib.get_close_matches(str(name), known, n=3)
        remedy = f"did you mean {' or '.join(close)}?" if close else "pass a torchvision classification model"
        raise UserError(f"model {name!r} is unknown: {remedy}")
    options: dict[str, object] = {}
    if name in ("inception_v3", "googlenet"):
        options |= {"aux_logits": False, "init_weights": True}
    if name.startswith("vit_") and image_size is not None:
        patch_size = int(name.rsplit("_", 1)[1])
        if image_size % patch_size:
            raise UserError(f"image_size is {image_size}: {name} cuts images into {patch_size} x {patch_size} patches")
        options["image_size"] = image_size
    return torchvision.models.get_model(name, weights=None, num_classes=num_classes, **options)


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
