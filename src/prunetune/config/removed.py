"""Handle options of earlier versions that were removed."""

import re
from collections.abc import Mapping
from typing import Any

from prunetune.base.errors import InputError
from prunetune.config.identity import REMOVED

# Maps the package of a class to its config group.
GROUPS = {"prunetune.scorers": "scorer", "prunetune.samplers": "sampler"}


def explanation(text: str) -> str | None:
    """Return one line about the removed option that a text (such as an error of Hydra) names; None if there is none."""
    return next((_line(key) for key in REMOVED if re.search(rf"(?<![\w.]){re.escape(key)}(?![\w.])", text)), None)


def without_removed(values: Mapping[str, Any], made_class: type) -> dict[str, Any]:
    """Return the settings of a class without removed options that have the one value that is still supported.

    Results of earlier versions and users' own YAML files may contain such options.

    Raises:
        InputError: a removed option has a value that is no longer supported.
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
