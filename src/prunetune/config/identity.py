"""Which settings identify a run, and whether two configurations mean the same run."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prunetune.config import catalogue
from prunetune.config.names import reads_proxy

NOT_RECORDED = ("results_dir", "device", "until", "wandb")  # two runs that differ only here are the same run
# where code lives and what a message tells people to type: a group is identified by its name and its settings
NOT_COMPARED = ("_target_", "pipeline", "prepare")
# options that were removed, and the one value of each that is left: a run from before that has it is the same run
REMOVED = {
    "scorer.scope": "global",
    "scorer.prototypes": "unmasked",
    "sampler.remainder": "second",
    "gamma_search.split": "nested",
}


def recorded(cfg: DictConfig) -> dict[str, Any]:
    """Return what result.json keeps of a configuration: all but where, on what and how loudly the run ran.

    The sampler `auto` is written out, since `scorer=random` and `method=random` are the same run.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    scorer = values["scorer"]
    values["sampler"] = sampler_settings(values["sampler"], scorer["own_sampler"])
    if not (reads_proxy(scorer) or reads_proxy(values["sampler"])):
        values["proxy"] = None  # nothing reads it
    return {key: value for key, value in values.items() if key not in NOT_RECORDED}


def differences(before: Any, now: Any) -> list[tuple[str, Any, Any]]:
    """Return what two recorded configurations differ in: the key and its two values, None where it is missing."""
    return list(_differences(before, now, ""))


def _differences(before: Any, now: Any, path: str) -> Iterator[tuple[str, Any, Any]]:
    if isinstance(before, Mapping) and isinstance(now, Mapping):
        for key in _compared_keys(before, now):
            place = f"{path}.{key}" if path else key
            yield from _differences(before.get(key, REMOVED.get(place)), now.get(key, REMOVED.get(place)), place)
    elif before != now:
        yield path, before, now


def _compared_keys(before: Mapping[str, Any], now: Mapping[str, Any]) -> Iterable[str]:
    return sorted(key for key in before.keys() | now.keys() if key not in NOT_COMPARED)


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
