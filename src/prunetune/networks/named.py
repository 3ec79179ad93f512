"""The pretrained networks that have a short name; configs/backbone says the same."""

from prunetune.base.errors import InputError
from prunetune.networks.backbone import Backbone

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
