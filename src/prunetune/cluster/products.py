"""The products of a run: parquet files with a row for each candidate, written by the workers, and their manifest.

A file has the columns `row` (the place in the order of sample_id), `id` (the name as the user knows it), `label`,
`score` and `kept`, and `features` if they are asked for. manifest.json has the bytes and the hash of each file.
"""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from prunetune.base.extra import needed
from prunetune.cluster.catalogue import Catalogue
from prunetune.cluster.job import Outcome
from prunetune.cluster.parts import Part, bundles
from prunetune.cluster.stages import Item, Stage, named_file
from prunetune.cluster.workers import FEATURES

MOST_ROWS = 1 << 16  # A file has at most this many rows, so that few files are many rows.


def write_products(outcome: Outcome, folder: Path, with_features: bool) -> Path:
    """Write the products of a run in the workers, and return their folder.

    Args:
        outcome: what was chosen.
        folder: where the files go, on a disk that all machines share.
        with_features: whether the features of each row are written too; 4 D bytes a row.

    Raises:
        InputError: see `stages.Stage.run`.
    """
    stage, items = Stage(folder), []
    for bundle in bundles("part", outcome.parts, MOST_ROWS):
        first, count = bundle.parts[0].first, bundle.rows
        rows, listed = slice(first, first + count), outcome.catalogue.listed_at(first, count)
        work = (bundle.parts, outcome.scores[rows], outcome.kept[rows], listed and replace(listed, places=()))
        items.append(Item(bundle.name, count, work))
    shared = (outcome.catalogue.bare(), outcome.passes, with_features)
    stage.run(items, write_product, *shared, what="writing products")
    stage.write_manifest(item.name for item in items)
    return stage.folder


def write_product(item: Item, stage: Stage, catalogue: Catalogue, passes: Stage, with_features: bool) -> dict[str, Any]:
    """Write one file; its parts are row groups."""
    parts, scores, kept, listed = item.work
    catalogue = replace(catalogue, listed=listed)
    parquet = needed("pyarrow.parquet", "cluster", "tables")
    path, writer = stage.file(item.name, ".parquet"), None
    with named_file(path) as file:
        try:
            for part in parts:
                own = slice(part.first - parts[0].first, part.first - parts[0].first + part.count)
                table = _table(catalogue, part, scores[own], kept[own], passes if with_features else None)
                writer = writer or parquet.ParquetWriter(file, table.schema)
                writer.write_table(table)
        finally:
            if writer is not None:
                writer.close()
    return stage.finish(item.name, [path], {})


def _table(catalogue: Catalogue, part: Part, scores: np.ndarray, kept: np.ndarray, passes: Stage | None) -> Any:
    """Return the rows of a part that are candidates; passes: the stage of their features if these are asked for."""
    arrow = needed("pyarrow", "cluster", "tables")
    chosen = np.flatnonzero(~np.isnan(scores))
    names, labels = np.array(catalogue.names(part), dtype=object), catalogue.labels(part)
    classes = np.array(catalogue.classes, dtype=object) if catalogue.is_labelled else np.array([None])
    columns = {
        "row": arrow.array(part.first + chosen, arrow.int64()),
        "id": arrow.array(names[chosen], arrow.string()),
        "label": arrow.array(classes[labels[chosen]], arrow.string()),
        "score": arrow.array(scores[chosen], arrow.float64()),
        "kept": arrow.array(kept[chosen], arrow.bool_()),
    }
    if passes is not None:
        with np.load(passes.file(part.name, FEATURES)) as file:
            features = file["features"]  # Of the same rows: `positions` are those of the candidates.
        flat = arrow.array(features.reshape(-1))
        columns["features"] = arrow.FixedSizeListArray.from_arrays(flat, features.shape[1])
    return arrow.table(columns)
