"""Offline W&B runs for tests. They stay out of the home folder, and W&B's own reader reads them back."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest


def isolate(patch: pytest.MonkeyPatch, home: Path) -> None:
    for name in [name for name in os.environ if name.startswith("WANDB_")]:
        patch.delenv(name)
    patch.setenv("NETRC", str(home / "netrc"))
    patch.setenv("WANDB_CONFIG_DIR", str(home / "config"))
    patch.setenv("WANDB_CACHE_DIR", str(home / "cache"))
    patch.setenv("WANDB_ERROR_REPORTING", "false")


def read_run(folder: Path) -> list[dict]:
    """Return the records of the only run below the folder, through W&B's own reader."""
    (path,) = folder.rglob("*.wandb")
    command = [sys.executable, "-m", "wandb", "leet", "inspect", "--json", str(path)]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in printed.splitlines() if line.startswith("{")]


def rows(records: list[dict]) -> list[dict]:
    return [record["history"]["item"] for record in records if record["type"] == "history"]


def read_tables(folder: Path, key: str) -> list[dict]:
    paths = sorted(folder.rglob(f"files/media/table/**/{key}_*.table.json"))
    return [json.loads(path.read_text()) for path in paths]
