"""Build the object that a configuration group describes."""

import dataclasses
from collections.abc import Mapping
from importlib import import_module
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prunetune.base.errors import InputError, suggestion
from prunetune.config.removed import explanation, without_removed
from prunetune.config.schema import Config, GridConfig

# Older results and users' own YAML files name the classes by these earlier packages.
MOVED = {"prunetune.datasets.": "prunetune.data.readers.", "prunetune.backbones.": "prunetune.networks.backbone."}
FOR_PEOPLE = ("name", "own_sampler", "uses_proxy")  # Keys that a group may have and that its class may not accept.


def build(group: Mapping[str, Any]) -> Any:
    """Make the object that a group's YAML describes: its `_target_` with the other keys as arguments.

    Raises:
        InputError: a key that the class does not have, or a value that it refuses or cannot read.
    """
    values = OmegaConf.to_container(group, resolve=True) if isinstance(group, DictConfig) else dict(group)
    target = values.pop("_target_", None)
    if target is None or not str(target).startswith("prunetune."):
        raise InputError(f"a group needs a _target_ inside prunetune, got {target!r}")
    made_class = class_of(target)
    values = without_removed(values, made_class)
    fields = {field.name for field in dataclasses.fields(made_class)}
    for key in FOR_PEOPLE:
        if key not in fields:
            values.pop(key, None)
    for key in [key for key, value in values.items() if value == "???"]:
        raise InputError(f"{made_class.__name__} needs a {key}; pass {made_class.__name__.lower()}.{key}=<{key}>")
    for key in values.keys() - fields:
        raise InputError(
            f"{made_class.__name__} has no option {key!r}; it has {sorted(fields)}.{suggestion(key, fields)}"
        )
    try:
        return made_class(**values)
    except InputError:
        raise
    except (TypeError, ValueError) as error:  # A value has the wrong type, such as a word in place of a number.
        raise InputError(f"{made_class.__name__} refuses its options {values}: {error}") from None


def class_of(target: str) -> type:
    """Return the class that a `_target_` names. Names of earlier versions (`MOVED`) are accepted too.

    Raises:
        InputError: there is no such class.
    """
    module, _, name = target.rpartition(".")
    for before, now in MOVED.items():
        if target.startswith(before):
            module = now.rstrip(".")
    try:
        return getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise InputError(f"the _target_ {target} cannot be found: {error}") from None


def check_keys(cfg: Mapping[str, Any], schema: type | None = None) -> None:
    """Refuse keys that no run reads. Hydra itself accepts any key that is written as `+key=value`.

    Args:
        cfg: the composed configuration.
        schema: a dataclass whose fields are the keys; by default that of an image run or a grid.

    Raises:
        InputError: the configuration has a key that the schema does not have.
    """
    _check_keys(cfg, schema or (GridConfig if "methods" in cfg else Config), "")


def _check_keys(group: Mapping[str, Any], schema: type, prefix: str) -> None:
    types = {field.name: field.type for field in dataclasses.fields(schema)}
    for key in group:
        if key not in types:
            inside = [f"{name}.{key}" for name in types if isinstance(group.get(name), Mapping) and key in group[name]]
            meant = f" Did you mean {inside[0]}?" if inside else suggestion(str(key), types)
            place = prefix.rstrip(".") or "the configuration"
            unknown = f"there is no option {prefix}{key}; {place} has {', '.join(types)}.{meant}"
            raise InputError(explanation(f"{prefix}{key}") or unknown)
        if dataclasses.is_dataclass(types[key]):
            _check_keys(group[key], types[key], f"{prefix}{key}.")
