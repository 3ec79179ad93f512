"""What `prunetune prune` and `prunetune advise` do, step by step."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prunetune.base.errors import InputError
from prunetune.base.verification import key_digest
from prunetune.own.advice import Advice
from prunetune.own.choose import Chosen, Plan, choose
from prunetune.own.console import open_store, print_paths, told
from prunetune.own.data import OwnData
from prunetune.own.export import check_export
from prunetune.own.files import write_files
from prunetune.own.folder import OutFolder, mark
from prunetune.own.keep import Keep
from prunetune.own.page import write_advice_page, write_page
from prunetune.own.read import ReadOptions, read, read_embeddings
from prunetune.own.stored_advice import keep_advice, key_of, stored_advice

log = logging.getLogger(__name__)
UNEQUAL = 10  # Classes are called unequal where the largest has so many times the samples of the smallest.
WRITTEN = ("kept.txt", "kept.csv", "all.csv", "report.html")


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
    with told():
        _run(source, keep, plan, output)
    if not output.is_dry:
        print_paths(output.folder, WRITTEN)


def advise(source: Source, plan: Plan, output: Output) -> None:
    """Print the advice for the data, and write its report if there is a folder for it.

    Raises:
        InputError: the data cannot be read, or are too small for an estimate; `--out` is then unchanged.
    """
    with told():
        folder = None if output.folder is None else OutFolder(output.folder, output.asked, command="advise")
        if folder is not None:
            folder.check(source.place)
        data = _read(source)
        advice = keep_advice(open_store(output.store), data, plan, source.options)
        print(advice)
        if folder is not None:
            folder.write(mark(data), lambda partial: write_advice_page(partial / "report.html", data, advice))
            print_paths(folder.path, ("report.html",))


def _run(source: Source, keep: Keep, plan: Plan, output: Output) -> None:
    folder = OutFolder(output.folder, output.asked, facts={"engine": "local"})
    folder.check(source.place)
    data = _read(source)
    if output.export is not None:
        check_export(data, output.export)
    if output.is_dry:
        log.info("nothing was scored or written, because of --dry-run")
        return
    store = open_store(output.store)
    # Advice that was asked for after an earlier call goes into the report too.
    advice = stored_advice(store, data, plan, source.options)
    advised = None if advice is None else key_digest(key_of(data, plan, source.options))
    folder = replace(folder, asked={**output.asked, "advice": advised})
    if folder.is_finished(mark(data)):
        log.info("finished before: the same command on the same data")
        return
    chosen = choose(data, keep, plan, store, source.options)
    log.info("kept %d of %d by %s", len(chosen.subset), len(chosen.subset.pool), chosen.subset.method)
    if hint := unequal_classes(data, keep):
        log.info("%s", hint)
    folder.write(mark(data), lambda partial: _write(chosen, advice, partial, output.export))


def unequal_classes(data: OwnData, keep: Keep) -> str:
    """Return how a user can keep equally many of each class, empty unless the sizes of the classes differ much."""
    if not data.is_labelled or keep.per_class is not None:
        return ""
    sizes = [size for size in data.pool.labels.bincount().tolist() if size]
    if max(sizes) < UNEQUAL * min(sizes):
        return ""
    return (
        f"the classes have {min(sizes)} to {max(sizes)} samples; "
        "if all classes count the same for you, --per-class keeps equally many of each"
    )


def _read(source: Source) -> OwnData:
    """Return the candidates, and say what was understood."""
    data = source.read()
    for line in data.described():
        log.info("%s", line)
    return data


def _write(chosen: Chosen, advice: Advice | None, folder: Path, form: str | None) -> None:
    suspects, _ = chosen.suspects
    write_files(chosen.subset, folder, form, suspects)
    write_page(folder / "report.html", chosen, advice)
