"""Every key of an image run, what a run is called, and the building of what a YAML file describes.

Importing this package registers the schemas with Hydra; those of text runs are in prunetune.instruct.registration. It
loads no torch, so that `--help` and `--cfg job` answer at once.
"""

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from prunetune.config.names import run_folder
from prunetune.config.schema import Config, GridConfig


def register() -> None:
    """Tell Hydra the schemas, and OmegaConf the resolver of the run's folder."""
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(name="grid_schema", node=GridConfig)
    OmegaConf.register_new_resolver("run_folder", lambda *, _root_: run_folder(_root_), replace=True)


register()
