"""Sets that come with their own splits, DTD, FGVC-Aircraft and CIFAR-10: download, extract as it is, count."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prunetune.base.errors import InputError
from prunetune.data.counts import check_counts
from prunetune.data.list_files import read_text
from prunetune.data.prepare.archives import extract, inside
from prunetune.data.prepare.command import Place, drop_archive, get_archive
from prunetune.data.prepare.disk import staging
from prunetune.data.prepare.download import source
from prunetune.data.prepare.record import (
    OTHER_COUNTS,
    PROTOCOL,
    RECORD,
    Counts,
    read_finished,
    require_free,
    write_record,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Official:
    """One such set.

    count: counts the classes and images of a folder and raises InputError when its layout is not the set's; its second
    argument is true if the extracted files shall be compared with published checksums, where there are some.
    inside: the archive's top folder, which is dropped. below: the folder that replaces it.
    """

    name: str
    page: str
    inside: str
    count: Callable[[Path, bool], Counts]
    below: str = ""


def prepare_official(dataset: Official, where: Place) -> Counts:
    """Download, extract and count a set with official splits; return the counts at once if that was done before.

    A folder that was made by hand in the same layout is counted and taken as it is.
    """
    finished = read_finished(where.root, dataset.name, {})
    if finished is not None:
        log.info("%s was prepared before", where.root)
        return finished
    if where.root.is_dir() and any(where.root.iterdir()):
        return _adopt(dataset, where)
    require_free(where.root, dataset.name)
    archive = get_archive(source(dataset.name), where, dataset.page)
    with staging(where.root) as partial:
        log.info("extracting %s", archive)
        strip = inside(dataset.inside)
        prefix = f"{dataset.below}/" if dataset.below else ""
        extract(archive, partial, lambda name: prefix + kept if (kept := strip(name)) else None)
        counts = _checked(dataset, partial, where)
        write_record(partial, dataset.name, {}, counts)
    drop_archive(archive, where)
    return counts


def _adopt(dataset: Official, where: Place) -> Counts:
    try:
        counts = _checked(dataset, where.root, where)
    except InputError as error:
        raise InputError(
            f"{where.root} exists but is not a finished {dataset.name} ({error}); delete it or pass --root"
        ) from error
    log.info("%s already holds the whole data set; no %s was needed", where.root, RECORD)
    return counts


def _checked(dataset: Official, folder: Path, where: Place) -> Counts:
    counts = dataset.count(folder, where.check_counts)
    if where.check_counts:
        check_counts(dataset.name, PROTOCOL[dataset.name], counts, OTHER_COUNTS)
    return counts


def read_list(path: Path) -> list[str]:
    """Return the lines of a list file.

    Raises:
        InputError: it is missing.
    """
    if not path.is_file():
        raise InputError(
            f"{path.parent.name}/{path.name} is missing in the archive; it is incomplete or another edition"
        )
    return [line for line in read_text(path).splitlines() if line.strip()]


def require_files(folder: Path, names: list[str]) -> None:
    """Raise InputError if a listed image is not below the folder."""
    outside = [name for name in names if Path(name).is_absolute() or ".." in Path(name).parts]
    if outside:
        raise InputError(f"a list names {outside[0]}, which is outside the images' folder; fetch the archive again")
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise InputError(f"{len(missing)} of {len(names)} listed images are missing, first {missing[0]}")
