"""Analyse the scores and subsets of finished runs: rank correlation, losses of easy and hard images, MMD.

This is the body of `prunetune analyse`. It reads runs and their store, and neither trains nor runs a network. Scores or
features that are no longer stored are left out, with one line that names them.
"""

import csv
import json
import sys
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import numpy as np
import pandas as pd
import torch
from omegaconf import OmegaConf
from torch import Tensor

from prunetune.base.errors import InputError, suggestion
from prunetune.base.store import Key, Store
from prunetune.base.verification import refuse_damage
from prunetune.config.build import FOR_PEOPLE, build
from prunetune.config.identity import REMOVED
from prunetune.config.names import reads_proxy
from prunetune.config.parse import build_dataset, parse_proxy
from prunetune.data.pool import Pool
from prunetune.networks.masking import MaskPath
from prunetune.report import collect
from prunetune.report.output import write_csv
from prunetune.report.score_analysis import PoolKernel, easiest_and_hardest, easy_and_hard_curves, within_class_spearman
from prunetune.report.tables import method_name
from prunetune.signals.label_odds import label_losses
from prunetune.signals.network import Embedding, NetworkSignals
from prunetune.signals.proxy import FULL_PROXY, ProxyRecipe

# The name may also have the suffix of another proxy. The score of the fully fine-tuned proxy is preferred.
REFERENCE = "lc_optimisation"
COLUMNS = {
    "rank_correlation": (
        *("dataset", "backbone", "first", "second", "tag", "class_mean", "class_std", "num_classes"),
        *("num_left_out", "num_scores", "scores_std"),
    ),
    "loss_by_masking": ("dataset", "backbone", "group", "masking_ratio", "loss"),
    "loss_by_epoch": ("dataset", "backbone", "group", "epoch", "loss"),
    "mmd": ("dataset", "backbone", "method", "ratio", "seed", "mmd", "features", "num_kept", "num_pool"),
}
MANY = 10**9  # The masked counts of an imagined network with so many weights give the masked fractions of a path.
Row = dict[str, Any]


@dataclass(frozen=True)
class Run:
    """A finished run: its row of the collected frame and its whole result."""

    row: Row
    result: dict[str, Any]

    @property
    def scored_by(self) -> tuple[str, str]:
        """The data set and the scoring backbone of its scores."""
        return self.row["dataset"], self.row["scoring_backbone"]

    @property
    def scorer(self) -> dict[str, Any]:
        """The configuration of its scorer."""
        return self.result["config"]["scorer"]


class ScoreKey(NamedTuple):
    """The name of scores, and a text of all that they depend on but network and seed."""

    dataset: str
    backbone: str
    scorer: str
    tag: str
    settings: str


@dataclass(frozen=True)
class ScoreFile:
    """A stored scores.csv: ids and labels of N images, values [N] float64, and its folder."""

    sample_ids: tuple[str, ...]
    labels: Tensor
    values: Tensor
    folder: Path


@dataclass(frozen=True)
class StoredOnly:
    """A store that computes nothing. A missing entry is an error."""

    store: Store

    def place(self, kind: str, prefix: str, key: Key) -> Path:
        """Return where the entry would be."""
        return self.store.place(kind, prefix, key)

    def entry(
        self,
        kind: str,
        prefix: str,
        key: Key,
        make: Callable[[Path], dict[str, Any]],
        mapped: Collection[str] = (),
    ) -> Path:
        """Return the entry's folder.

        Raises:
            InputError: it is not in the store, or it is damaged.
        """
        place = self.place(kind, prefix, key)
        if not place.is_dir():
            raise InputError(f"{kind} of {prefix} ({place.name}) are not in the store; run a method that needs them")
        refuse_damage(place, mapped)
        return place

    def discard(self, entry: Path, fault: str) -> NoReturn:
        """Refuse a damaged entry, since it cannot be made again here.

        Raises:
            InputError: always.
        """
        raise InputError(f"{entry} is damaged ({fault}); run a method that needs it, which makes it again")


def analyse(results_dir: Path, dataset: str | None, backbone: str | None, out: Path) -> None:
    """Write each CSV file that has at least one row, and print its path.

    Raises:
        InputError: there are no finished runs.
    """
    runs = read_runs(results_dir, dataset, backbone)
    makers = {
        "rank_correlation": rank_correlation,
        "loss_by_masking": loss_by_masking,
        "loss_by_epoch": loss_by_epoch,
        "mmd": mmd,
    }
    for name, maker in makers.items():
        rows = sorted(maker(runs, results_dir), key=lambda row: tuple(map(_sortable, row.values())))
        if rows:
            path = out / f"{name}.csv"
            write_csv(path, pd.DataFrame(rows, columns=list(COLUMNS[name])))
            print(f"{path}: {len(rows)} rows")
        else:
            print(f"{name}: nothing to write", file=sys.stderr)


def read_runs(results_dir: Path, dataset: str | None, backbone: str | None) -> list[Run]:
    """Return the finished runs of a data set and of a backbone, which scores or is fine-tuned. None means all of them.

    If a backbone's name was used with several settings, such as normalizations, only the most common one is kept.
    """
    frame, skipped = collect.collect_images(results_dir)
    for line in skipped:
        print(line, file=sys.stderr)
    if frame.empty:
        raise InputError(collect.no_runs(results_dir))
    for columns, name in ((["dataset"], dataset), (["backbone", "scoring_backbone"], backbone)):
        if name is not None:
            known = sorted({value for column in columns for value in frame[column]})
            if name not in known:
                there = ", ".join(known)
                raise InputError(f"no runs of {name!r}; there are runs of {there}.{suggestion(name, known)}")
            frame = frame[(frame[columns] == name).any(axis=1)]
    rows = frame.to_dict("records")
    runs = [Run(row, json.loads((results_dir / row["run"] / "result.json").read_text("utf-8"))) for row in rows]
    return _of_one_network(runs)


def _of_one_network(runs: list[Run]) -> list[Run]:
    found: dict[tuple[str, str], Counter[str]] = {}
    for run in runs:
        found.setdefault((run.row["dataset"], run.row["backbone"]), Counter())[_network(run)] += 1
    usual = {name: counts.most_common(1)[0][0] for name, counts in found.items()}
    for (dataset, backbone), counts in found.items():
        if others := counts.total() - counts[usual[dataset, backbone]]:
            _tell(
                f"left out {others} runs of {dataset}, {backbone}: another precision or other settings of its network"
            )
    return [run for run in runs if _network(run) == usual[run.row["dataset"], run.row["backbone"]]]


def _network(run: Run) -> str:
    return json.dumps([run.result["config"]["backbone"], run.result["precision"]], sort_keys=True)


def rank_correlation(runs: list[Run], results_dir: Path) -> Iterator[Row]:
    """Yield correlations of scores with learning complexity by optimisation, and of fine-tuned with pretrained ones."""
    by_scores, seen = _by_scores(runs), set()
    for first, second in _pairs(by_scores):
        names = {"dataset": first.dataset, "backbone": first.backbone, "first": first.scorer, "second": second.scorer}
        names["tag"] = first.tag
        what = f"rank correlation of {first.scorer} ({first.tag}) with {second.scorer} on {first.dataset}"
        try:
            if tuple(names.values()) in seen:
                raise InputError("these names belong to several different scores; give one of them another tag")
            other = read_scores(results_dir / by_scores[second][0].row["scores_path"])
            paths = sorted({run.row["scores_path"] for run in by_scores[first]})
            yield {**names, **_correlations([read_scores(results_dir / path) for path in paths], other)}
            seen.add(tuple(names.values()))
        except InputError as error:
            _tell(f"no {what}, {first.backbone}: {error}")


def loss_by_masking(runs: list[Run], results_dir: Path) -> Iterator[Row]:
    """Yield the losses of the easiest and hardest images along the longest masking path with stored losses."""
    for (dataset, backbone), own in _grouped(runs):
        paths = [run for run in own if _target(run) == "DLC" and run.scorer["masking"] == "l1"]
        paths.sort(key=lambda run: (-run.scorer["levels"], -_fractions(run.scorer)[-1], run.row["scores_path"]))
        try:
            if not paths:
                raise InputError("no run scored with dlc")
            scores = read_scores(results_dir / paths[0].row["scores_path"])
            losses = _kept_losses(scores.folder)
            values = _fractions(paths[0].scorer)
            reference = _reference(own, results_dir)
            yield from _curves(dataset, backbone, "masking_ratio", values, losses, reference, scores)
        except InputError as error:
            _tell(f"no losses by masking ratio for {dataset}, {backbone}: {error}")


def loss_by_epoch(runs: list[Run], results_dir: Path) -> Iterator[Row]:
    """Yield the losses of the easiest and hardest images over the epochs of the proxy."""
    for (dataset, backbone), own in _grouped(runs):
        try:
            run = _reference_run(own)
            scores = read_scores(results_dir / run.row["scores_path"])
            proxy = stored_signals(run, results_dir).proxy(logits_only=True)
            positions = torch.cat(easiest_and_hardest(scores.values, scores.labels))
            epochs = range(1, proxy.num_epochs + 1)
            logits = torch.stack([proxy.logits(epoch, positions) for epoch in epochs])  # [E, 2 C', C]
            losses = label_losses(logits, scores.labels[positions])  # [E, 2 C']
            easiest, hardest = torch.arange(len(positions)).chunk(2)
            yield from _group_rows(dataset, backbone, "epoch", epochs, *easy_and_hard_curves(losses, easiest, hardest))
        except InputError as error:
            _tell(f"no losses by epoch for {dataset}, {backbone}: {error}")


def mmd(runs: list[Run], results_dir: Path) -> Iterator[Row]:
    """Yield the distance of each subset from its pool, in features of the backbone that is fine-tuned on it.

    Subsets that are chosen during training are left out. Weights of images are ignored.
    """
    by_backbone: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        by_backbone.setdefault((run.row["dataset"], run.row["backbone"]), []).append(run)
    for (dataset, backbone), own in by_backbone.items():
        for features in ("pretrained", "finetuned"):
            try:
                kernel = PoolKernel.of(_features(own, backbone, features, results_dir))
            except InputError as error:
                _tell(f"no MMD in {features} features for {dataset}, {backbone}: {error}")
            else:
                yield from _mmd_rows(own, kernel, features, results_dir)


def stored_signals(run: Run, results_dir: Path, of_tuned: bool = False) -> NetworkSignals:
    """Return the stored signals of a run's scoring backbone, or with of_tuned those of the fine-tuned backbone.

    Raises:
        InputError: images or weights are missing, or the images have changed.
    """
    try:
        pool, embedding, proxy = _opened(run, results_dir, of_tuned)
    except KeyError as error:
        missing = f"Missing key {error.args[0]}"
        raise InputError(
            f"{run.row['run']} was made by an earlier version ({missing}); remove it and run again"
        ) from None
    if pool.fingerprint != run.result["dataset_fingerprint"]:
        raise InputError(f"the images of {pool.name} differ from those of {run.row['run']}; run again")
    return NetworkSignals(pool, embedding, proxy)


def _opened(run: Run, results_dir: Path, of_tuned: bool) -> tuple[Pool, Embedding, ProxyRecipe]:
    """Return a run's pool, the network that it asks for over a store that makes nothing, and the recipe of its proxy.

    Raises:
        KeyError: the run's configuration lacks a key that is needed.
    """
    config = run.result["config"]
    short_side, batch_size, proxy = config["images"]["short_side"], config["batch_size"], config.get("proxy")
    scoring = config["backbone"] if of_tuned else config["scoring_backbone"] or config["backbone"]
    embedding = Embedding(
        build(scoring).load(),
        StoredOnly(Store(results_dir / "store")),
        run.result["precision"],
        batch_size=batch_size,
        short_side=short_side,
        training_precision=run.result.get("training_precision", "fp32"),
    )
    recipe = FULL_PROXY if proxy is None else parse_proxy(OmegaConf.create(proxy))
    return build_dataset(config["dataset"]).pool("train"), embedding, recipe


@cache
def read_scores(path: Path) -> ScoreFile:
    """Read a scores.csv. The images are not needed.

    Raises:
        InputError: the file is missing or damaged.
    """
    if path.is_file():
        refuse_damage(path.parent)
    try:
        with path.open(newline="") as file:
            rows = list(csv.DictReader(file))
        labels = torch.tensor([int(row["label"]) for row in rows])
        values = torch.tensor([float(row["score"]) for row in rows], dtype=torch.float64)
        return ScoreFile(tuple(row["sample_id"] for row in rows), labels, values, path.parent)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path} is gone or damaged ({type(error).__name__}); run the method again") from None


def _by_scores(runs: list[Run]) -> dict[ScoreKey, list[Run]]:
    """Return the runs by their scores, without those of scorers that give no information."""
    found: dict[ScoreKey, list[Run]] = {}
    for run in runs:
        if isinstance(run.row["scores_path"], str) and _direction(run) != "nothing":
            settings = json.dumps([_rule(run), _reads_finetuned(run), _proxy(run)], sort_keys=True)
            key = ScoreKey(*run.scored_by, run.row["scorer"], run.row["tag"], settings)
            found.setdefault(key, []).append(run)
    return dict(sorted(found.items()))


def _pairs(by_scores: dict[ScoreKey, list[Run]]) -> Iterator[tuple[ScoreKey, ScoreKey]]:
    """Yield the pairs of scores to correlate."""
    for first, (run, *_) in by_scores.items():
        for second in _references(by_scores, first):
            if first.scorer != second.scorer and _direction(run) == "harder":
                yield first, second
        if first.scorer.startswith(REFERENCE) or not _reads_finetuned(run):
            continue
        for second, (other, *_) in by_scores.items():
            if first[:2] == second[:2] and _rule(run) == _rule(other) and _reads_pretrained(other):
                yield first, second


def _references(by_scores: dict[ScoreKey, list[Run]], beside: ScoreKey) -> list[ScoreKey]:
    """Return one learning complexity by optimisation per name, the one with the default tag if there is one."""
    found: dict[str, ScoreKey] = {}
    for key in sorted(by_scores, key=lambda key: (key.tag != "default", key)):
        if key[:2] == beside[:2] and key.scorer.startswith(REFERENCE):
            found.setdefault(key.scorer, key)
    return [found[name] for name in sorted(found)]


def _correlations(files: list[ScoreFile], other: ScoreFile) -> Row:
    if any(file.sample_ids != other.sample_ids for file in files):
        raise InputError("the two scores are of different images")
    found = [within_class_spearman(file.values, other.values, other.labels) for file in files]
    means = np.array([correlation.mean for correlation in found])
    return {
        "class_mean": means.mean(),
        "class_std": float(np.mean([correlation.std for correlation in found])),
        "num_classes": min(len(correlation.values) for correlation in found),
        "num_left_out": max(correlation.num_left_out for correlation in found),
        "num_scores": len(files),
        "scores_std": means.std(ddof=1) if len(files) > 1 else None,
    }


def _direction(run: Run) -> str:
    try:
        return build(run.scorer).higher_means
    except InputError:  # The scorer is of an earlier version, or its file is missing.
        return "nothing"


def _target(run: Run) -> str:
    return run.scorer["_target_"].rsplit(".", 1)[-1]


def _rule(run: Run) -> tuple:
    """Return the settings that the fine-tuned and the pretrained version of one score share."""
    options = {key: value for key, value in run.scorer.items() if key not in FOR_PEOPLE}
    options = {key: value for key, value in options.items() if REMOVED.get(f"scorer.{key}") != value}
    for key in ("_target_", "features", *(("pooling", "transform") if _target(run) == "DLC" else ())):
        options.pop(key, None)
    return _target(run).removesuffix("Finetuned"), tuple(sorted((key, str(value)) for key, value in options.items()))


def _proxy(run: Run) -> dict[str, Any] | None:
    """Return the settings of the proxy that the scores read, or None if they read none."""
    return run.result["config"].get("proxy") if reads_proxy(run.scorer) else None


def _reads_finetuned(run: Run) -> bool:
    """Return whether the scores read a network whose pretrained weights were all fine-tuned."""
    proxy = _proxy(run)
    return bool(proxy and proxy["trained"] == "all" and proxy["initial"] == "pretrained")


def _reads_pretrained(run: Run) -> bool:
    """Return whether the scores read only pretrained features, directly or through a linear probe."""
    proxy = _proxy(run)
    return not proxy or proxy["trained"] == "head"


def _grouped(runs: list[Run]) -> list[tuple[tuple[str, str], list[Run]]]:
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if isinstance(run.row["scores_path"], str):
            groups.setdefault(run.scored_by, []).append(run)
    return list(groups.items())


def _reference_run(runs: list[Run]) -> Run:
    found = [run for run in runs if run.row["scorer"].startswith(REFERENCE)]
    if not found:
        raise InputError(f"no run scored with {REFERENCE}; run method=cle")
    return min(found, key=lambda run: (run.row["scorer"], run.row["tag"] != "default", run.row["tag"]))


def _reference(runs: list[Run], results_dir: Path) -> ScoreFile:
    return read_scores(results_dir / _reference_run(runs).row["scores_path"])


def _fractions(scorer: dict[str, Any]) -> list[float]:
    """Return the masked fraction of each level of a DLC path."""
    path = MaskPath(scorer["schedule"], scorer["levels"], scorer["step"], scorer["include_unmasked"])
    return [count / MANY for count in path.counts(MANY)]


def _kept_losses(folder: Path) -> Tensor:
    try:
        return torch.from_numpy(np.load(folder / "losses.npy"))  # [T, N]
    except (OSError, ValueError) as error:
        raise InputError(f"{folder / 'losses.npy'} is gone or damaged ({type(error).__name__})") from None


def _curves(
    dataset: str, backbone: str, axis: str, values: list[float], losses: Tensor, reference: ScoreFile, own: ScoreFile
) -> list[Row]:
    if own.sample_ids != reference.sample_ids or losses.shape != (len(values), len(own.values)):
        raise InputError("losses and learning complexity by optimisation are of different images")
    ends = easiest_and_hardest(reference.values, reference.labels)
    return _group_rows(dataset, backbone, axis, values, *easy_and_hard_curves(losses, *ends))


def _group_rows(dataset: str, backbone: str, axis: str, values: Any, easy: Tensor, hard: Tensor) -> list[Row]:
    return [
        {"dataset": dataset, "backbone": backbone, "group": group, axis: value, "loss": loss}
        for group, curve in (("easy", easy), ("hard", hard))
        for value, loss in zip(values, curve.tolist(), strict=True)
    ]


def _features(runs: list[Run], backbone: str, features: str, results_dir: Path) -> Tensor:
    if features == "pretrained":
        return stored_signals(runs[0], results_dir, of_tuned=True).features()
    found = [run for run in runs if run.row["scoring_backbone"] == backbone and _reads_finetuned(run)]
    if not found:
        raise InputError("no run read a fully fine-tuned proxy; run one with proxy=full")
    proxy = stored_signals(found[0], results_dir).proxy()
    return proxy.features(proxy.num_epochs)


def _mmd_rows(runs: list[Run], kernel: PoolKernel, features: str, results_dir: Path) -> Iterator[Row]:
    # Recipes share subsets, and many methods choose the same subset for every seed. Each is computed once.
    seen, known = set(), {}
    for run in runs:
        row = run.row
        cell = (row["dataset"], row["backbone"], method_name(row), row["ratio"], row["seed"])
        if row["ratio"] == 1 or pd.notna(row["images_per_epoch"]) or pd.notna(row["per_class"]) or cell in seen:
            continue
        seen.add(cell)
        try:
            subset = _subset(results_dir / row["run"] / "subset.csv", len(kernel.features))
            key = subset.numpy().tobytes()
            known[key] = known[key] if key in known else kernel.mmd(subset)
        except InputError as error:
            _tell(f"no MMD of {row['run']}: {error}")
            continue
        names = ("dataset", "backbone", "method", "ratio", "seed")
        sizes = {"num_kept": len(subset), "num_pool": len(kernel.features)}
        yield {**dict(zip(names, cell, strict=True)), "mmd": known[key], "features": features, **sizes}


def _subset(path: Path, num_pool: int) -> Tensor:
    try:
        with path.open(newline="") as file:
            positions = torch.tensor([int(row["position"]) for row in csv.DictReader(file)])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path.name} is gone or damaged ({type(error).__name__})") from None
    if len(positions) and not 0 <= int(positions.min()) <= int(positions.max()) < num_pool:
        raise InputError(f"{path.name} has positions outside the pool of {num_pool} images")
    return positions


def _sortable(value: Any) -> tuple[int, float, str]:
    return (0, float(value), "") if isinstance(value, int | float) else (1, 0.0, str(value))


def _tell(line: str) -> None:
    print(line, file=sys.stderr)
