"""The outcome of a cluster run: as a Subset in memory, or as files that are written part by part."""

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from prunetune.base.extra import needed
from prunetune.base.publish import new_file
from prunetune.cluster.catalogue import Catalogue
from prunetune.cluster.content import contents
from prunetune.cluster.job import Outcome
from prunetune.cluster.parts import Part
from prunetune.cluster.workers import DIGESTS
from prunetune.data.images.decode import Images, UnreadableImage
from prunetune.data.images.own import UNREADABLE
from prunetune.data.images.rule import DecodeRule
from prunetune.data.pool import Pool
from prunetune.own.data import OwnData
from prunetune.own.duplicates import Duplicates
from prunetune.own.files import COLUMNS, SUSPECT, as_field, write_files
from prunetune.own.page import write_cluster_page
from prunetune.own.subset import Subset
from prunetune.runs.records import write_csv

CSV_ROWS = 2_000_000  # Of more rows, tables are written as parquet: a CSV file of them opens in no program.
WAITING = 2**14  # So many lines wait for the parquet file; a line takes about a kilobyte.
NO_LABEL = "it has no label"


def as_subset(outcome: Outcome, rule: DecodeRule) -> Subset:
    """Return the outcome as a Subset. It takes about 300 bytes a row in this process."""
    is_candidate = ~np.isnan(outcome.scores)
    stay = torch.from_numpy(np.flatnonzero(is_candidate))
    data = _held_data(outcome, stay) if outcome.catalogue.held is not None else _shard_data(outcome, stay, rule)
    kept = torch.from_numpy(np.flatnonzero(outcome.kept[is_candidate]))
    scores = torch.from_numpy(outcome.scores[is_candidate])
    return Subset(data, kept, scores, None, outcome.method, Duplicates())


def _held_data(outcome: Outcome, stay: Tensor) -> OwnData:
    data = outcome.catalogue.held
    return data if len(stay) == len(data.pool) else data.take(stay, dict(_failures(outcome)))


def _shard_data(outcome: Outcome, stay: Tensor, rule: DecodeRule) -> OwnData:
    catalogue = outcome.catalogue
    labels = torch.from_numpy(np.concatenate([catalogue.labels(part) for part in outcome.parts]))
    ids = [one for part in outcome.parts for one in catalogue.sample_ids(part)]
    names = [one for part in outcome.parts for one in catalogue.names(part)]
    chosen = stay.tolist()
    has_images = catalogue.source.layout != "embeddings"
    pool = Pool(
        catalogue.source.name,
        labels[stay].long(),
        tuple(ids[position] for position in chosen),
        ("train",) * len(chosen),
        catalogue.classes,
        ShardImages(catalogue, outcome.parts, tuple(chosen), rule) if has_images else None,
    )
    return OwnData(
        pool=pool,
        rows=stay,
        num_rows=catalogue.total,
        names=tuple(names[position] for position in chosen),
        paths=(None,) * len(chosen),
        layout=catalogue.source.layout,
        is_labelled=catalogue.is_labelled,
        left_out={**catalogue.left_out, **dict(_failures(outcome))},
        source=[file.url for file in catalogue.files],
        notes=catalogue.notes,
    )


@dataclass(frozen=True, eq=False)
class ShardImages(Images):
    """Images inside shards, read when they are asked for; the encoded images of one part stay in memory.

    positions: those of the images in the catalogue.
    """

    catalogue: Catalogue
    parts: tuple[Part, ...]
    positions: tuple[int, ...]
    rule: DecodeRule

    def __len__(self) -> int:
        return len(self.positions)

    def decode(self, position: int) -> Tensor:
        place, content = f"row {self.positions[position]}", self._content(self.positions[position])
        if isinstance(content, OSError):
            raise UnreadableImage(place, content.strerror or str(content))
        return self.rule.decode_bytes(content, place)

    def digest(self, position: int) -> str:
        """Return the SHA-256 of the rule and the content, or a word if there is no content."""
        content = self._content(self.positions[position])
        if isinstance(content, OSError):
            return UNREADABLE
        return hashlib.sha256(self.rule.mark.encode() + content).hexdigest()

    def take(self, positions: Iterable[int]) -> "ShardImages":
        return ShardImages(self.catalogue, self.parts, tuple(self.positions[i] for i in positions), self.rule)

    @cached_property
    def _segments(self) -> list[Any]:
        return self.catalogue.segments(max(part.count for part in self.parts))

    @cached_property
    def _last(self) -> dict[str, Any]:
        return {"first": -1, "contents": []}

    def _content(self, position: int) -> bytes | OSError:
        last = self._last
        if not last["first"] <= position < last["first"] + len(last["contents"]):
            segment = next(one for one in self._segments if any(_has(part, position) for part in one.parts))
            for part, images in contents(self.catalogue, segment):
                if _has(part, position):
                    last["first"], last["contents"] = part.first, list(images)
                    break
        return last["contents"][position - last["first"]]


def _has(part: Part, position: int) -> bool:
    return part.first <= position < part.first + part.count


def _failures(outcome: Outcome) -> Iterator[tuple[str, str]]:
    """Yield the name and the reason of each row that is no candidate."""
    word = "sample" if outcome.catalogue.source.layout == "webdataset" else "row"
    for part in outcome.parts:
        reasons = outcome.reasons(part)
        unlabelled = outcome.catalogue.unlabelled and (outcome.catalogue.labels(part) < 0).any()
        if not reasons and not unlabelled:
            continue
        labels, names = outcome.catalogue.labels(part), outcome.catalogue.full_names(part)
        for offset, name in enumerate(names):
            if labels[offset] < 0:
                yield f"{word} {name}", NO_LABEL
            elif (reason := reasons.get(part.first + offset)) is not None:
                yield name, reason


def write_outcome(outcome: Outcome, folder: Path, lines: list[str]) -> None:
    """Write kept.txt, kept.csv, all.csv and report.html into a folder; see `own.files.write_files`.

    Of more than CSV_ROWS rows, the tables are kept.parquet and all.parquet. No suspect labels and no duplicates are
    looked for, and the report has neither pictures nor a map, since each of them would read all features or images
    again on one machine.

    Args:
        outcome: what was chosen.
        folder: an empty folder.
        lines: what was understood of the data, for the report.
    """
    if outcome.catalogue.held is not None:
        write_files(as_subset(outcome, DecodeRule()), folder)
    else:
        _write_tables(outcome, folder)
    classes = [
        {"name": name, "total": outcome.sizes.get(label, 0), "kept": outcome.budgets.get(label, 0)}
        for label, name in enumerate(outcome.catalogue.classes)
    ]
    write_cluster_page(
        folder / "report.html",
        {
            "name": outcome.catalogue.source.name,
            "num_kept": int(outcome.kept.sum()),
            "total": sum(outcome.sizes.values()),
            "method": outcome.method,
            "lines": lines,
            "classes": classes,
            "failed": outcome.failed,
            "near": outcome.near,
            "losses": [loss.line for loss in outcome.losses],
            "left_out": list(outcome.catalogue.left_out.items()),
        },
    )


def _write_tables(outcome: Outcome, folder: Path) -> None:
    with new_file(folder / "kept.txt") as partial, partial.open("w", encoding="utf-8") as file:
        file.writelines(f"{line['name']}\n" for line in _lines(outcome) if line["kept"])
    columns = (*COLUMNS, SUSPECT)
    for name, only_kept in (("kept", True), ("all", False)):
        lines = (line for line in _all_lines(outcome, only_kept) if line["kept"] or not only_kept)
        if outcome.catalogue.total <= CSV_ROWS:
            rows = ([as_field(line.get(column)) for column in columns] for line in lines)
            write_csv(folder / f"{name}.csv", columns, rows, "give another folder")
        else:
            _write_parquet(folder / f"{name}.parquet", lines)


def _all_lines(outcome: Outcome, only_kept: bool) -> Iterator[dict[str, Any]]:
    yield from _lines(outcome)
    if not only_kept:
        for name, reason in [*outcome.catalogue.left_out.items(), *_failures(outcome)]:
            yield {
                **dict.fromkeys(COLUMNS),
                "name": name,
                "kept": False,
                "weight": 0.0,
                "reason": f"left out: {reason}",
            }


def _lines(outcome: Outcome) -> Iterator[dict[str, Any]]:
    """Yield a line about each candidate of shards, in the order of the rows."""
    catalogue = outcome.catalogue
    for part in outcome.parts:
        names, labels = catalogue.names(part), catalogue.labels(part).tolist()
        rows = slice(part.first, part.first + part.count)
        values = zip(
            names,
            labels,
            outcome.scores[rows].tolist(),
            outcome.ranks[rows].tolist(),
            outcome.kept[rows].tolist(),
            strict=True,
        )
        for row, (name, label, score, rank, kept) in enumerate(values, part.first):
            if score == score:
                yield {
                    "row": row,
                    "name": name,
                    "path": None,
                    "class": catalogue.classes[label] if catalogue.is_labelled else None,
                    "score": score,
                    "percentile": 100 * rank / outcome.sizes[label],
                    "kept": kept,
                    "weight": float(kept),
                    "reason": "kept" if kept else "not chosen",
                    "duplicate_group": None,
                }


def _write_parquet(path: Path, lines: Iterator[dict[str, Any]]) -> None:
    arrow, parquet = needed("pyarrow", "cluster", "tables"), needed("pyarrow.parquet", "cluster", "tables")
    kinds = {"row": arrow.int64(), "kept": arrow.bool_(), "score": arrow.float64(), "percentile": arrow.float64()}
    kinds |= {"weight": arrow.float64(), "duplicate_group": arrow.int64()}
    schema = arrow.schema([(column, kinds.get(column, arrow.string())) for column in (*COLUMNS, SUSPECT)])
    with new_file(path) as partial, parquet.ParquetWriter(partial, schema) as writer:
        waiting: list[dict[str, Any]] = []
        for line in lines:
            waiting.append(line)
            if len(waiting) == WAITING:
                writer.write_table(arrow.Table.from_pylist(waiting, schema))
                waiting = []
        writer.write_table(arrow.Table.from_pylist(waiting, schema))


def mark_of_shards(outcome: Outcome) -> str:
    """Return the mark that `own.folder.mark` gives to the same rows, read part by part from what the workers wrote."""
    catalogue = outcome.catalogue
    listing, contents_ = hashlib.sha256(b"["), hashlib.sha256()
    separator = ""
    for part in outcome.parts:
        digests = np.load(outcome.passes.file(part.name, DIGESTS))
        rows = zip(catalogue.sample_ids(part), catalogue.labels(part).tolist(), digests, strict=True)
        for sample_id, label, digest in rows:
            if label < 0:
                continue
            content = digest.tobytes().hex() if digest.any() else UNREADABLE
            listing.update(f"{separator}{(sample_id, label, 'train')!r}".encode())
            contents_.update("\x1f".join((sample_id, str(label), "train", content)).encode() + b"\n")
            separator = ", "
    listing.update(b"]")
    return hashlib.sha256(listing.hexdigest().encode() + contents_.hexdigest().encode()).hexdigest()
