"""The LoRA adapter of a language model: attach, detach, save and load it with peft."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from prunetune.base.errors import InputError
from prunetune.base.seeding import seeded
from prunetune.instruct.extra import needed
from prunetune.instruct.tuning.sft_settings import SftSettings

UNTUNED = "untuned"  # An empty file of this name means that a folder has no adapter.


def attach(model: nn.Module, settings: SftSettings, seed: int) -> nn.Module:
    """Attach a new adapter to a frozen base model, and return both as one peft model.

    The first factor of the adapter is drawn from the seed and the second is zero, so that the outputs do not change
    yet. The weights of the adapter are always float32. The base stays frozen. A base in 8 or 4 bits is prepared as peft
    requires: its weights that are not quantised become float32.

    Raises:
        InputError: no linear layer of the model has one of the wanted names, or the model already has an adapter.
    """
    peft = needed("peft")
    if isinstance(model, peft.PeftModel):
        raise InputError("the model already has an adapter; remove it with adapter.detach(model)")
    _check_targets(model, settings.lora_targets)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.lora_targets),
        bias="none",
    )
    with seeded("sft", "adapter", seed), _up_to_date():  # peft uses the global random state.
        return peft.get_peft_model(_prepared(model, peft), config)


def detach(model: nn.Module) -> nn.Module:
    """Remove the adapter, if there is one, and return the base model, whose weights have not changed."""
    if not hasattr(model, "unload"):
        return model
    base = model.unload()
    vars(base).pop("peft_config", None)  # Otherwise peft would treat the next adapter as a second one.
    return base.requires_grad_(False).eval()


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of the adapter by name, copied to the CPU. They are the trainable tensors of the model."""
    return {name: tensor.detach().cpu().clone() for name, tensor in trainable(model).items()}


def load_adapter_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Copy tensors from `adapter_state` into the adapter.

    Raises:
        InputError: they belong to another adapter.
    """
    own = trainable(model)
    if {name: tensor.shape for name, tensor in own.items()} != {name: tensor.shape for name, tensor in state.items()}:
        raise InputError("the stored adapter has other layers or another rank than the model's; delete the checkpoint")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def save_adapter(model: nn.Module, folder: Path) -> None:
    """Write the adapter into a folder in the format of peft, which peft's `from_pretrained` can read.

    For a model without adapter (sft=none) it writes an empty file named untuned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(model, needed("peft").PeftModel):
        (folder / UNTUNED).touch()
        return
    model.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" would contact the hub.


def load_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """Return a frozen base model with the adapter that `save_adapter` has written, in evaluation mode.

    Raises:
        InputError: the folder has no adapter, or that of another model.
    """
    if (folder / UNTUNED).is_file():
        return model
    if not (folder / "adapter_config.json").is_file():
        raise InputError(f"{folder} holds no adapter (adapter_config.json); delete it and fine-tune again")
    try:
        with _up_to_date():
            tuned = needed("peft").PeftModel.from_pretrained(model, str(folder), is_trainable=False)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"the adapter in {folder} does not fit the model: {str(error).splitlines()[0]}") from error
    return tuned.requires_grad_(False).eval()


def trainable(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name."""
    return {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


@contextmanager
def _up_to_date() -> Iterator[None]:
    """Silence warnings about names that transformers has renamed and peft still uses."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`(is_)?gradient_checkpointing(_enable)?` is deprecated", FutureWarning)
        yield


def _check_targets(model: nn.Module, targets: tuple[str, ...]) -> None:
    names = {name.rsplit(".", 1)[-1] for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    missing = [target for target in targets if target.rsplit(".", 1)[-1] not in names]
    if missing:
        raise InputError(
            f"sft.lora_targets: the model has no linear layer named {', '.join(missing)}; "
            f"it has {', '.join(sorted(names)) or 'none'}"
        )


def _prepared(model: nn.Module, peft: Any) -> nn.Module:
    if getattr(model, "is_quantized", False):
        return peft.prepare_model_for_kbit_training(
            model,
            use_gradient_checkpointing=any(getattr(part, "gradient_checkpointing", False) for part in model.modules()),
            gradient_checkpointing_kwargs={"use_reentrant": False},
        )
    return model.requires_grad_(False)
