"""A backbone: a pretrained network by its timm name, without its head."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import timm
import torch
from torch import Tensor, nn

from prunetune.base import checks, hub
from prunetune.base.errors import InputError, suggestion
from prunetune.base.seeding import seeded
from prunetune.networks import micro
from prunetune.networks.checkpoint import load_into, load_weights, weights_hash
from prunetune.networks.masking import MODULES

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOST_PIXELS = 8192
NUM_LAYERS = 4  # The method `forward_layers` reads this many layers.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # The names under which timm looks for weights.
PACKAGED = {"prunetune_micro": micro.WEIGHTS}  # The weights of these networks come with the package.


class Network(nn.Module):
    """A network without head: uint8 images in, pooled features out.

    It normalises by itself, so that decoded images and views do not depend on the checkpoint they are shown to.
    """

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float], input_size: int) -> None:
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)  # This layout makes convolutions faster.
        self.input_size = input_size
        # This is the width of the pre-logits features.
        self.num_features: int = getattr(model, "head_hidden_size", model.num_features)
        self.mask_modules = "all"
        self.identity: dict[str, Any] = {}  # Stored products depend on this: the model, its weights and the statistics.
        self.origin: Backbone | None = None  # This backbone loaded the network.
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, D] of images [B, 3, S, S] uint8."""
        features = self.model(self.normalise(images))  # [B, D]
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise InputError(
                f"the backbone should give [{len(images)}, {self.num_features}] features, gave {list(features.shape)}"
            )
        return features

    def forward_collapsed(self, images: Tensor) -> Tensor:
        """Return [B, 1]: the mean over tokens and features of the token tensor [B, tokens, D], as in the released code.

        If the last feature map is no token tensor, return `forward`, as the released code does.
        """
        tokens = self.model.forward_features(self.normalise(images))
        return tokens.mean(dim=(1, 2)).unsqueeze(1) if tokens.ndim == 3 else self.forward(images)

    def forward_layers(self, images: Tensor) -> list[Tensor]:
        """Return features of growing depth, [B, D_l] float32 each, of images [B, 3, S, S] uint8.

        A network whose maps shrink gives the outputs of its last four stages. A network of equal blocks gives those of
        blocks 1/4, 2/4, 3/4 and 4/4, before any final norm. A map is averaged; a class token is read instead of it.
        """
        has_class_token = getattr(self.model, "cls_token", None) is not None
        outputs = self._intermediates(self.normalise(images), has_class_token)
        maps = [output[0] if has_class_token else output for output in outputs]  # [B, D_l, H, W]
        if len({tuple(each.shape[2:]) for each in maps}) > 1:
            chosen = list(range(len(maps)))[-NUM_LAYERS:]
        else:
            chosen = sorted({math.ceil(len(maps) * part / NUM_LAYERS) - 1 for part in range(1, NUM_LAYERS + 1)})
        if has_class_token:
            return [outputs[layer][1][:, 0].float() for layer in chosen]
        return [maps[layer].float().mean(dim=(2, 3)) for layer in chosen]

    def _intermediates(self, normalised: Tensor, with_tokens: bool) -> list[Any]:
        """Return the map [B, D_l, H, W] of every stage or block, with the tokens in front of it if asked for."""
        if hasattr(self.model, "forward_intermediates"):
            tokens = {"return_prefix_tokens": True} if with_tokens else {}
            return self.model.forward_intermediates(normalised, intermediates_only=True, **tokens)
        if not hasattr(self.model, "stages"):
            raise InputError(
                f"{type(self.model).__name__} does not show the outputs of its layers; use another backbone"
            )
        maps = [self.model.stem(normalised)]
        for stage in self.model.stages:
            maps.append(stage(maps[-1]))
        return maps

    def normalise(self, images: Tensor) -> Tensor:
        """Return images [B, 3, S, S] uint8 as float32 with the checkpoint's mean and standard deviation removed."""
        normalised = images.to(torch.float32, memory_format=torch.channels_last, copy=True)
        return normalised.sub_(self.mean).div_(self.std)


@dataclass(frozen=True)
class Backbone:
    """A pretrained network by its timm name.

    model: timm name, with its tag. pretrained: False gives random weights from a fixed seed. checkpoint: a local
    file instead of timm's download. model_args: timm's keyword arguments. normalization: "checkpoint" (the
    statistics that the weights were trained with) or "imagenet" (as the released code, for all). mean, std: three
    numbers in [0, 1] that override both. input_size: pixels, by default the model's own. mask_modules: what DLC
    masks, "conv2d", "linear" or "all". published_at: where the checkpoint comes from, if nothing here fetches it.
    """

    name: str | None = None
    model: str = "resnet18.tv_in1k"
    mask_modules: str = "all"
    pretrained: bool = True
    checkpoint: str | None = None
    model_args: Mapping[str, Any] | None = None
    normalization: str = "checkpoint"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_size: int | None = None
    published_at: str | None = None

    def __post_init__(self) -> None:
        checks.choice("backbone.normalization", self.normalization, ("checkpoint", "imagenet"))
        checks.choice("backbone.mask_modules", self.mask_modules, tuple(MODULES))
        checks.whole_number("backbone.input_size", self.input_size, most=MOST_PIXELS, or_none=True, what="in pixels")
        for key, interval in (("mean", "[0, 1]"), ("std", "(0, 1]")):
            value = getattr(self, key)
            if value is not None and not checks.are_numbers(value, interval, count=3):
                raise InputError(f"backbone.{key} must be three numbers in {interval}, got {value}")
        checks.fields("backbone", self)
        if not timm.is_model(self.model.split(".")[0]):
            raise InputError(
                f"timm has no model {self.model!r}.{suggestion(self.model.split('.')[0], timm.list_models())}"
            )

    def load(self) -> Network:
        """Return the network in eval mode on the CPU.

        Raises:
            InputError: the weights cannot be fetched or read, do not fit, or the model refuses its arguments.
        """
        self._check_published()
        file = self.checkpoint or (PACKAGED.get(self.model) if self.pretrained else None)
        model = self._create(download=self.pretrained and file is None)
        statistics = model.pretrained_cfg
        if file is not None:
            classifier = statistics.get("classifier") or ()
            prefixes = (classifier,) if isinstance(classifier, str) else tuple(classifier)
            load_into(model, load_weights(file), tuple(f"{prefix}." for prefix in prefixes), str(file))
        mean, std = (self.mean or statistics["mean"]), (self.std or statistics["std"])
        if self.normalization == "imagenet":
            mean, std = (self.mean or IMAGENET_MEAN), (self.std or IMAGENET_STD)
        network = Network(model, mean, std, self.input_size or statistics["input_size"][-1]).eval()
        network.mask_modules, network.origin = self.mask_modules, self
        network.identity = {
            "model": self.model,
            "model_args": {key: str(value) for key, value in (self.model_args or {}).items()},
            "weights": weights_hash(model),
            "mean": [float(number) for number in mean],
            "std": [float(number) for number in std],
            "input_size": network.input_size,
        }
        self._try(network)
        return network

    def _check_reachable(self) -> None:
        """Refuse a download that cannot succeed; the hub's client would retry for a minute before it says so."""
        source = timm.models.get_pretrained_cfg(self.model)
        if source is None or not source.hf_hub_id:
            return
        names = (source.hf_hub_filename,) if source.hf_hub_filename else HUB_FILES
        if hub.cached_file(source.hf_hub_id, names) is None and not hub.is_reachable():
            raise InputError(
                f"the weights of {self.model} could not be fetched: the model hub does not answer, and they were not "
                "downloaded before; connect to the internet, or pass backbone.checkpoint=<file>"
            )

    def _check_published(self) -> None:
        """Refuse missing weights that nothing here fetches, and say where they are published."""
        if self.published_at and not (self.checkpoint and Path(self.checkpoint).expanduser().is_file()):
            raise InputError(
                f"the weights of {self.name} are expected in {self.checkpoint}, which is not a file; they are "
                f"published at {self.published_at}: save them under the names of timm's {self.model.split('.')[0]} "
                "and pass backbone.checkpoint=<file>"
            )

    def load_random(self, *names: str | int) -> Network:
        """Return the same network with fresh random weights, drawn from these names."""
        network = self.load()
        with seeded("random network", self.model, *names):
            fresh = timm.create_model(self.model, pretrained=False, num_classes=0, **(self.model_args or {}))
        network.model = fresh.to(memory_format=torch.channels_last)
        network.identity = {**network.identity, "weights": weights_hash(fresh)}
        return network.eval()

    def _try(self, network: Network) -> None:
        """Run the network on one black image, so that a wrong input size is reported before anything else is done."""
        size = network.input_size
        try:
            with torch.inference_mode():
                network(torch.zeros(1, 3, size, size, dtype=torch.uint8))
        except InputError:
            raise
        except (AssertionError, RuntimeError, TypeError, ValueError) as error:
            raise InputError(
                f"{self.model} does not take images of {size} x {size} ({error}); "
                f"drop backbone.input_size or pass backbone.model_args={{img_size:{size}}}"
            ) from None

    def _create(self, download: bool) -> nn.Module:
        if download:
            self._check_reachable()
        try:
            with seeded("backbone", self.model):
                return timm.create_model(self.model, pretrained=download, num_classes=0, **(self.model_args or {}))
        except TypeError as error:
            arguments = dict(self.model_args or {})
            raise InputError(f"{self.model} refuses backbone.model_args={arguments}: {error}") from None
        except (OSError, RuntimeError, ValueError) as error:
            if not download:
                raise InputError(f"timm could not make {self.model}: {error}") from None
            raise InputError(
                f"the weights of {self.model} could not be fetched ({type(error).__name__}: {str(error)[:200]}); "
                "connect to the internet to download them, or pass backbone.checkpoint=<file>"
            ) from None
