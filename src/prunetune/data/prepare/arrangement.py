"""Images from an archive or a folder into `<root>/{train,val,test}/<class>/`, as a file list says."""

import logging
import os
from collections.abc import Iterable
from pathlib import Path, PurePosixPath
from typing import Any

from prunetune.base.errors import InputError
from prunetune.data.prepare.archives import extract
from prunetune.data.prepare.disk import link_or_copy, staging
from prunetune.data.prepare.record import Counts, count_rows, write_record
from prunetune.data.prepare.splits import Row, list_sha256, to_csv

log = logging.getLogger(__name__)
LIST = "splits.csv"


def tail(path: str, num_parts: int) -> str:
    """Return the last parts of a path: the name under which an image is found wherever its folder was moved."""
    return "/".join(PurePosixPath(path).parts[-num_parts:])


def arrange(
    source: Path, root: Path, rows: list[Row], name: str, settings: dict[str, Any], num_parts: int, **facts: Any
) -> Counts:
    """Build the folder of a set from its images and write its file list and record.

    Args:
        source: an archive, which is extracted straight into place, or a folder, whose files get hard links.
        root: the folder to build; it appears when everything is in it.
        rows: the file list.
        name: the data set's name, for the record.
        settings: the settings that the list was made with, for the record.
        num_parts: how many of the last parts of a path identify an image in the source.
        facts: further entries of the record.

    Raises:
        InputError: images are missing, or the disk is full.
    """
    targets = {tail(row.path, num_parts): row.target for row in rows}
    with staging(root) as partial:
        if source.is_dir():
            log.info("linking %d images from %s", len(rows), source)
            _link(source, partial, targets, num_parts)
        else:
            log.info("extracting %d images from %s", len(rows), source)
            extract(source, partial, lambda path: targets.get(tail(path, num_parts)))
        _require_all(partial, source, rows)
        counts = count_rows(rows)
        (partial / LIST).write_text(to_csv(rows), encoding="utf-8")
        write_record(partial, name, settings, counts, list_sha256=list_sha256(rows), **facts)
    return counts


def _link(source: Path, folder: Path, targets: dict[str, str], num_parts: int) -> None:
    done = set()
    for path in files_below(source):
        key = tail(path.as_posix(), num_parts)
        if key in targets and key not in done:
            link_or_copy(path, folder / targets[key])
            done.add(key)


def files_below(folder: Path) -> Iterable[Path]:
    """Yield the files below a folder in a fixed order, without the hidden ones."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        yield from (Path(place) / name for name in sorted(names) if not name.startswith("."))


def _require_all(folder: Path, source: Path, rows: list[Row]) -> None:
    missing = [row.path for row in rows if not (folder / row.target).is_file()]
    if missing:
        raise InputError(
            f"{len(missing)} of {len(rows)} images of the file list are not in {source}, first {missing[0]}; "
            "give the complete archive or folder"
        )
