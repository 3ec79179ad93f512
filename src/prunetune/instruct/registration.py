"""Register text runs with Hydra: their schema, scorers, methods, and the resolver of their folder.

The import does it. Every module that composes text runs imports this one. It does not load torch or transformers, so
that `--help` and `--cfg job` answer quickly.
"""

from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from prunetune.config import catalogue, methods
from prunetune.instruct.methods import TEXT_METHODS
from prunetune.instruct.names import text_run_folder
from prunetune.instruct.schema import InstructConfig

KINDS = {"text_scorers": "text_scorer", "text_methods": "text_method", "corpora": "corpus", "llms": "llm"}


def register() -> None:
    """Register the schema, the scorers, the methods and the resolver. A repeated call changes nothing."""
    store = ConfigStore.instance()
    store.store(name="instruct_schema", node=InstructConfig)
    catalogue.add(KINDS, ("text_scorer", "prunetune.instruct"), ("text_method", TEXT_METHODS))
    catalogue.register(store, ["text_scorer"])
    methods.register(store, TEXT_METHODS, "text_method", "text_scorer")
    OmegaConf.register_new_resolver("text_run_folder", lambda *, _root_: text_run_folder(_root_), replace=True)


register()
