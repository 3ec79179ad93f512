"""`prunetune_micro`: a small residual network for 32 x 32 images, registered with timm when this module is imported.

Its weights ship with the package (`WEIGHTS`); `scripts/assets/pretrain_micro.py` made them, `micro.json` says how.
"""

from pathlib import Path
from typing import Any

import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from torch import Tensor, nn

WEIGHTS = Path(__file__).parent / "weights" / "micro.safetensors"
PROVENANCE = WEIGHTS.with_suffix(".json")
WIDTHS = (16, 32, 64, 96)
PRETRAINED_CFG: dict[str, Any] = {
    "file": str(WEIGHTS),
    "input_size": (3, 32, 32),
    "num_classes": 0,
    "pool_size": (4, 4),
    "fixed_input_size": False,
    "interpolation": "bilinear",
    "crop_pct": 1.0,
    "mean": (0.5, 0.5, 0.5),
    "std": (0.25, 0.25, 0.25),
    "first_conv": "stem.0",
    "classifier": "head",
    "license": "mit",
}
default_cfgs = generate_default_cfgs({"prunetune_micro": PRETRAINED_CFG})  # The decorator of timm reads this variable.


class Block(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; [B, in, H, W] to [B, out, H / stride, W / stride]."""

    def __init__(self, in_width: int, out_width: int, stride: int) -> None:
        super().__init__()
        self.path = nn.Sequential(
            nn.Conv2d(in_width, out_width, 3, stride, 1, bias=False),
            nn.BatchNorm2d(out_width),
            nn.ReLU(),
            nn.Conv2d(out_width, out_width, 3, 1, 1, bias=False),
            nn.BatchNorm2d(out_width),
        )
        self.shortcut = nn.Identity()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(in_width, out_width, 1, stride, bias=False), nn.BatchNorm2d(out_width)
            )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.path(x) + self.shortcut(x))


class Micro(nn.Module):
    """Stem, four blocks, average over the last map, layer norm. Follows timm's conventions for a model.

    The layer norm gives every feature the same length. Without it a clear image lies farther out than a blurred one of
    its class, and distances to prototypes say more about contrast than about class.
    """

    def __init__(self, num_classes: int = 0, in_chans: int = 3) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.num_features = self.head_hidden_size = WIDTHS[-1]
        self.stem = nn.Sequential(
            nn.Conv2d(in_chans, WIDTHS[0], 3, 1, 1, bias=False), nn.BatchNorm2d(WIDTHS[0]), nn.ReLU()
        )
        in_widths = (WIDTHS[0], *WIDTHS[:-1])
        self.stages = nn.Sequential(*(Block(i, o, 1 if i == o else 2) for i, o in zip(in_widths, WIDTHS, strict=True)))
        self.norm = nn.LayerNorm(WIDTHS[-1], elementwise_affine=False)
        self.head: nn.Module = _head(num_classes)

    def forward_features(self, x: Tensor) -> Tensor:
        """Map images [B, in_chans, H, W] to feature maps [B, 96, H / 8, W / 8]."""
        return self.stages(self.stem(x))

    def forward_head(self, x: Tensor, pre_logits: bool = False) -> Tensor:
        """Map feature maps to logits [B, num_classes], or to features [B, 96] if `pre_logits` or without a head."""
        features = self.norm(x.mean(dim=(2, 3)))
        return features if pre_logits else self.head(features)

    def forward(self, x: Tensor) -> Tensor:
        return self.forward_head(self.forward_features(x))

    def get_classifier(self) -> nn.Module:
        return self.head

    def reset_classifier(self, num_classes: int, global_pool: str | None = None) -> None:
        """Replace the head by a new one; 0 classes mean none. There is no other pooling than the average."""
        if global_pool not in (None, "avg"):
            raise ValueError(f"prunetune_micro pools by 'avg' only, got {global_pool!r}")
        self.num_classes = num_classes
        self.head = _head(num_classes)


def _head(num_classes: int) -> nn.Module:
    return nn.Linear(WIDTHS[-1], num_classes) if num_classes else nn.Identity()


@register_model
def prunetune_micro(pretrained: bool = False, **kwargs: Any) -> Micro:
    """Make the network through timm; `pretrained=True` loads the packaged weights, a new head stays random."""
    return build_model_with_cfg(Micro, "prunetune_micro", pretrained, **kwargs)
