"""What a text run is called, and the folder that follows from it. Loads no torch."""

from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig

from prunetune.config.names import Names, cell_folder, group_name


def is_text(cfg: Mapping[str, Any]) -> bool:
    """Whether this is the configuration of a text run."""
    return "corpus" in cfg


def resolve_text_names(cfg: DictConfig) -> Names:
    """Resolve the names of a text run, `auto` among them."""
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
    """Return the folder of a text run below its results, from names alone; never raises."""
    try:
        return cell_folder(resolve_text_names(cfg), cfg.ratio, cfg.seed, cfg.tag)
    except Exception:  # Hydra evaluates this before our own checks can explain what is wrong
        return "unnamed"
