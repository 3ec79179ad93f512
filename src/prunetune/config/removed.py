"""What is done with options of earlier versions that were removed."""

import re
from collections.abc import Mapping
from typing import Any

from prunetune.base.errors import InputError
from prunetune.config.identity import REMOVED

GROUPS = {"prunetune.scorers": "scorer", "prunetune.samplers": "sampler"}  # the package of a class: its config group


def explanation(text: str) -> str | None:
    """Return one line on the removed option that a text names, such as an error of Hydra; None where it names none."""
    return next((_line(key) for key in REMOVED if re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", text)), None)


def without_removed(values: Mapping[str, Any], made_class: type) -> dict[str, Any]:
    """Return the settings of a class without options that were removed and have the value that is left.

    Results of earlier versions and YAML files that people keep name such options.

    Raises:
        InputError: a removed option has another value.
    """
    group = GROUPS.get(".".join(made_class.__module__.split(".")[:2]))
    kept = dict(values)
    for key in values.keys() - made_class.__dataclass_fields__.keys():
        if f"{group}.{key}" not in REMOVED:
            continue
        if kept.pop(key) != REMOVED[f"{group}.{key}"]:
            raise InputError(f"{_line(f'{group}.{key}')}, got {values[key]!r}")
    return kept


def _line(key: str) -> str:
    return f"the option {key} was removed, and every run now takes its value {REMOVED[key]}; leave the option out"
