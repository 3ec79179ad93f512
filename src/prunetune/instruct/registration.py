"""Importing this module tells Hydra the schema of a text run, and OmegaConf the resolver of its folder.

Every front door that composes text runs imports it. It loads neither torch nor transformers, so that `--help` and
`--cfg job` answer at once.
"""

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from prunetune.instruct.names import text_run_folder
from prunetune.instruct.schema import InstructConfig


def register() -> None:
    """Register the schema and the resolver; to do so again changes nothing."""
    ConfigStore.instance().store(name="instruct_schema", node=InstructConfig)
    OmegaConf.register_new_resolver("text_run_folder", lambda *, _root_: text_run_folder(_root_), replace=True)


register()
