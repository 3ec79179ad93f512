"""List the jobs and runs of a sweep without running it.

The sweep is composed as `run.py --config-name <root> sweep=<name>` composes it, and Hydra expands the parameters of the
sweeper. Neither data nor weights are read. A job of image runs is a grid of many runs. Kinds of runs whose jobs are
single runs are passed in as `SingleRuns`.
"""

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from prunetune.base.errors import InputError
from prunetune.config.cells import PLURALS, compose_cell, shared_words
from prunetune.config.explain import explain
from prunetune.config.identity import recorded
from prunetune.config.names import Names, cell_folder, grid_folder, resolve_names
from prunetune.config.words import with_lists
from prunetune.samplers.amount import plain_ratio

GRID = "grid"  # The root configuration of sweeps of image runs.
LAST_STEP = "finetune"  # The last step of an image run.
RATIO_AND_SEED = ("ratio", "seed")


@dataclass(frozen=True)
class SingleRuns:
    """A kind of run, other than image runs, of which each run is one job of a sweep.

    root: its root configuration. groups: configuration groups that only this root has; a preset that sweeps over one of
    them belongs to this root. last_step: the value of `until` with which a run writes its result. names: returns the
    names of a run from its configuration. recorded: returns the settings that identify a run.
    """

    root: str
    groups: frozenset[str]
    last_step: str
    names: Callable[[DictConfig], Names]
    recorded: Callable[[DictConfig], dict[str, Any]]


@dataclass(frozen=True)
class SingleJob:
    """A job that is a single run. overrides: those that the job is started with."""

    overrides: tuple[str, ...]
    ratio: float | str
    seed: int
    kind: SingleRuns

    @property
    def num_runs(self) -> int:
        """The number of runs of this job."""
        return 1


@dataclass(frozen=True)
class Job:
    """A job of a sweep of image runs, which is a grid. overrides: those that the job is started with."""

    overrides: tuple[str, ...]
    methods: tuple[str, ...]
    ratios: tuple[float | str, ...]
    seeds: tuple[int, ...]

    @property
    def num_runs(self) -> int:
        """The number of cells of the grid."""
        return len(self.methods) * len(self.ratios) * len(self.seeds)


@dataclass(frozen=True)
class PlannedRun:
    """One run of a sweep.

    out_dir: its folder. record: the settings that identify it. job_folder: the folder of its grid, None for a single
    run.
    """

    dataset: str
    out_dir: Path
    record: dict[str, Any]
    job_folder: Path | None


@dataclass(frozen=True)
class _Described:
    """What all runs share that differ only in ratio and seed.

    of_ratio: the keys of the scorer that refer to the ratio, such as fraction=${ratio}.
    """

    called: Names
    tag: str
    results_dir: Path
    record: dict[str, Any]
    of_ratio: tuple[str, ...] = ()

    def run(self, ratio: float | str, seed: int, job_folder: Path | None) -> PlannedRun:
        """Return the run with this ratio and seed."""
        out_dir = self.results_dir / "runs" / cell_folder(self.called, ratio, seed, self.tag)
        record = {**self.record, "ratio": ratio, "seed": seed}
        if self.of_ratio:
            record["scorer"] = {**record["scorer"], **dict.fromkeys(self.of_ratio, ratio)}
        return PlannedRun(self.called.dataset, out_dir, record, job_folder)


def root_of(sweep: str, kinds: Sequence[SingleRuns] = ()) -> str:
    """Return the root configuration that a preset belongs to.

    A preset that sweeps over a group of one of the kinds belongs to the root of that kind. Every other preset belongs
    to the root of grids. A preset that does not exist is not refused here but when it is composed.
    """
    found = GlobalHydra.instance().config_loader().repository.load_config(f"sweep/{sweep}")
    params = {} if found is None else OmegaConf.select(found.config, "hydra.sweeper.params") or {}
    kind = _kind(params, kinds)
    return GRID if kind is None else kind.root


def compose_sweep(sweep: str, overrides: Sequence[str] = (), kinds: Sequence[SingleRuns] = ()) -> DictConfig:
    """Return the configuration of a preset with further overrides, including Hydra's own node `hydra`.

    Args:
        sweep: the name of a file in configs/sweep, without .yaml.
        overrides: those of the command line.
        kinds: the kinds of runs other than image runs.

    Raises:
        InputError: there is no such preset, or it cannot be composed with these overrides.
    """
    words = [f"sweep={sweep}", *with_lists(overrides)]
    try:  # hydra.compose is not enough: it composes a single run and refuses overrides that sweep over values.
        hydra, root = GlobalHydra.instance().hydra, root_of(sweep, kinds)
        return hydra.compose_config(root, words, RunMode.MULTIRUN, from_shell=False, with_log_configuration=False)
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"sweep {sweep} cannot be composed: {explain(error)}") from None


def last_step(cfg: DictConfig, kinds: Sequence[SingleRuns] = ()) -> str:
    """Return the value of `until` with which the runs of a composed sweep write their results."""
    kind = _kind(cfg, kinds)
    return LAST_STEP if kind is None else kind.last_step


def _kind(keys: Iterable[str], kinds: Sequence[SingleRuns]) -> SingleRuns | None:
    """Return the kind that has one of these configuration groups; None stands for image runs."""
    return next((kind for kind in kinds if kind.groups & set(keys)), None)


def jobs(cfg: DictConfig, kinds: Sequence[SingleRuns] = ()) -> list[Job] | list[SingleJob]:
    """Return the jobs of a composed sweep. As in Hydra, the command line overrides the parameters of the preset."""
    params = cfg.hydra.sweeper.params or {}
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    words = [*(f"{key}={value}" for key, value in params.items()), *cfg.hydra.overrides.task]
    choices = dict(_choices(override) for override in parser.parse_overrides(words))  # The last value of a key wins.
    batch = itertools.product(*choices.values())
    kind = _kind(cfg, kinds)
    make = _grid_job if kind is None else functools.partial(_single_job, kind)
    return [make(cfg, tuple(overrides), parser) for overrides in batch]


def _choices(override: Override) -> tuple[str, list[str]]:
    """Return the key of an override and one override per value. An override that is not a sweep has one value.

    Raises:
        InputError: it sweeps over an interval, which has infinitely many values.
    """
    key = override.get_key_element()
    if not override.is_sweep_override():
        return key, [f"{key}={override.get_value_element_as_str()}"]
    if not override.is_discrete_sweep():
        raise InputError(f"a sweep needs values, such as {key}=1,2; got {override.input_line}")
    return key, [f"{key}={value}" for value in override.sweep_string_iterator()]


def _grid_job(cfg: DictConfig, overrides: tuple[str, ...], parser: OverridesParser) -> Job:
    lists = {key: tuple(value) for key, value in _own(cfg, overrides, parser, PLURALS).items()}
    lists["ratios"] = tuple(plain_ratio(ratio) for ratio in lists["ratios"])
    return Job(overrides, **lists)


def _single_job(kind: SingleRuns, cfg: DictConfig, overrides: tuple[str, ...], parser: OverridesParser) -> SingleJob:
    own = _own(cfg, overrides, parser, RATIO_AND_SEED)
    return SingleJob(overrides, plain_ratio(own["ratio"]), own["seed"], kind)


def _own(cfg: DictConfig, overrides: Sequence[str], parser: OverridesParser, keys: Sequence[str]) -> dict[str, Any]:
    """Return a job's values of the given keys, from its overrides or else from the sweep's configuration."""
    words = [word for word in overrides if word.split("=")[0] in keys]
    return {key: cfg[key] for key in keys} | {
        override.key_or_group: override.value() for override in parser.parse_overrides(words)
    }


def planned(jobs: Iterable[Job | SingleJob]) -> Iterator[PlannedRun]:
    """Yield every run of the given jobs.

    Raises:
        InputError: a job, or an entry of its `methods`, cannot be composed.
    """
    describe = functools.cache(_describe)  # Composing is slow, and jobs that differ in ratio share their methods.
    describe_single, describe_grid = functools.cache(_describe_single), functools.cache(_describe_grid)
    for job in jobs:
        if isinstance(job, SingleJob):
            words = tuple(word for word in job.overrides if word.split("=")[0] not in RATIO_AND_SEED)
            yield describe_single(job.kind, words).run(job.ratio, job.seed, None)
            continue
        words = shared_words(job.overrides)
        job_folder = _job_folder(job, describe_grid(words))
        entries = {entry: describe(entry, words) for entry in job.methods}
        for entry, ratio, seed in itertools.product(job.methods, job.ratios, job.seeds):
            yield entries[entry].run(ratio, seed, job_folder)


def _describe(entry: str, words: tuple[str, ...]) -> _Described:
    cfg = compose_cell(entry, words)
    scorer = OmegaConf.to_container(cfg.scorer, resolve=False)
    of_ratio = tuple(key for key, value in scorer.items() if value == "${ratio}")
    return _Described(resolve_names(cfg), cfg.tag, Path(cfg.results_dir), recorded(cfg), of_ratio)


def _describe_single(kind: SingleRuns, words: tuple[str, ...]) -> _Described:
    cfg = _composed(kind.root, words)
    return _Described(kind.names(cfg), cfg.tag, Path(cfg.results_dir), kind.recorded(cfg))


def _describe_grid(words: tuple[str, ...]) -> _Described:
    cfg = _composed(GRID, words)
    return _Described(resolve_names(cfg), cfg.tag, Path(cfg.results_dir), {})  # A grid is compared by its cells only.


def _composed(root: str, words: tuple[str, ...]) -> DictConfig:
    try:
        return compose(root, overrides=list(words))
    except (HydraException, OmegaConfBaseException) as error:
        raise InputError(f"a job of {root} cannot be composed: {error} {error.__cause__ or ''}") from None


def _job_folder(job: Job, about: _Described) -> Path:
    folder = grid_folder(about.called, job.methods, job.ratios, job.seeds, about.tag)
    return about.results_dir / "grids" / folder
