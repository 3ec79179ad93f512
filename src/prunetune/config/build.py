"""Build the object that a configuration group describes."""

import dataclasses
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import import_module
from inspect import isabstract
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prunetune.base.errors import InputError, suggestion
from prunetune.config.removed import explanation, without_removed
from prunetune.config.schema import Config, GridConfig

# Older results and users' own YAML files name the classes by these earlier packages.
MOVED = {"prunetune.datasets.": "prunetune.data.readers.", "prunetune.backbones.": "prunetune.networks.backbone."}
# These groups may be null. Each maps to the word that chooses one.
SCORING = {"scoring_backbone": "backbone@scoring_backbone", "scoring_llm": "llm@scoring_llm"}
MIXED = ("ratio",)  # The value is a number or a text, which the schema can only call Any, as it calls a group.
FOR_PEOPLE = ("name", "own_sampler", "uses_proxy")  # Keys that a group may have and that its class may not accept.


def build(group: Any, key: str = "", part: type | tuple[type, ...] = object, home: str = "") -> Any:
    """Make the object that a group's YAML describes: its `_target_` with the other keys as arguments.

    Args:
        group: the settings of the group.
        key: the group, as the user writes it, such as "scorer"; "" if nobody wrote one.
        part: the class or classes that the object must be an instance of.
        home: the package in which the class must have its name, such as "prunetune.scorers"; "" for any place.

    Raises:
        InputError: the group is no mapping, its `_target_` is no such part, the class does not have one of the keys, or
            it refuses or cannot read a value.
    """
    values = OmegaConf.to_container(group, resolve=True) if isinstance(group, DictConfig) else group
    check_group(key or "a group", values)
    made_class = part_of(values.get("_target_"), key or "a group", part, home)
    values = without_removed({name: value for name, value in values.items() if name != "_target_"}, made_class)
    fields = {field.name: field.type for field in dataclasses.fields(made_class)}
    values = {name: value for name, value in values.items() if name in fields or name not in FOR_PEOPLE}
    for name in [name for name, value in values.items() if value == "???"]:
        raise InputError(
            f"{made_class.__name__} needs a {name}; pass {key or made_class.__name__.lower()}.{name}=<{name}>"
        )
    for name in values.keys() - fields:
        raise InputError(
            f"{made_class.__name__} has no option {name!r}; it has {sorted(fields)}.{suggestion(name, fields)}"
        )
    try:
        return made_class(**{name: _as_text(value, fields[name]) for name, value in values.items()})
    except InputError:
        raise
    except (TypeError, ValueError) as error:  # A value has the wrong type, such as a word in place of a number.
        raise InputError(f"{made_class.__name__} refuses its options {values}: {error}") from None


def check_group(key: str, group: Any) -> None:
    """Refuse a group that is null, a word, a number or a list in place of settings.

    Raises:
        InputError: it is no mapping.
    """
    if not isinstance(group, Mapping):
        raise InputError(
            f"{key} must be the settings of a group, got {group!r}; choose one by its name: "
            f"{SCORING.get(key, key)}=<name> (--help lists the names)"
        )


def _as_text(value: Any, kind: Any) -> Any:
    """Return a number as text where the class expects text: YAML reads a folder or a name of digits as a number."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return str(value) if is_number and kind in (str, str | None) else value


def part_of(target: Any, key: str, part: type | tuple[type, ...], home: str) -> type:
    """Return the class that a `_target_` names, if it is one of the parts that may stand there; see `build`.

    Raises:
        InputError: it is not, or there is no such class.
    """
    if not isinstance(target, str) or not target.startswith("prunetune."):
        raise InputError(f"{key} needs a _target_ inside prunetune, got {target!r}")
    made_class = class_of(target)
    is_part = isinstance(made_class, type) and issubclass(made_class, part) and dataclasses.is_dataclass(made_class)
    if is_part and home:
        is_part = getattr(import_module(home), made_class.__name__, None) is made_class
    if not is_part or isabstract(made_class):
        raise InputError(
            f"{key} cannot be made by the _target_ {target}; leave out the key _target_ and choose by name"
        )
    return made_class


@contextmanager
def called(own: str, key: str) -> Iterator[None]:
    """Let the errors of a class that call its group `own` call it `key`, such as "backbone" and "scoring_backbone"."""
    try:
        yield
    except InputError as error:
        raise InputError(re.sub(rf"(?<![\w.]){own}\.", f"{key}.", str(error))) from None


def class_of(target: str) -> Any:
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
    except (ImportError, AttributeError, ValueError) as error:
        raise InputError(f"the _target_ {target} cannot be found: {error}") from None


def check_keys(cfg: Mapping[str, Any], schema: type | None = None) -> None:
    """Refuse keys that no run reads. Hydra itself accepts any key that is written as `+key=value`.

    Args:
        cfg: the composed configuration.
        schema: a dataclass whose fields are the keys; by default that of an image run or a grid.

    Raises:
        InputError: the configuration has a key that the schema does not have, or a group that is no mapping.
    """
    schema = schema or (GridConfig if "methods" in cfg else Config)
    _check_keys(cfg, schema, "")
    for field in dataclasses.fields(schema):
        is_group = field.type is Any and field.name not in MIXED
        if is_group and not (field.name in SCORING and cfg.get(field.name) is None):
            check_group(field.name, cfg.get(field.name))


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
