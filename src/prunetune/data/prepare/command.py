"""What the commands `prunetune prepare <set>` share: where files lie, plain progress, the last line, the archive."""

import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from prunetune.base.errors import InputError
from prunetune.data.prepare.download import Source, fetch, verify
from prunetune.data.prepare.record import PROTOCOL, Counts

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Place:
    """Where a data set comes from and goes to, and how strictly it is checked.

    archives: files downloaded by hand. images: a folder of files extracted by hand. keep_archives: do not delete what
    was downloaded here. verify: compare archives, label files and file lists with their checksums. check_counts:
    compare classes and images with the protocol.
    """

    root: Path
    downloads: Path
    archives: tuple[Path, ...] = ()
    images: Path | None = None
    keep_archives: bool = False
    verify: bool = True
    check_counts: bool = True

    @classmethod
    def at(
        cls,
        root: Path,
        downloads: Path | None,
        archives: Sequence[Path] | None,
        images: Path | None,
        keep_archives: bool,
        verify: bool,
        check_counts: bool,
    ) -> Self:
        """Return the place that a command line names: `~` is the home, downloads lie beside the root by default."""
        root = root.expanduser()
        return cls(
            root=root,
            downloads=(downloads or root.parent / "downloads").expanduser(),
            archives=tuple(path.expanduser() for path in archives or ()),
            images=images.expanduser() if images else None,
            keep_archives=keep_archives,
            verify=verify,
            check_counts=check_counts,
        )


def run(name: str, root: Path, prepare: Callable[[], Counts]) -> None:
    """Prepare, and print the one line that says what is there.

    Raises:
        InputError: of the set that is prepared.
    """
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        counts = prepare()
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run the same command again to continue")
    print(f"{root}: {counts}; next: {next_command(name, root, counts)}")


def next_command(name: str, root: Path, counts: Counts) -> str:
    """Return the command that uses the prepared set."""
    words = ["prunetune run", f"dataset={name}"]
    if root != Path("data") / name:
        words.append(f"dataset.root={root}")
    if counts != PROTOCOL[name]:
        words.append("dataset.check_counts=false")
    return " ".join([*words, "scorer=dlc ratio=0.1"])


def get_archive(wanted: Source, where: Place, page: str) -> Path:
    """Return the one archive of a set: the one given by hand, or the downloaded one.

    Raises:
        InputError: more than one was given, it is not the published one, or it cannot be downloaded.
    """
    if len(where.archives) > 1:
        raise InputError(f"expected one --archive, {wanted.file_name}, got {len(where.archives)}")
    if not where.archives:
        by_hand = f"Download {wanted.file_name} by hand from {page} and pass --archive FILE"
        return fetch(wanted, where.downloads, by_hand)
    given = where.archives[0]
    if where.verify or not given.is_file():
        verify(given, wanted, where.downloads, "download it again, or pass --no-checksum to use it as it is")
    return given


def drop_archive(path: Path, where: Place) -> None:
    """Delete a downloaded archive that is no longer needed; what a person gave is never touched."""
    if not where.keep_archives and path not in where.archives:
        path.unlink(missing_ok=True)
        log.info("deleted %s (--keep-archives keeps it)", path)
