"""Decide which settings identify a run, and whether two configurations describe the same run."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prunetune.config import catalogue
from prunetune.config.names import reads_proxy

# Two runs that differ only in these are the same run.
NOT_RECORDED = ("results_dir", "device", "engine", "ray_address", "until", "wandb")
# These keys say where code lives or what a message tells users to type. They do not change the outcome of a run.
NOT_COMPARED = ("_target_", "pipeline", "prepare")
# These options were removed, and every run now behaves as with the value given here. An older run that recorded this
# value is the same run as one without the option.
REMOVED = {
    "scorer.scope": "global",
    "scorer.prototypes": "unmasked",
    "sampler.remainder": "second",
    "gamma_search.split": "nested",
}
# These options were added later. A run that recorded none of them behaved as with the value given here.
ADDED = {
    "dataset.subpool": None,
    "sampler.graph": "directed",
    "backbone.use_ema": True,
    "scoring_backbone.use_ema": True,
    "finetune.last_batch": "keep",
    "proxy.last_batch": "keep",
    "gamma_search.keeps": "fraction",
}
UNRECORDED = {**REMOVED, **ADDED}  # What the absence of an option in a recorded configuration means.
# As in prunetune.samplers.candidates, whose import would load torch.
OPEN = ("gamma", "end", "beta")
# What a sampler is called today that recorded no value for an added option.
NAMED_SINCE = {("d2", "graph"): "d2_directed"}


def recorded(cfg: DictConfig) -> dict[str, Any]:
    """Return the part of a configuration that result.json keeps: all keys but `NOT_RECORDED`.

    The sampler `auto` is replaced by the scorer's own sampler, since `scorer=random` and `method=random` are the same
    run.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    scorer = values["scorer"]
    values["sampler"] = sampler_settings(values["sampler"], scorer["own_sampler"])
    if not any(values["sampler"].get(key) == "auto" for key in OPEN) and "gamma_search" in values:
        values["gamma_search"].pop("keeps", None)  # A run without a search does not depend on it.
    if not (reads_proxy(scorer) or reads_proxy(values["sampler"])):
        values["proxy"] = None  # Neither the scorer nor the sampler reads the proxy, so it does not identify the run.
    return {key: value for key, value in values.items() if key not in NOT_RECORDED}


def differences(before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """Return the differences of two recorded configurations as (key, old, new). A missing value is None."""
    return list(_differences(before, now, ""))


def _differences(before: Any, now: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in _compared_keys(before, now):
            place = f"{path}.{key}" if path else key
            absent = UNRECORDED.get(place)
            yield from _differences(before.get(key, absent), now.get(key, absent), place)
    elif before != now:
        yield path, before, now


def _compared_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    return sorted(key for key in before.keys() | now.keys() if key not in NOT_COMPARED)


def sampler_today(name: str, settings: Mapping[str, Any] | None) -> str:
    """Return what the sampler of a finished run is called today.

    Args:
        name: its name in the result.
        settings: its recorded settings, None if there are none.
    """
    changed = [now for (sampler, key), now in NAMED_SINCE.items() if sampler == name and key not in (settings or {key})]
    return changed[0] if changed else name


def sampler_settings(sampler: Mapping[str, Any], own: str) -> dict[str, Any]:
    """Return the settings of a run's sampler, with `auto` replaced by the scorer's own sampler.

    The settings of the own sampler come from the catalogue. Those that a preset or the command line has set override
    them.

    Raises:
        InputError: the scorer's own sampler is not in the catalogue.
    """
    settings = OmegaConf.to_container(sampler) if isinstance(sampler, DictConfig) else dict(sampler)
    if settings.get("name") != "auto":
        return settings
    known = catalogue.settings("sampler", own)
    return {**known, **settings, "_target_": known["_target_"], "name": own}
