"""A backbone: a pretrained network by its timm name, without its head."""

import contextlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
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
from prunetune.networks.maskable import MODULES, Maskable, enough_maskable

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
MOST_PIXELS = 8192
NUM_LAYERS = 4  # The method `forward_layers` reads this many layers.
HUB_FILES = ("model.safetensors", "pytorch_model.bin")  # The names under which timm looks for weights.
PACKAGED = {"prunetune_micro": micro.WEIGHTS}  # The weights of these networks come with the package.


class Network(nn.Module):
    """A network without head: uint8 images in, pooled features out.

    It normalises by itself, so that decoded images and views do not depend on the checkpoint they are shown to.
    """

    model: Any  # torch's type of a module does not know the attributes of timm's models.
    mean: Tensor
    std: Tensor

    def __init__(self, model: nn.Module, mean: Sequence[float], std: Sequence[float], input_size: int) -> None:
        super().__init__()
        self.set_model(model)
        self.input_size = input_size
        # This is the width of the pre-logits features.
        self.num_features: int = getattr(self.model, "head_hidden_size", self.model.num_features)
        self.mask_modules = "all"
        self.identity: dict[str, Any] = {}  # Stored products depend on this: the model, its weights and the statistics.
        self.origin: Backbone | None = None  # This backbone loaded the network.
        self.arguments: Mapping[str, Any] = {}  # The keyword arguments that timm made the model with.
        self.register_buffer("mean", 255 * torch.tensor(mean).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", 255 * torch.tensor(std).view(1, 3, 1, 1), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return features [B, D] of images [B, 3, S, S] uint8."""
        features: Tensor = self.model(self.normalise(images))  # [B, D]
        if features.ndim != 2 or features.shape[1] != self.num_features:
            raise InputError(
                f"the backbone should give [{len(images)}, {self.num_features}] features, gave {list(features.shape)}"
            )
        return features

    def set_model(self, model: nn.Module) -> None:
        """Take a model, laid out for forward passes: channels last makes convolutions faster.

        The layout exists for at most four dimensions, so a model with a larger parameter keeps torch's default layout.
        """
        tensors = [*model.parameters(), *model.buffers()]
        self.is_channels_last = all(tensor.ndim <= 4 for tensor in tensors)
        self.model = model.to(memory_format=torch.channels_last) if self.is_channels_last else model

    def forward_collapsed(self, images: Tensor) -> Tensor:
        """Return [B, 1]: the mean over tokens and features of the token tensor [B, tokens, D], as in the released code.

        If the last feature map is no token tensor, or there are several, return `forward`, as the released code does
        for maps.
        """
        tokens = self.model.forward_features(self.normalise(images))
        has_tokens = isinstance(tokens, Tensor) and tokens.ndim == 3
        return tokens.mean(dim=(1, 2)).unsqueeze(1) if has_tokens else self.forward(images)

    def forward_layers(self, images: Tensor) -> list[Tensor]:
        """Return features of growing depth, [B, D_l] float32 each, of images [B, 3, S, S] uint8.

        A network whose maps shrink gives the outputs of its last four stages. A network of equal blocks gives those of
        blocks 1/4, 2/4, 3/4 and 4/4, before any final norm. A map is averaged; a class token is read instead of it
        where timm shows it for every block.
        """
        shows_token = getattr(self.model, "cls_token", None) is not None and self._can_return_tokens
        outputs = self._intermediates(self.normalise(images), shows_token)
        maps = [output[0] if shows_token else output for output in outputs]  # [B, D_l, H, W]
        if len({tuple(each.shape[2:]) for each in maps}) > 1:
            chosen = list(range(len(maps)))[-NUM_LAYERS:]
        else:
            chosen = sorted({math.ceil(len(maps) * part / NUM_LAYERS) - 1 for part in range(1, NUM_LAYERS + 1)})
        if shows_token:
            return [outputs[layer][1][:, 0].float() for layer in chosen]
        return [maps[layer].float().mean(dim=(2, 3)) for layer in chosen]

    @property
    def _can_return_tokens(self) -> bool:
        """Whether timm returns the class token of every block of this model; some models add the token at their end."""
        return "return_prefix_tokens" in inspect.signature(self.model.forward_intermediates).parameters

    def _intermediates(self, normalised: Tensor, with_tokens: bool) -> list[Any]:
        """Return the map [B, D_l, H, W] of every stage or block, with the tokens in front of it if asked for."""
        if hasattr(self.model, "forward_intermediates"):
            tokens = {"return_prefix_tokens": True} if with_tokens else {}
            outputs: list[Any] = self.model.forward_intermediates(normalised, intermediates_only=True, **tokens)
            return outputs
        if not hasattr(self.model, "stages"):
            raise InputError(f"{self.title} does not show the outputs of its layers; use another backbone")
        maps = [self.model.stem(normalised)]
        for stage in self.model.stages:
            maps.append(stage(maps[-1]))
        return maps

    def check(self, forward: Callable[[Tensor], Any], what: str, way_out: str) -> None:
        """Run a forward pass on a black image, so that a network that cannot do it is refused before anything else.

        Args:
            forward: such as `forward_layers`.
            what: what the network should do, for the message.
            way_out: what to do if it does not, for the message.

        Raises:
            InputError: the network cannot do it.
        """
        image = torch.zeros(1, 3, self.input_size, self.input_size, dtype=torch.uint8, device=self.mean.device)
        try:
            with torch.no_grad():
                forward(image)
        except InputError:
            raise
        except Exception as error:
            # The network belongs to timm or to the user and may raise anything.
            why = " ".join(f"{type(error).__name__}: {error}".split())[:200]
            raise InputError(f"{self.title} does not {what} ({why}); {way_out}") from None

    @property
    def title(self) -> str:
        """The name of the network in messages."""
        return str(self.identity.get("model", type(self.model).__name__))

    def maskable(self, modules: str) -> Maskable:
        """Return the weights that may be masked; modules: "conv2d", "linear" or "all".

        Raises:
            InputError: they are too small a part of the network.
        """
        return enough_maskable(self.model, modules, self.title)

    def normalise(self, images: Tensor) -> Tensor:
        """Return images [B, 3, S, S] uint8 as float32 with the checkpoint's mean and standard deviation removed."""
        layout = torch.channels_last if self.is_channels_last else torch.contiguous_format
        normalised = images.to(torch.float32, memory_format=layout, copy=True)
        return normalised.sub_(self.mean).div_(self.std)


@dataclass(frozen=True)
class Backbone:
    """A pretrained network by its timm name.

    model: timm name, with its tag. pretrained: False gives random weights from a fixed seed. checkpoint: a local
    file instead of timm's download. use_ema: whether a moving average of the weights is read from a checkpoint that
    has one. model_args: timm's keyword arguments. normalization: "checkpoint" (the statistics that the weights were
    trained with) or "imagenet" (as the released code, for all). mean, std: three numbers in [0, 1] that override both.
    input_size: pixels, by default the model's own; position embeddings are resampled where the model needs it.
    mask_modules: what DLC masks, "conv2d", "linear" or "all". published_at: where the checkpoint comes from, if nothing
    here fetches it.
    """

    name: str | None = None
    model: str = "resnet18.tv_in1k"
    mask_modules: str = "all"
    pretrained: bool = True
    checkpoint: str | None = None
    use_ema: bool = True
    model_args: Mapping[str, Any] | None = None
    normalization: str = "checkpoint"
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    input_size: int | None = None
    published_at: str | None = None

    def __post_init__(self) -> None:
        checks.choice("backbone.normalization", self.normalization, ("checkpoint", "imagenet"))
        checks.choice("backbone.mask_modules", self.mask_modules, tuple(MODULES))
        # torch cannot resize images to a single pixel.
        checks.whole_number("backbone.input_size", self.input_size, 2, MOST_PIXELS, or_none=True, what="in pixels")
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
        arguments = self._arguments()
        network = self._load(arguments)
        failure = self._failure(network)
        if failure is not None and self.input_size and "img_size" not in arguments:
            # Some models that do not call their size fixed still have to be told it.
            with contextlib.suppress(InputError):
                told = self._load({**arguments, "img_size": self.input_size})
                network, failure = told, self._failure(told)
        if failure is not None:
            raise failure
        return network

    def _load(self, arguments: Mapping[str, Any]) -> Network:
        """Make the network with these arguments of timm and load its weights."""
        file = self.checkpoint or (PACKAGED.get(self.model) if self.pretrained else None)
        model: Any = self._create(arguments, download=self.pretrained and file is None)
        statistics = model.pretrained_cfg
        if file is not None:
            classifier = statistics.get("classifier") or ()
            prefixes = (classifier,) if isinstance(classifier, str) else tuple(classifier)
            heads = tuple(f"{prefix}." for prefix in prefixes)
            load_into(model, load_weights(file), heads, str(file), self.use_ema)
        mean, std = (self.mean or statistics["mean"]), (self.std or statistics["std"])
        if self.normalization == "imagenet":
            mean, std = (self.mean or IMAGENET_MEAN), (self.std or IMAGENET_STD)
        network = Network(model, mean, std, self._side(arguments, statistics)).eval()
        network.mask_modules, network.origin, network.arguments = self.mask_modules, self, arguments
        network.identity = {
            "model": self.model,
            "model_args": {key: str(value) for key, value in (self.model_args or {}).items()},
            "weights": weights_hash(model),
            "mean": [float(number) for number in mean],
            "std": [float(number) for number in std],
            "input_size": network.input_size,
        }
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

    def _arguments(self) -> dict[str, Any]:
        """Return timm's keyword arguments: those of the user, and the image size where the model has a fixed one."""
        arguments = dict(self.model_args or {})
        if arguments.get("features_only"):
            raise InputError(
                "backbone.model_args={features_only:true} makes a network of feature maps, and prunetune reads the "
                "pooled features of a whole one; drop it"
            )
        described = timm.get_pretrained_cfg(self.model)
        if self.input_size and described and described.fixed_input_size and described.input_size[-1] != self.input_size:
            arguments.setdefault("img_size", self.input_size)
        return arguments

    def _side(self, arguments: Mapping[str, Any], statistics: Mapping[str, Any]) -> int:
        """Return the side of the network's images in pixels."""
        side = self.input_size or arguments.get("img_size") or statistics["input_size"][-1]
        return int(side if isinstance(side, int | float) else side[-1])

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
            fresh = timm.create_model(self.model, pretrained=False, num_classes=0, **network.arguments)
        network.set_model(fresh)
        network.identity = {**network.identity, "weights": weights_hash(fresh)}
        return network.eval()

    def _failure(self, network: Network) -> InputError | None:
        """Run the network on one black image, so that a wrong input size is reported before anything else is done."""
        way_out = "pass another backbone.input_size or drop it" if self.input_size else "check backbone.model_args"
        size = network.input_size
        try:
            network.check(network.forward, f"take images of {size} x {size}", way_out)
        except InputError as error:
            return error
        return None

    def _create(self, arguments: Mapping[str, Any], download: bool) -> nn.Module:
        if download:
            self._check_reachable()
        try:
            with seeded("backbone", self.model):
                return timm.create_model(self.model, pretrained=download, num_classes=0, **arguments)
        except TypeError as error:
            if "img_size" in arguments and "img_size" not in (self.model_args or {}):
                raise InputError(f"{self.model} has one input size only; drop backbone.input_size") from None
            raise InputError(f"{self.model} refuses backbone.model_args={dict(arguments)}: {error}") from None
        except (AssertionError, AttributeError, KeyError, OSError, RuntimeError, ValueError) as error:
            if not download:
                raise InputError(f"timm could not make {self.model}: {error}") from None
            raise InputError(
                f"the weights of {self.model} could not be fetched ({type(error).__name__}: {str(error)[:200]}); "
                "connect to the internet to download them, or pass backbone.checkpoint=<file>"
            ) from None
