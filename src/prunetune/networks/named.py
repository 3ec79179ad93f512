"""The pretrained networks that have a short name; configs/backbone says the same."""

import copy
import hashlib

import torch
from torch import Tensor, nn

from prunetune.base.errors import InputError
from prunetune.networks.backbone import IMAGENET_MEAN, IMAGENET_STD, Backbone, Network
from prunetune.networks.checkpoint import weights_hash

BACKBONES: dict[str, dict[str, str]] = {
    "resnet18": {"model": "resnet18.tv_in1k", "mask_modules": "conv2d"},
    "resnet50": {"model": "resnet50.tv_in1k", "mask_modules": "conv2d"},
    "vit_small": {"model": "vit_small_patch16_224.augreg_in1k", "mask_modules": "linear"},
    "vit_base": {"model": "vit_base_patch16_224.augreg_in1k", "mask_modules": "linear"},
    "resnet18_weakly": {"model": "resnet18.fb_swsl_ig1b_ft_in1k", "mask_modules": "conv2d"},
    "resnet50_weakly": {"model": "resnet50.fb_swsl_ig1b_ft_in1k", "mask_modules": "conv2d"},
    "vit_small_weakly": {"model": "vit_small_patch16_224.augreg_in21k", "mask_modules": "linear"},
    "vit_base_weakly": {"model": "vit_base_patch16_224.augreg_in21k", "mask_modules": "linear"},
    "micro": {"model": "prunetune_micro", "mask_modules": "conv2d"},
}


def as_backbone(backbone: str | Backbone) -> Backbone:
    """Return a backbone by its short name or its timm name."""
    if isinstance(backbone, Backbone):
        return backbone
    if not isinstance(backbone, str):
        raise InputError(f"backbone must be a name or a Backbone, got {backbone!r}")
    return Backbone(name=backbone, **BACKBONES.get(backbone, {"model": backbone}))


def as_network(backbone: str | Backbone | nn.Module) -> Network:
    """Return the loaded network of a name or a Backbone, or a torch module as a network.

    Raises:
        InputError: the name is not known, weights cannot be loaded, or a module gives no features.
    """
    if isinstance(backbone, Network):
        return backbone
    return wrapped(backbone) if isinstance(backbone, nn.Module) else as_backbone(backbone).load()


def wrapped(module: nn.Module) -> Network:
    """Return a copy of a torch module as a network.

    A model of timm loses its head and keeps its own input size and statistics. Any other module must map images
    [B, 3, 224, 224], normalised with ImageNet's statistics, to features [B, D].

    Raises:
        InputError: the module does not give features [B, D] for such images.
    """
    model = copy.deepcopy(module).cpu().eval()
    if hasattr(model, "reset_classifier"):
        model.reset_classifier(0)
    settings = getattr(model, "pretrained_cfg", None) or {}
    size = settings.get("input_size", (3, 224, 224))[-1]
    features = _tried(model, size)
    if not hasattr(model, "head_hidden_size"):
        model.num_features = features.shape[1]
    network = Network(model, settings.get("mean", IMAGENET_MEAN), settings.get("std", IMAGENET_STD), size).eval()
    network.identity = {
        "module": f"{type(module).__module__}.{type(module).__qualname__}",
        "structure": hashlib.sha256(str(model).encode()).hexdigest(),
        "weights": weights_hash(model),
        "mean": network.mean.flatten().tolist(),
        "std": network.std.flatten().tolist(),
        "input_size": size,
    }
    return network


def _tried(model: nn.Module, size: int) -> Tensor:
    """Return the features [1, D] of a black image."""
    expected = f"backbone must be a module that maps images [B, 3, {size}, {size}] to features [B, D]"
    try:
        with torch.inference_mode():
            features = model(torch.zeros(1, 3, size, size))
    except Exception as error:  # The module is the user's, so that any error can come.
        raise InputError(f"{expected}; {type(model).__name__} fails: {type(error).__name__}: {error}") from error
    if not isinstance(features, Tensor) or features.ndim != 2:
        what = list(features.shape) if isinstance(features, Tensor) else type(features).__name__
        raise InputError(f"{expected}; {type(model).__name__} gives {what}; remove its head or add a pooling layer")
    return features
