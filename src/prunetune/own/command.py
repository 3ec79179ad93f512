"""What `prunetune prune` and `prunetune advise` do, step by step."""

import logging
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from platformdirs import user_cache_path

from prunetune.base.errors import InputError
from prunetune.base.store import Store
from prunetune.base.verification import key_digest
from prunetune.own.advice import Advice
from prunetune.own.choose import Chosen, Plan, choose
from prunetune.own.data import OwnData
from prunetune.own.files import write_files
from prunetune.own.folder import OutFolder
from prunetune.own.keep import Keep
from prunetune.own.page import write_advice_page, write_page
from prunetune.own.read import ReadOptions, read, read_embeddings
from prunetune.own.stored_advice import keep_advice, key_of, stored_advice

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """Where the data are: `data` as the user wrote it, or files of embeddings with labels and names."""

    data: str | None
    embeddings: Path | None
    labels: Path | None
    ids: Path | None
    options: ReadOptions

    def read(self) -> OwnData:
        """Return the candidates.

        Raises:
            InputError: none or both are given, or the data cannot be read.
        """
        if (self.data is None) == (self.embeddings is None):
            raise InputError("expected either DATA or --embeddings FILE; see --help")
        if self.embeddings is not None:
            return read_embeddings(self.embeddings, self.labels, self.ids, self.options)
        if self.labels or self.ids:
            raise InputError("--labels and --ids belong to --embeddings; DATA bring their own")
        return read(self.data, self.options)

    @property
    def place(self) -> Path | None:
        """The folder or file of the data, which the outcome may not overwrite."""
        place = Path(self.data or self.embeddings or "").expanduser()
        return place if place.exists() else None


@dataclass(frozen=True)
class Output:
    """What is written: the folder, the options that its files depend on, the form of export, and the store.

    folder: None for advice that is only printed.
    """

    folder: Path | None
    asked: Mapping[str, Any]
    export: str | None = None
    store: Path | None = None
    is_dry: bool = False


def run(source: Source, keep: Keep, plan: Plan, output: Output) -> None:
    """Read, choose and write. Messages go to standard error, the paths of the files to standard output.

    Raises:
        InputError: the input is wrong; `--out` is then unchanged.
    """
    with _told():
        _run(source, keep, plan, output)
    if not output.is_dry:
        _print_paths(output.folder)


def advise(source: Source, plan: Plan, output: Output) -> None:
    """Print the advice for the data, and write its report if there is a folder for it.

    Raises:
        InputError: the data cannot be read, or are too small for an estimate; `--out` is then unchanged.
    """
    with _told():
        folder = None if output.folder is None else OutFolder(output.folder, output.asked, command="advise")
        if folder is not None:
            folder.check(source.place)
        data = _read(source)
        advice = keep_advice(_store(output.store), data, plan, source.options)
        print(advice)
        if folder is not None:
            folder.write(data, lambda partial: write_advice_page(partial / "report.html", data, advice))
            _print_paths(folder.path)


def _run(source: Source, keep: Keep, plan: Plan, output: Output) -> None:
    folder = OutFolder(output.folder, output.asked)
    folder.check(source.place)
    data = _read(source)
    if output.is_dry:
        log.info("nothing was scored or written, because of --dry-run")
        return
    store = _store(output.store)
    # Advice that was asked for after an earlier call goes into the report too.
    advice = stored_advice(store, data, plan, source.options)
    advised = None if advice is None else key_digest(key_of(data, plan, source.options))
    folder = replace(folder, asked={**output.asked, "advice": advised})
    if folder.is_finished(data):
        log.info("finished before: the same command on the same data")
        return
    chosen = choose(data, keep, plan, store, source.options)
    log.info("kept %d of %d by %s", len(chosen.subset), len(chosen.subset.pool), chosen.subset.method)
    folder.write(data, lambda partial: _write(chosen, advice, partial, output.export))


def _read(source: Source) -> OwnData:
    """Return the candidates, and say what was understood."""
    data = source.read()
    for line in data.described():
        log.info("%s", line)
    return data


def _store(folder: Path | None) -> Store:
    """Return the store in a folder, by default in the user's cache folder, and say where it is."""
    folder = folder or user_cache_path("prunetune", appauthor=False)
    log.info("features and scores are kept in %s", folder)
    return Store(folder, "give --store another folder")


@contextmanager
def _told() -> Iterator[None]:
    """Show the messages of the package on standard error, as plain lines."""
    package, handler = logging.getLogger("prunetune"), logging.StreamHandler(sys.stderr)
    level = package.level
    package.addHandler(handler)
    package.setLevel(logging.INFO)
    try:
        yield
    finally:
        package.removeHandler(handler)
        package.setLevel(level)


def _write(chosen: Chosen, advice: Advice | None, folder: Path, form: str | None) -> None:
    suspects, _ = chosen.suspects
    write_files(chosen.subset, folder, form, suspects)
    write_page(folder / "report.html", chosen, advice)


def _print_paths(folder: Path) -> None:
    for name in ("kept.txt", "kept.csv", "all.csv", "report.html"):
        if (folder / name).is_file():
            print(folder / name)
