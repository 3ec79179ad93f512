"""Which settings identify a run, and how two configurations are compared."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prunetune.config import catalogue
from prunetune.config.names import is_text, reads_proxy

NOT_COMPARED = ("results_dir", "device", "until", "wandb")  # two runs that differ only here are the same run


def compared(cfg: DictConfig) -> dict[str, Any]:
    """Return what identifies a run: its whole configuration but for where, on what and how loudly it ran.

    The sampler `auto` is written out, since `scorer=random` and `method=random` are the same run.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    scorer = values["text_scorer" if is_text(values) else "scorer"]
    values["sampler"] = sampler_settings(values["sampler"], scorer["own_sampler"])
    if not is_text(values) and not (reads_proxy(scorer) or reads_proxy(values["sampler"])):
        values["proxy"] = None  # nothing reads it
    return {key: value for key, value in values.items() if key not in NOT_COMPARED}


def sampler_settings(sampler: Mapping[str, Any], own: str) -> dict[str, Any]:
    """Return what describes a run's sampler, `auto` written out as the scorer's own.

    Its numbers are those of the catalogue, but for those that a preset or the command line has set.

    Raises:
        InputError: the scorer's own sampler is not in the catalogue.
    """
    settings = OmegaConf.to_container(sampler) if isinstance(sampler, DictConfig) else dict(sampler)
    if settings.get("name") != "auto":
        return settings
    known = catalogue.settings("sampler", own)
    return {**known, **settings, "_target_": known["_target_"], "name": own}
