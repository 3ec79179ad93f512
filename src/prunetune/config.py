"""Every configuration key and its type, the names of a run, and the building of what a YAML describes.

Imports no torch, so that `--help` and `--cfg job` answer at once. Values live in the YAML files; here all are missing.
"""

import dataclasses
import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.utils import get_class
from omegaconf import MISSING, DictConfig, OmegaConf

from prunetune.errors import InputError, suggestion

FOR_PEOPLE = ("name", "own_sampler", "uses_proxy", "published_at")  # keys of a group that its class need not know
PUBLISHED_PROXY = "full"  # scores of any other proxy say so in their name: el2n_probe
PROXY_SUFFIXES = {"linear_probe": "probe", "deepcore": "scratch"}
NOT_COMPARED = ("results_dir", "device", "until", "wandb")  # two runs that differ only here are the same run


@dataclass
class FinetuneConfig:
    """How the pruned set is trained on (method.md 6.3)."""

    name: str = MISSING
    trained: str = MISSING  # head | all
    epochs: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    momentum: float = MISSING
    nesterov: bool = MISSING
    weight_decay: float = MISSING
    milestones: list[int] = MISSING  # after these epochs the learning rate is multiplied by decay
    decay: float = MISSING
    views: int = MISSING  # augmented views of a frozen backbone, one an epoch, cycled; 0: the evaluation view
    evaluate_every: int = MISSING  # epochs between two looks at the test set; the last epoch is always evaluated


@dataclass
class ProxyConfig:
    """How the proxy is trained that scores from training dynamics read (method.md section 5)."""

    name: str = MISSING
    trained: str = MISSING  # head | all
    initial: str = MISSING  # pretrained | random
    augment: bool = MISSING
    record: str = MISSING  # epoch_end | online
    epochs: int = MISSING
    batch_size: int = MISSING
    learning_rate: float = MISSING
    momentum: float = MISSING
    nesterov: bool = MISSING
    weight_decay: float = MISSING
    milestones: list[int] = MISSING
    decay: float = MISSING


@dataclass
class GammaSearchConfig:
    """How sampler.gamma=auto, sampler.beta=auto and sampler=topk_flexible are settled, never on test."""

    grid: list[float] = MISSING
    betas: list[float] = MISSING
    repeats: int = MISSING
    split: str = MISSING  # nested | official_val
    held_out: float = MISSING
    views: int = MISSING


@dataclass
class ImagesConfig:
    """How decoded images are kept."""

    short_side: int | None = MISSING  # null: as they are; 256 takes less disk and is a deviation


@dataclass
class Config:
    """One image run."""

    dataset: Any = MISSING
    backbone: Any = MISSING
    scoring_backbone: Any = None
    scorer: Any = MISSING
    sampler: Any = MISSING
    finetune: FinetuneConfig = MISSING
    proxy: ProxyConfig = MISSING
    pipeline: str = MISSING
    ratio: float = MISSING
    seed: int = MISSING
    until: str = MISSING
    gamma_search: GammaSearchConfig = MISSING
    images: ImagesConfig = MISSING
    batch_size: int = MISSING
    device: str = MISSING
    precision: str = MISSING
    wandb: str = MISSING
    tag: str = MISSING
    results_dir: str = MISSING


@dataclass
class GridConfig(Config):
    """Many runs of one (dataset, backbone) in one job."""

    scoring_backbone: Any = MISSING  # merged after the group's choice, which None would undo
    methods: list[str] = MISSING
    ratios: list[float] = MISSING
    seeds: list[int] = MISSING


@dataclass
class SftConfig:
    """How a language model is fine-tuned on the pruned corpus (method.md 6.4)."""

    name: str = MISSING
    epochs: int = MISSING  # 0: the base model as it is
    batch_size: int = MISSING  # samples per optimiser step
    micro_batch_tokens: int = MISSING  # tokens per forward pass, padding included
    optimizer: str = MISSING  # sgd | adamw
    learning_rate: float = MISSING
    momentum: float = MISSING
    weight_decay: float = MISSING
    warmup_steps: int = MISSING
    schedule: str = MISSING  # cosine
    clip_norm: float = MISSING  # 0: none
    loss_on: str = MISSING  # response | all
    lora_r: int = MISSING
    lora_alpha: float = MISSING
    lora_dropout: float = MISSING
    lora_targets: list[str] = MISSING
    checkpoint_every: int = MISSING  # optimiser steps


@dataclass
class EvaluationConfig:
    """What lm-evaluation-harness asks the fine-tuned model."""

    tasks: list[str] = MISSING
    num_fewshot: list[int] = MISSING  # the first one's accuracy is the run's
    tasks_folder: str | None = MISSING  # of tasks in the harness's format that are not its own
    batch_size: Any = MISSING  # auto: the harness finds the largest
    limit: int | None = MISSING  # questions per task, for a trial


@dataclass
class TextSearchConfig:
    """How sampler.gamma=auto is settled: by the accuracy on the tasks' validation questions."""

    grid: list[float] = MISSING


@dataclass
class TrajectoryConfig:
    """What text_scorer=s2l records of a fine-tuning on the whole corpus."""

    checkpoints: int = MISSING


@dataclass
class InstructConfig:
    """One text run."""

    corpus: Any = MISSING
    llm: Any = MISSING
    scoring_llm: Any = None
    text_scorer: Any = MISSING
    sampler: Any = MISSING
    sft: SftConfig = MISSING
    pipeline: str = MISSING
    ratio: float = MISSING
    seed: int = MISSING
    until: str = MISSING
    strata: str = MISSING  # none | source | length
    held_out: float = MISSING
    gamma_search: TextSearchConfig = MISSING
    trajectory: TrajectoryConfig = MISSING
    evaluation: EvaluationConfig = MISSING
    max_tokens: int = MISSING
    device: str = MISSING
    wandb: str = MISSING
    tag: str = MISSING
    results_dir: str = MISSING


@dataclass(frozen=True)
class Names:
    """What a run is called: run folder, result and log use these and nothing else."""

    dataset: str
    backbone: str
    scoring_backbone: str
    scorer: str
    sampler: str
    finetune: str

    @property
    def backbone_folder(self) -> str:
        """The backbone, and the scoring backbone where that is another one."""
        same = self.backbone == self.scoring_backbone
        return self.backbone if same else f"{self.backbone}_scored_by_{self.scoring_backbone}"

    def title(self, ratio: float, seed: int) -> str:
        """Return a run's name for people."""
        return f"{self.dataset} {self.backbone_folder} {self.scorer}-{self.sampler} {ratio:g} seed {seed}"


def names(cfg: DictConfig) -> Names:
    """Resolve the names of a run, `auto` among them."""
    if is_text(cfg):
        return _text_names(cfg)
    scoring = cfg.backbone if cfg.get("scoring_backbone") is None else cfg.scoring_backbone
    backbone, scoring_backbone = _group_name(cfg.backbone, "model"), _group_name(scoring, "model")
    if scoring is not cfg.backbone and scoring_backbone == backbone and scoring != cfg.backbone:
        raise InputError(
            f"the scoring backbone differs from the backbone but both are called {backbone!r}; "
            "pass scoring_backbone.name=<another name>"
        )
    scorer, sampler = _group_name(cfg.scorer, "path"), _group_name(cfg.sampler, "name")
    is_proxied = reads_proxy(cfg.scorer) and cfg.proxy.name != PUBLISHED_PROXY
    return Names(
        dataset=_group_name(cfg.dataset, "root"),
        backbone=backbone,
        scoring_backbone=scoring_backbone,
        scorer=f"{scorer}_{PROXY_SUFFIXES.get(cfg.proxy.name, cfg.proxy.name)}" if is_proxied else scorer,
        sampler=cfg.scorer.own_sampler if sampler == "auto" else sampler,
        finetune=cfg.finetune.name,
    )


def is_text(cfg: Mapping[str, Any]) -> bool:
    """Whether this is the configuration of a text run."""
    return "corpus" in cfg


def _text_names(cfg: DictConfig) -> Names:
    llm, sampler = _group_name(cfg.llm, "model"), _group_name(cfg.sampler, "name")
    return Names(
        dataset=_group_name(cfg.corpus, "path"),
        backbone=llm,
        scoring_backbone=llm if cfg.scoring_llm is None else _group_name(cfg.scoring_llm, "model"),
        scorer=_group_name(cfg.text_scorer, "path"),
        sampler=cfg.text_scorer.own_sampler if sampler == "auto" else sampler,
        finetune=cfg.sft.name,
    )


def reads_proxy(group: Mapping[str, Any]) -> bool:
    """Whether a scorer or sampler with these settings reads the proxy."""
    return bool(group.get("uses_proxy")) or group.get("features") == "finetuned"


def run_folder(cfg: DictConfig) -> str:
    """Return the folder of a run (or of a grid) below its results, from names alone; never raises."""
    try:
        called = names(cfg)
        if "methods" in cfg:
            return grid_folder(called, cfg.methods, cfg.ratios, cfg.seeds, cfg.tag)
        return cell_folder(called, cfg.ratio, cfg.seed, cfg.tag)
    except Exception:  # Hydra evaluates this before our own checks can explain what is wrong
        return "unnamed"


def cell_folder(called: Names, ratio: float, seed: int, tag: str) -> str:
    """Return the folder of one run below <results_dir>/runs."""
    run = [f"{called.scorer}-{called.sampler}", f"ratio_{ratio}", f"seed_{seed}", _plain(tag)]
    return "/".join([called.dataset, called.backbone_folder, called.finetune, *run])


def grid_folder(called: Names, methods: Sequence[str], ratios: Sequence[float], seeds: Sequence[int], tag: str) -> str:
    """Return the folder of a grid below <results_dir>/grids."""
    cells = repr((list(methods), list(ratios), list(seeds), tag))
    digest = hashlib.sha256(cells.encode()).hexdigest()[:8]
    return "/".join([called.dataset, called.backbone_folder, called.finetune, digest])


def build(group: Mapping[str, Any]) -> Any:
    """Make the object that a group's YAML describes: its `_target_` with the other keys as arguments.

    Raises:
        InputError: a key that the class does not have, or a value that it refuses or cannot read.
    """
    values = OmegaConf.to_container(group, resolve=True) if isinstance(group, DictConfig) else dict(group)
    target = values.pop("_target_", None)
    if target is None or not str(target).startswith("prunetune."):
        raise InputError(f"a group needs a _target_ inside prunetune, got {target!r}")
    made_class = get_class(target)
    _check_checkpoint(values)
    fields = {field.name for field in dataclasses.fields(made_class)}
    for key in FOR_PEOPLE:
        if key not in fields:
            values.pop(key, None)
    for key in [key for key, value in values.items() if value == "???"]:
        raise InputError(f"{made_class.__name__} needs a {key}; pass {made_class.__name__.lower()}.{key}=<{key}>")
    for key in values.keys() - fields:
        raise InputError(
            f"{made_class.__name__} has no option {key!r}; it has {sorted(fields)}.{suggestion(key, fields)}"
        )
    try:
        return made_class(**values)
    except InputError:
        raise
    except (TypeError, ValueError) as error:  # its checks met a value of another type, such as a word for a number
        raise InputError(f"{made_class.__name__} refuses its options {values}: {error}") from None


def _check_checkpoint(values: Mapping[str, Any]) -> None:
    """Say where weights are published that nothing fetches, if they are not where they are expected."""
    source, file = values.get("published_at"), values.get("checkpoint")
    if source and not (file and Path(file).expanduser().is_file()):
        raise InputError(
            f"the weights of {values['name']} are expected in {file}, which is not a file; they are published at "
            f"{source}: save them under the names of timm's {str(values['model']).split('.')[0]} and pass "
            "backbone.checkpoint=<file>"
        )


def check_keys(cfg: Mapping[str, Any]) -> None:
    """Refuse keys that no run reads: Hydra takes any that is written with a plus.

    Raises:
        InputError: there is such a key.
    """
    schema = InstructConfig if is_text(cfg) else GridConfig if "methods" in cfg else Config
    _check_keys(cfg, schema, "")


def _check_keys(group: Mapping[str, Any], schema: type, prefix: str) -> None:
    types = {field.name: field.type for field in dataclasses.fields(schema)}
    for key in group:
        if key not in types:
            inside = [f"{name}.{key}" for name in types if isinstance(group.get(name), Mapping) and key in group[name]]
            meant = f" Did you mean {inside[0]}?" if inside else suggestion(str(key), types)
            place = prefix.rstrip(".") or "the configuration"
            raise InputError(f"there is no option {prefix}{key}; {place} has {', '.join(types)}.{meant}")
        if dataclasses.is_dataclass(types[key]):
            _check_keys(group[key], types[key], f"{prefix}{key}.")


def compared(cfg: DictConfig) -> dict[str, Any]:
    """Return what identifies a run: its whole configuration but for where, on what and how loudly it ran.

    The sampler `auto` is written out, since `scorer=random` and `method=random` are the same run.
    """
    values = OmegaConf.to_container(cfg, resolve=True)
    scorer = values["text_scorer" if is_text(values) else "scorer"]
    values["sampler"] = sampler_settings(values["sampler"], scorer["own_sampler"])
    if not is_text(values) and not (reads_proxy(scorer) or reads_proxy(values["sampler"])):
        values["proxy"] = None  # nothing reads it
    return {key: value for key, value in values.items() if key not in NOT_COMPARED}


def sampler_settings(sampler: Mapping[str, Any], own: str) -> dict[str, Any]:
    """Return what describes a run's sampler, `auto` written out as the scorer's own.

    Its numbers come from the class, whose defaults are those of its YAML, but for those that a preset or the command
    line has set.
    """
    settings = OmegaConf.to_container(sampler) if isinstance(sampler, DictConfig) else dict(sampler)
    if settings.get("name") != "auto":
        return settings
    from prunetune.samplers import SAMPLERS  # imports torch

    made = SAMPLERS[own]()
    target = f"prunetune.samplers.{type(made).__name__}"
    return {**dataclasses.asdict(made), **settings, "_target_": target, "name": own}


def _group_name(group: DictConfig, fallback: str) -> str:
    if not isinstance(group, Mapping):
        raise InputError(
            f"expected the settings of a group, got {group!r}; another network that scores is chosen with "
            "backbone@scoring_backbone=<name>, another language model with llm@scoring_llm=<name>"
        )
    name = group.get("name")
    if name is None:
        name = Path(str(group.get(fallback) or "unnamed")).expanduser()
        name = name.resolve().name if fallback == "root" else (name.stem if fallback == "path" else name.name)
    return _plain(name)


def _plain(name: Any) -> str:
    """Return a name that is one folder: no separators, no blanks."""
    return re.sub(r"[^\w.+-]", "_", str(name)).lstrip(".") or "_"


def _register() -> None:
    store = ConfigStore.instance()
    store.store(name="schema", node=Config)
    store.store(name="grid_schema", node=GridConfig)
    store.store(name="instruct_schema", node=InstructConfig)
    OmegaConf.register_new_resolver("run_folder", lambda *, _root_: run_folder(_root_), replace=True)


_register()
