"""Which settings identify a run, and how two configurations are compared."""

import dataclasses
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prunetune.config.names import reads_proxy

NOT_COMPARED = ("results_dir", "device", "until", "wandb")  # two runs that differ only here are the same run


def compared(cfg: DictConfig) -> dict[str, Any]:
    """Return what identifies a run: its whole configuration but for where, on what and how loudly it ran.

    The sampler `auto` is written out, since `scorer=random` and `method=random` are the same run.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    scorer = values["scorer"]
    values["sampler"] = sampler_settings(values["sampler"], scorer["own_sampler"])
    if not (reads_proxy(scorer) or reads_proxy(values["sampler"])):
        values["proxy"] = None  # nothing reads it
    return {key: value for key, value in values.items() if key not in NOT_COMPARED}


def sampler_settings(sampler: Mapping[str, Any], own: str) -> dict[str, Any]:
    """Return what describes a run's sampler, `auto` written out as the scorer's own.

    Its numbers come from the class, whose defaults are those of its YAML, but for those that a preset or the command
    line has set.
    """
    settings = OmegaConf.to_container(sampler) if isinstance(sampler, DictConfig) else dict(sampler)
    if settings.get("name") != "auto":
        return settings
    from prunetune.samplers import SAMPLERS  # imports torch

    made = SAMPLERS[own]()
    target = f"prunetune.samplers.{type(made).__name__}"
    return {**dataclasses.asdict(made), **settings, "_target_": target, "name": own}
