"""The LoRA adapter of a language model, through peft: put on, read, written and taken off."""

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

UNTUNED = "untuned"  # the file that stands for "no adapter" in a folder


def attach(model: nn.Module, settings: SftSettings, seed: int) -> nn.Module:
    """Put a new adapter on a frozen base model and return the two as one peft model.

    The adapter's first factor is drawn from the seed, the second is zero, so that the function does not change yet. Its
    weights are float32 whatever the base is stored in. The base stays frozen. A base in 8 or 4 bit is prepared as peft
    asks for it: what is not quantised becomes float32.

    Raises:
        InputError: no linear layer of the model has one of the wanted names, or the model carries an adapter already.
    """
    peft = needed("peft")
    if isinstance(model, peft.PeftModel):
        raise InputError("the model carries an adapter already; take it off with adapter.detach(model)")
    _check_targets(model, settings.lora_targets)
    config = peft.LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.lora_r,
        lora_alpha=settings.lora_alpha,
        lora_dropout=settings.lora_dropout,
        target_modules=list(settings.lora_targets),
        bias="none",
    )
    with seeded("sft", "adapter", seed), _up_to_date():  # peft draws from the global state
        return peft.get_peft_model(_prepared(model, peft), config)


def detach(model: nn.Module) -> nn.Module:
    """Take the adapter off and return the base model, whose weights were never changed; a bare model as it is."""
    if not hasattr(model, "unload"):
        return model
    base = model.unload()
    vars(base).pop("peft_config", None)  # else the next adapter would be called a second one
    return base.requires_grad_(False).eval()


def adapter_state(model: nn.Module) -> dict[str, Tensor]:
    """Return copies on the CPU of the adapter's tensors, which are the model's trainable ones, by name."""
    return {name: tensor.detach().cpu().clone() for name, tensor in trainable(model).items()}


def load_adapter_state(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Write tensors that `adapter_state` has read into the adapter.

    Raises:
        InputError: they are not this adapter's.
    """
    own = trainable(model)
    if {name: tensor.shape for name, tensor in own.items()} != {name: tensor.shape for name, tensor in state.items()}:
        raise InputError("the stored adapter has other layers or another rank than the model's; delete the checkpoint")
    with torch.no_grad():
        for name, tensor in own.items():
            tensor.copy_(state[name])


def save_adapter(model: nn.Module, folder: Path) -> None:
    """Write the adapter into a folder in peft's own form, which peft's `from_pretrained` reads too.

    A model without adapter (sft=none) leaves an empty file named untuned.
    """
    folder.mkdir(parents=True, exist_ok=True)
    if not isinstance(model, needed("peft").PeftModel):
        (folder / UNTUNED).touch()
        return
    model.save_pretrained(str(folder), save_embedding_layers=False)  # "auto" would ask the hub about the base


def load_adapter(model: nn.Module, folder: Path) -> nn.Module:
    """Return a frozen base model with the adapter that `save_adapter` has written, ready for evaluation.

    Raises:
        InputError: the folder holds no adapter, or one of another model.
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
    """Return the parameters that are trained, by name."""
    return {name: tensor for name, tensor in model.named_parameters() if tensor.requires_grad}


@contextmanager
def _up_to_date() -> Iterator[None]:
    """Say nothing of names that transformers has changed and peft still uses."""
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
