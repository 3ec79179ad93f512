"""Every key of an image run, what there is to choose from, what a run is called, and the building of what is chosen.

Importing this package registers the schemas, the methods and the defaults of every scorer and sampler with Hydra; the
schema of text runs is in prunetune.instruct.registration. It
loads no torch, so that `--help` and `--cfg job` answer at once.
"""

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from prunetune.config import catalogue, methods
from prunetune.config.names import run_folder
from prunetune.config.schema import Config, GridConfig


def register() -> None:
    """Tell Hydra the schemas, the catalogue and the methods, and OmegaConf the resolver of the run's folder."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(name="grid_schema", node=GridConfig)
    catalogue.register(store)
    methods.register(store)
    OmegaConf.register_new_resolver("run_folder", lambda *, _root_: run_folder(_root_), replace=True)


register()
