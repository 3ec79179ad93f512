"""Importing a part of the library loads few other modules. Each import is tested in a separate process."""

import functools
import json
import subprocess
import sys

import pytest

LISTED = "; import json, sys; print(json.dumps(sorted(sys.modules)))"


@functools.cache
def loaded_by(statement: str) -> set[str]:
    """Return the modules that a new Python process has loaded after an import statement."""
    outcome = subprocess.run([sys.executable, "-c", statement + LISTED], capture_output=True, text=True, check=True)
    return set(json.loads(outcome.stdout))


@pytest.mark.parametrize(
    ("statement", "most"),
    [
        ("import prunetune", 1),
        ("from prunetune import DLC", 25),
        ("from prunetune import FlexRand", 25),
        ("from prunetune import Pool", 25),
        ("from prunetune import TensorSignals", 50),  # It trains linear probes if a scorer reads a proxy.
        ("from prunetune import prune", 134),  # It reads any kind of data.
    ],
)
def test_an_import_loads_few_of_our_modules(statement, most):
    ours = {name for name in loaded_by(statement) if name.split(".")[0] == "prunetune"}
    assert len(ours) <= most, sorted(ours)


@pytest.mark.parametrize("name", ["DLC", "FlexRand", "Pool", "Signals"])
def test_a_scorer_alone_loads_no_logger_no_configuration_and_no_networks(name):
    loaded = loaded_by(f"from prunetune import {name}")
    assert {"torch", "prunetune"} <= loaded
    assert {"wandb", "hydra", "omegaconf", "timm", "torchvision", "sklearn", "scipy", "pandas"} & loaded == set()


def test_what_prune_prints_first_needs_no_torch():
    """The commands print how much is kept before they import the rest, which takes seconds."""
    loaded = loaded_by("import prunetune.cli, prunetune.own.keep")
    assert {"torch", "numpy", "pandas", "sklearn", "timm"} & loaded == set()


def test_the_readers_load_no_client_of_the_hub():
    assert "requests" not in loaded_by("import prunetune.data.readers")
