"""The common face of `scripts/prepare_*.py`: options, plain progress, one last line, one line on bad input."""

import argparse
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

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


def parser(name: str, description: str, images: bool = False) -> argparse.ArgumentParser:
    """Return the options that all preparation commands share.

    Args:
        name: the data set's name; its default root is `data/<name>`.
        description: the script's docstring.
        images: offer `--images` too.
    """
    options = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.set_defaults(images=None)
    add = options.add_argument
    add("--root", type=Path, default=Path("data") / name, metavar="FOLDER", help="the prepared set (%(default)s)")
    add("--downloads", type=Path, metavar="FOLDER", help="archives, finished and half-done (<root>/../downloads)")
    add("--archive", type=Path, nargs="+", action="extend", default=[], metavar="FILE", help="downloaded by hand")
    if images:
        add("--images", type=Path, metavar="FOLDER", help="images extracted by hand; they are linked, not copied")
    add("--keep-archives", action="store_true", help="do not delete the downloaded archives afterwards")
    add("--no-checksum", action="store_true", help="take archives and file lists that differ from the published ones")
    add("--no-check-counts", action="store_true", help="take other numbers of classes or images than the protocol's")
    return options


def place(options: argparse.Namespace) -> Place:
    """Return the shared part of the parsed options."""
    root = options.root.expanduser()
    return Place(
        root=root,
        downloads=(options.downloads or root.parent / "downloads").expanduser(),
        archives=tuple(path.expanduser() for path in options.archive),
        images=options.images.expanduser() if options.images else None,
        keep_archives=options.keep_archives,
        verify=not options.no_checksum,
        check_counts=not options.no_check_counts,
    )


def run(name: str, root: Path, prepare: Callable[[], Counts]) -> None:
    """Prepare, and print the one line that says what is there; on bad input print one line and exit with code 1."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    try:
        counts = prepare()
    except InputError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("error: interrupted; run the same command again to go on")
    print(f"{root}: {counts}; next: {next_command(name, root, counts)}")


def next_command(name: str, root: Path, counts: Counts) -> str:
    """Return the command that uses the prepared set."""
    words = ["python run.py", f"dataset={name}"]
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
