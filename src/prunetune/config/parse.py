"""Parse a composed configuration into the frozen description of a run.

No other module below `prunetune.doors` receives a configuration: `prunetune.runs` and all packages under it get an
`ImageRun` or a part of it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from prunetune.base import checks
from prunetune.base.devices import ENGINES
from prunetune.base.errors import InputError
from prunetune.config.build import build, called, check_group, check_keys
from prunetune.config.identity import recorded, sampler_settings
from prunetune.config.names import Names, resolve_names
from prunetune.config.schema import NO_DATASET
from prunetune.config.subpool import subpool_of
from prunetune.data.pool import Dataset
from prunetune.data.subpool import SubpoolDataset
from prunetune.networks.backbone import MOST_PIXELS, Backbone
from prunetune.samplers.amount import Amount
from prunetune.samplers.base import Sampler
from prunetune.samplers.candidates import OPEN, Search, beta_candidates, end_candidates, gamma_candidates
from prunetune.scorers.base import Scorer
from prunetune.signals.proxy import ProxyRecipe
from prunetune.training.recipe import LogisticRecipe, Recipe

STEPS = ("score", "prune", "finetune")


@dataclass(frozen=True)
class ImageRun:
    """One image run as the user asked for it.

    names: the names of the run. amount: how much of each class is kept, as the key `ratio` says it. until: the last
    step, one of `STEPS`. scoring_backbone: None if the fine-tuned backbone also scores. candidates: the sampler under
    the label "". If a setting is `auto`, there are several samplers, and the run chooses one on held-out images.
    device, precision: as given, possibly "auto". engine: where frozen networks are run, one of `devices.ENGINES`.
    ray_address: that of a Ray cluster, None to start Ray on this machine. short_side: length in pixels to which the
    shorter side of stored images is reduced, None to keep their size. record: the configuration that identifies the
    run, as result.json keeps it.
    """

    names: Names
    amount: Amount
    seed: int
    tag: str
    until: str
    dataset: Dataset
    backbone: Backbone
    scoring_backbone: Backbone | None
    scorer: Scorer
    candidates: Mapping[str, Sampler]
    recipe: Recipe | LogisticRecipe
    proxy: ProxyRecipe
    search: Search
    device: str
    precision: str
    engine: str
    ray_address: str | None
    batch_size: int
    short_side: int | None
    wandb: str
    results_dir: Path
    record: Mapping[str, Any]

    def __post_init__(self) -> None:
        checks.choice("until", self.until, STEPS)
        checks.choice("engine", self.engine, ENGINES)
        if self.ray_address is not None and self.engine != "ray":
            raise InputError(f"ray_address={self.ray_address} needs engine=ray; pass it too, or leave the address out")
        checks.whole_number("seed", self.seed, least=None)
        checks.whole_number("batch_size", self.batch_size, what="the number of images per forward pass")
        checks.whole_number("images.short_side", self.short_side, most=MOST_PIXELS, or_none=True, what="in pixels")

    @property
    def is_searched(self) -> bool:
        """Whether the run chooses its sampler on held-out images."""
        return len(self.candidates) > 1

    @property
    def title(self) -> str:
        """The run's name in the log and in the viewer of runs."""
        return self.names.title(self.amount, self.seed)


def parse_image_run(cfg: DictConfig) -> ImageRun:
    """Return the run that a composed configuration describes. Images and weights are not read yet.

    Raises:
        InputError: the configuration has a key that no run reads, or a value that is not allowed.
    """
    check_keys(cfg)
    if not cfg.results_dir:
        raise InputError("results_dir is the folder of runs and store and must not be empty; pass results_dir=<folder>")
    amount = Amount.parse(cfg.ratio)
    cfg = OmegaConf.merge(cfg, {"ratio": amount.value})  # Settings such as scorer.fraction=${ratio} then get this form.
    if amount.per_class is not None and cfg.scorer.get("fraction") == amount.value:  # It refers to the ratio.
        raise InputError(
            f"{cfg.scorer.name} selects for a fraction of each class, not for a number of images per class; "
            "pass ratio=<fraction>, or another method"
        )
    return ImageRun(
        names=resolve_names(cfg),
        amount=amount,
        seed=cfg.seed,
        tag=cfg.tag,
        until=cfg.until,
        dataset=build_dataset(cfg.dataset),
        backbone=build(cfg.backbone, "backbone", Backbone),
        scoring_backbone=_scoring_backbone(cfg.scoring_backbone),
        scorer=build(cfg.scorer, "scorer", Scorer, "prunetune.scorers"),
        candidates=parse_candidates(cfg),
        recipe=parse_recipe(cfg.finetune),
        proxy=parse_proxy(cfg.proxy),
        search=parse_search(cfg.gamma_search),
        device=cfg.device,
        precision=cfg.precision,
        engine=cfg.engine,
        ray_address=cfg.ray_address,
        batch_size=cfg.batch_size,
        short_side=cfg.images.short_side,
        wandb=cfg.wandb,
        results_dir=Path(cfg.results_dir),
        record=recorded(cfg),
    )


def build_dataset(group: Mapping[str, Any]) -> Dataset:
    """Make the data set that the group `dataset` describes, or its sub-pool if the key `subpool` is set.

    Raises:
        InputError: the settings do not describe a data set, as in `build`, or the sub-pool is no fraction and seed.
    """
    values = OmegaConf.to_container(group, resolve=True) if isinstance(group, DictConfig) else group
    check_group("dataset", None if values == NO_DATASET else values)
    drawn = subpool_of(values)
    whole = build({key: value for key, value in values.items() if key != "subpool"}, "dataset", Dataset)
    return whole if drawn is None else SubpoolDataset(whole, *drawn)


def _scoring_backbone(group: DictConfig | None) -> Backbone | None:
    if group is None:
        return None
    with called("backbone", "scoring_backbone"):
        return build(group, "scoring_backbone", Backbone)


def parse_recipe(group: DictConfig) -> Recipe | LogisticRecipe:
    """Return the training recipe that the group `finetune` describes.

    Raises:
        InputError: a number is out of its range, or the recipe does not have it.
    """
    values = OmegaConf.to_container(group)
    checks.choice("finetune.trained", values["trained"], ("head", "all", LogisticRecipe.trained))
    if values["trained"] == LogisticRecipe.trained:
        return _logistic_recipe(values)
    milestones = values["milestones"]
    return Recipe(**{**values, "milestones": milestones if milestones is None else tuple(milestones)})


def _logistic_recipe(values: Mapping[str, Any]) -> LogisticRecipe:
    for key, value in values.items():
        if key not in ("name", "trained") and value is not None:
            raise InputError(
                f"finetune.{key} must be null with finetune.trained={LogisticRecipe.trained}, which is not trained in "
                f"epochs, got {value!r}; pass finetune.{key}=null, or choose another recipe"
            )
    return LogisticRecipe(values["name"])


def parse_proxy(group: DictConfig) -> ProxyRecipe:
    """Return the recipe of the proxy network that the group `proxy` describes."""
    values = OmegaConf.to_container(group)
    own = {key: values.pop(key) for key in ("initial", "augment", "record")}
    values |= {"milestones": tuple(values["milestones"]), "views": 0, "evaluate_every": values["epochs"]}
    with called("finetune", "proxy"):
        return ProxyRecipe(Recipe(**values), **own)


def parse_search(group: DictConfig) -> Search:
    """Return the search between samplers that the group `gamma_search` describes."""
    values = OmegaConf.to_container(group)
    lists = {key: tuple(value) for key, value in values.items() if isinstance(value, list)}
    return Search(**{**values, **lists})


def parse_candidates(cfg: DictConfig) -> dict[str, Sampler]:
    """Return the run's sampler under the label "", or all candidates by label. Of equal candidates the first wins."""
    settings = sampler_settings(cfg.sampler, cfg.scorer.own_sampler)
    is_open = [key for key in OPEN if settings.get(key) == "auto"]
    if not is_open:
        return {"": _sampler(settings)}
    [key] = is_open

    def make(value: float | str) -> Sampler:
        return _sampler({**settings, key: value})

    if key == "end":
        return end_candidates(make)
    candidates = gamma_candidates if key == "gamma" else beta_candidates
    return candidates(make, parse_search(cfg.gamma_search), Amount.parse(cfg.ratio).fraction)


def _sampler(settings: Mapping[str, Any]) -> Sampler:
    return build(settings, "sampler", Sampler, "prunetune.samplers")
