"""Fixtures of the tests of text runs, which do not use the hub, and the helpers of this folder."""

import os
from importlib.util import find_spec

import pytest

os.environ["HF_HUB_OFFLINE"] = "1"  # This must be set before the first import of huggingface_hub, which reads it once.
os.environ["HF_DATASETS_OFFLINE"] = "1"
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

if find_spec("transformers") is None:
    collect_ignore_glob = ["*"]  # These tests need the extra: pip install -e '.[instruct]'.


@pytest.fixture(autouse=True)
def _plain_environment(monkeypatch):
    """Remove the variables of a launcher, so that every test runs as a single process."""
    for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
