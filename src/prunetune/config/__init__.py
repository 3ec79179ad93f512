"""The configuration of image runs: its keys, its choices, the names of runs, and how objects are built from it.

Importing this package registers the schemas, the methods and the defaults of every scorer and sampler with Hydra. The
schema of text runs is registered by prunetune.instruct.registration. The import does not load torch, so that `--help`
and `--cfg job` answer quickly.
"""

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from prunetune.config import catalogue, methods
from prunetune.config.names import run_folder
from prunetune.config.schema import Config, GridConfig


def register() -> None:
    """Register the schemas, the catalogue and the methods with Hydra, and the `run_folder` resolver with OmegaConf."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(name="grid_schema", node=GridConfig)
    catalogue.register(store)
    methods.register(store)
    OmegaConf.register_new_resolver("run_folder", lambda *, _root_: run_folder(_root_), replace=True)


register()
