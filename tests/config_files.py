"""The YAML files of the config groups, for tests that run over all of them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from runs import ROOT

CONFIGS = ROOT / "configs"


def files(*groups: str, without: set[str] = frozenset()) -> list:
    """Return pytest parameters, one for each YAML of these groups."""
    paths = sorted(path for group in groups for path in (CONFIGS / group).glob("*.yaml"))
    return [pytest.param(path, id=label(path)) for path in paths if label(path) not in without]


def label(path: Path) -> str:
    return f"{path.parent.name}/{path.stem}"


def load(path: Path) -> dict[str, Any]:
    return yaml.safe_load(path.read_text())
