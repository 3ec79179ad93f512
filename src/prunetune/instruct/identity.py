"""Decide which settings identify a text run. This module does not import torch itself."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from prunetune.config.identity import NOT_RECORDED, sampler_settings


def text_recorded(cfg: DictConfig) -> dict[str, Any]:
    """Return the part of a text run's configuration that result.json keeps: all keys but `NOT_RECORDED`.

    The sampler `auto` is replaced by the scorer's own sampler, since `text_scorer=random` and `text_method=random` are
    the same run.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    values["sampler"] = sampler_settings(values["sampler"], values["text_scorer"]["own_sampler"])
    return {key: value for key, value in values.items() if key not in NOT_RECORDED}
