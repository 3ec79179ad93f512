"""The names of a run, and its folder, which is made of these names."""

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from prunetune.base.errors import InputError
from prunetune.config.subpool import subpool_of
from prunetune.samplers.amount import Amount, plain_ratio

PUBLISHED_PROXY = "full"  # With any other proxy the scorer's name gets a suffix, as in el2n_probe.
PROXY_SUFFIXES = {"linear_probe": "probe", "deepcore": "scratch"}


@dataclass(frozen=True)
class Names:
    """The names of a run. The run folder, the result and the log use these names only."""

    dataset: str
    backbone: str
    scoring_backbone: str
    scorer: str
    sampler: str
    finetune: str

    @property
    def backbone_folder(self) -> str:
        """The name of the backbone, followed by that of the scoring backbone if it is another network."""
        same = self.backbone == self.scoring_backbone
        return self.backbone if same else f"{self.backbone}_scored_by_{self.scoring_backbone}"

    def title(self, amount: Amount, seed: int) -> str:
        """Return the run's name in the log and in the viewer of runs."""
        return f"{self.dataset} {self.backbone_folder} {self.scorer}-{self.sampler} {amount} seed {seed}"


def resolve_names(cfg: DictConfig) -> Names:
    """Return the names of a run. The sampler `auto` is replaced by the name of the scorer's own sampler."""
    scoring = cfg.backbone if cfg.get("scoring_backbone") is None else cfg.scoring_backbone
    backbone, scoring_backbone = group_name(cfg.backbone, "model"), group_name(scoring, "model")
    if scoring is not cfg.backbone and scoring_backbone == backbone and scoring != cfg.backbone:
        raise InputError(
            f"the scoring backbone differs from the backbone but both are called {backbone!r}; "
            "pass scoring_backbone.name=<another name>"
        )
    scorer, sampler = group_name(cfg.scorer, "path"), group_name(cfg.sampler, "name")
    is_proxied = reads_proxy(cfg.scorer) and cfg.proxy.name != PUBLISHED_PROXY
    return Names(
        dataset=_dataset_name(cfg.dataset),
        backbone=backbone,
        scoring_backbone=scoring_backbone,
        scorer=f"{scorer}_{PROXY_SUFFIXES.get(cfg.proxy.name, cfg.proxy.name)}" if is_proxied else scorer,
        sampler=cfg.scorer.own_sampler if sampler == "auto" else sampler,
        finetune=cfg.finetune.name,
    )


def _dataset_name(group: DictConfig) -> str:
    """Return the name of a data set, with the fraction and seed of a sub-pool, so that each has folders of its own."""
    name, drawn = group_name(group, "id" if "id" in group else "root"), subpool_of(group)
    return name if drawn is None else f"{name}_subpool_{drawn[0]}_{drawn[1]}"


def reads_proxy(group: Mapping[str, Any]) -> bool:
    """Return whether a scorer or sampler with these settings reads the proxy."""
    return bool(group.get("uses_proxy")) or group.get("features") == "finetuned"


def run_folder(cfg: DictConfig) -> str:
    """Return the folder of a run below <results_dir>/runs, or of a grid below <results_dir>/grids. It never raises."""
    try:
        called = resolve_names(cfg)
        if "methods" in cfg:
            ratios = [plain_ratio(ratio) for ratio in cfg.ratios]
            return grid_folder(called, cfg.methods, ratios, cfg.seeds, cfg.tag)
        return cell_folder(called, plain_ratio(cfg.ratio), cfg.seed, cfg.tag)
    except Exception:  # Hydra evaluates this before the package's own checks, which explain the error better.
        return "unnamed"


def cell_folder(called: Names, ratio: float | str, seed: int, tag: str) -> str:
    """Return the folder of one run below <results_dir>/runs. ratio: in the form of `plain_ratio`."""
    run = [f"{called.scorer}-{called.sampler}", f"ratio_{ratio}", f"seed_{seed}", _plain(tag)]
    return "/".join([called.dataset, called.backbone_folder, called.finetune, *run])


def grid_folder(
    called: Names, methods: Sequence[str], ratios: Sequence[float | str], seeds: Sequence[int], tag: str
) -> str:
    """Return the folder of a grid below <results_dir>/grids."""
    cells = repr((list(methods), list(ratios), list(seeds), tag))
    digest = hashlib.sha256(cells.encode()).hexdigest()[:8]
    return "/".join([called.dataset, called.backbone_folder, called.finetune, digest])


def group_name(group: DictConfig, fallback: str) -> str:
    """Return the name of a group's choice in a form that fits a folder name.

    A choice without a name is called after the value of its key `fallback`, such as a file or a model.

    Raises:
        InputError: the group is a word instead of settings.
    """
    if not isinstance(group, Mapping):
        raise InputError(
            f"expected the settings of a group, got {group!r}; to score with another network pass "
            "backbone@scoring_backbone=<name>, with another language model llm@scoring_llm=<name>"
        )
    name = group.get("name")
    if name is None:
        name = Path(str(group.get(fallback) or "unnamed")).expanduser()
        name = name.resolve().name if fallback == "root" else (name.stem if fallback == "path" else name.name)
    return _plain(name)


def _plain(name: Any) -> str:
    """Return a name without path separators and blanks, so that it is the name of one folder."""
    return re.sub(r"[^\w.+-]", "_", str(name)).lstrip(".") or "_"
