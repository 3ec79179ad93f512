"""What a network needs before gradients are computed through it."""

import torch
from torch import Tensor, nn

from prunetune.networks.backbone import Network


def ready_for_gradients(model: nn.Module, device: str) -> None:
    """Prepare the networks inside a model, in place, for gradients of their weights on a device.

    On a CPU, torch's weight gradient of a strided 1 x 1 convolution over few channels writes outside its memory if the
    layout is channels last (seen with torch 2.14 in RepVGG, MobileOne and FastViT), so the default layout is used.
    """
    for network in model.modules():
        if isinstance(network, Network) and device == "cpu" and network.is_channels_last:
            network.is_channels_last = False
            network.model.to(memory_format=torch.contiguous_format)
    thaw(model)


def thaw(model: nn.Module) -> None:
    """Copy the tensors that modules have kept from a pass in inference mode, since autograd refuses them."""
    for module in model.modules():
        values = {**vars(module), **dict(module.named_buffers(recurse=False))}
        for name, value in values.items():
            if isinstance(value, Tensor) and value.is_inference():
                setattr(module, name, value.clone())
