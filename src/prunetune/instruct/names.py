"""The names of a text run, and its folder, which is made of them. This module does not import torch."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from prunetune.config.names import Names, cell_folder, group_name


def is_text(cfg: Mapping[str, Any]) -> bool:
    """Return whether this is the configuration of a text run."""
    return "corpus" in cfg


def resolve_text_names(cfg: DictConfig) -> Names:
    """Return the names of a text run. The sampler `auto` is replaced by the name of the scorer's own sampler."""
    llm, sampler = group_name(cfg.llm, "model"), group_name(cfg.sampler, "name")
    return Names(
        dataset=group_name(cfg.corpus, "path"),
        backbone=llm,
        scoring_backbone=llm if cfg.scoring_llm is None else group_name(cfg.scoring_llm, "model"),
        scorer=group_name(cfg.text_scorer, "path"),
        sampler=cfg.text_scorer.own_sampler if sampler == "auto" else sampler,
        finetune=cfg.sft.name,
    )


def text_run_folder(cfg: DictConfig) -> str:
    """Return the folder of a text run below <results_dir>/runs. It never raises."""
    try:
        return cell_folder(resolve_text_names(cfg), cfg.ratio, cfg.seed, cfg.tag)
    except Exception:  # Hydra evaluates this before the package's own checks, which explain the error better.
        return "unnamed"
