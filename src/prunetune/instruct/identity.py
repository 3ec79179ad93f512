"""Which settings identify a text run. Loads no torch, but where a sampler `auto` is written out."""

from typing import Any

from omegaconf import DictConfig, OmegaConf

from prunetune.config.identity import NOT_RECORDED, sampler_settings


def text_recorded(cfg: DictConfig) -> dict[str, Any]:
    """Return what result.json keeps of a text run: all but where, on what and how loudly it ran.

    The sampler `auto` is written out, since `text_scorer=random` and `text_method=random` are the same run.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    values["sampler"] = sampler_settings(values["sampler"], values["text_scorer"]["own_sampler"])
    return {key: value for key, value in values.items() if key not in NOT_RECORDED}
