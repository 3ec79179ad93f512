"""`prunetune prune --engine ray` and `prune(..., engine="ray")`, step by step."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from prunetune.base.disk import explained
from prunetune.base.errors import InputError
from prunetune.base.verification import key_digest
from prunetune.cluster.engine import Cluster, RayEngine, started
from prunetune.cluster.job import NONE_READ, Outcome, check_plan, list_rows, products_folder, prune_rows
from prunetune.cluster.outcome import as_subset, mark_of_shards, write_outcome
from prunetune.cluster.products import write_products
from prunetune.cluster.sources import Source, find, find_embeddings
from prunetune.own import command
from prunetune.own.choose import Plan
from prunetune.own.console import open_store, print_paths, told
from prunetune.own.folder import OutFolder, mark
from prunetune.own.keep import Keep
from prunetune.own.read import ReadOptions
from prunetune.own.subset import Subset

log = logging.getLogger(__name__)
WRITTEN = (*command.WRITTEN, "kept.parquet", "all.parquet")


def run(
    source: command.Source,
    keep: Keep,
    plan: Plan,
    output: command.Output,
    engine: RayEngine,
    with_features: bool = False,
) -> None:
    """Read, choose and write. Messages go to standard error, the paths of the files to standard output.

    with_features: see `products.write_products`.

    Raises:
        InputError: the input is wrong; `--out` is then unchanged.
    """
    with told():
        _run(source, keep, plan, output, engine, with_features)
    if not output.is_dry:
        print_paths(output.folder, WRITTEN)


def prune(data: Any, embeddings: Any, keep: Keep, plan: Plan, cluster: Cluster, options: ReadOptions) -> Subset:
    """Return what is kept, as `prunetune.prune` does.

    Raises:
        InputError: the input is wrong.
    """
    check_plan(plan, keep, options)
    with started(cluster.engine.address), _explained(cluster):
        found = _source(data, embeddings, options)
        outcome = prune_rows(list_rows(found, cluster, options), keep, plan, cluster, options)
        _say(outcome)
        return as_subset(outcome, options.rule)


def _run(
    source: command.Source, keep: Keep, plan: Plan, output: command.Output, engine: RayEngine, with_features: bool
) -> None:
    options = source.options
    check_plan(plan, keep, options)
    if (source.data is None) == (source.embeddings is None):
        raise InputError("expected either DATA or --embeddings FILE; see --help")
    if source.labels or source.ids:
        raise InputError("with --engine ray, labels are a column of the parquet files; leave --labels and --ids out")
    if output.export is not None:
        raise InputError("--export works without --engine ray only; copy the files that kept.txt names")
    if with_features and source.embeddings is None and isinstance(plan.scorer, NONE_READ):
        raise InputError(f"--with-features needs a scorer that reads features, and {plan.scorer.name} reads none")
    folder = OutFolder(output.folder, {**output.asked, "advice": None})
    folder.check(source.place)
    found = _source(source.data, source.embeddings, options)
    cluster = Cluster(open_store(output.store), engine)
    facts = {"engine": "ray", "sources": source_mark(found)}
    if not output.is_dry and not with_features and _is_same(folder, facts, engine.worker_gb):
        log.info("finished before: the same command on the same data")
        return
    with started(engine.address), _explained(cluster):
        catalogue = list_rows(found, cluster, options)
        if output.is_dry:
            log.info(
                "%d rows in %d shards; nothing was scored, because of --dry-run", catalogue.total, len(found.files)
            )
            return
        outcome = prune_rows(catalogue, keep, plan, cluster, options)
        lines = catalogue.described([outcome.sizes.get(label, 0) for label in range(len(catalogue.classes))])
        _say(outcome, lines)
        products = write_products(outcome, products_folder(outcome, cluster, with_features), with_features)
        log.info("scores of all rows as parquet files: %s", products)
        two_levels_gb = engine.worker_gb if outcome.losses else None
        _write(outcome, folder, {**facts, "products": str(products), "two_levels_gb": two_levels_gb}, lines)


def _is_same(folder: OutFolder, facts: dict[str, Any], worker_gb: float) -> bool:
    """Return whether the folder is finished. The memory of a worker matters only if classes took two levels."""
    names = "sources", "two_levels_gb"
    return any(folder.has_same({**facts, "two_levels_gb": memory}, names) for memory in (None, worker_gb))


def _write(outcome: Outcome, folder: OutFolder, facts: dict[str, Any], lines: list[str]) -> None:
    catalogue = outcome.catalogue
    if catalogue.held is not None:
        data_mark = source_mark(catalogue.source)
    elif catalogue.source.layout == "embeddings":
        data_mark = facts["sources"]
    else:
        data_mark = mark_of_shards(outcome)
    if outcome.losses:  # One level keeps other rows, so this is no outcome of the engine in process.
        data_mark = key_digest([data_mark, facts["two_levels_gb"]])
    if folder.is_finished(data_mark):
        log.info("finished before: the same command on the same data, by the other engine")
        return
    losses = [asdict(loss) for loss in outcome.losses]
    facts = {**facts, "near_a_cut": outcome.near, "unreadable": outcome.failed, "two_levels": losses}
    replace(folder, facts=facts).write(data_mark, lambda partial: write_outcome(outcome, partial, lines))


def _source(data: Any, embeddings: Any, options: ReadOptions) -> Source:
    return find(data, options) if embeddings is None else find_embeddings(embeddings, options)


def source_mark(source: Source) -> str:
    """Return a mark that changes when a shard or an image is written again."""
    if source.held is not None:
        return source.mark or mark(source.held)
    return key_digest([[file.url, file.size, file.mark] for file in source.files])


@contextmanager
def _explained(cluster: Cluster) -> Iterator[None]:
    with explained(f"the store {cluster.store.root}", cluster.store.fix):
        Path(cluster.store.root).mkdir(parents=True, exist_ok=True)
        yield


def _say(outcome: Outcome, lines: list[str] | None = None) -> None:
    for line in lines or ():
        log.info("%s", line)
    log.info("kept %d of %d by %s", int(outcome.kept.sum()), sum(outcome.sizes.values()), outcome.method)
    if outcome.near:
        log.info(
            "%d rows have scores within 1e-6 of a cut: on other machines rounding may choose others of them",
            outcome.near,
        )
