"""What `prunetune prune-text` does, step by step."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from prunetune.cluster.engine import RayEngine
from prunetune.data.readers.hugging_face import HUB
from prunetune.instruct.own_text.choose import choose, corpus_of
from prunetune.instruct.own_text.files import WRITTEN, write_files
from prunetune.instruct.own_text.on_ray import on_ray
from prunetune.instruct.own_text.plan import TextPlan
from prunetune.instruct.own_text.read import Reading, read_rows
from prunetune.instruct.own_text.words import command, spoken
from prunetune.own.console import open_store, print_paths, told
from prunetune.own.folder import OutFolder
from prunetune.own.keep import Keep

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TextOutput:
    """What is written: the folder, the options that its files depend on, and the store. engine: Ray, or None."""

    folder: Path
    asked: Mapping[str, Any]
    store: Path | None
    is_dry: bool
    engine: RayEngine | None = None


def run(data: str, reading: Reading, keep: Keep, plan: TextPlan, output: TextOutput) -> None:
    """Read, choose and write. Messages go to standard error, the paths of the files to standard output.

    Raises:
        InputError: the input is wrong; `--out` is then unchanged.
    """
    with told(), spoken(command):
        _run(data, reading, keep, plan, output)
    if not output.is_dry:
        print_paths(output.folder, WRITTEN)


def _run(data: str, reading: Reading, keep: Keep, plan: TextPlan, output: TextOutput) -> None:
    facts = {} if output.engine is None else {"engine": "ray"}
    folder = OutFolder(output.folder, output.asked, command="prune-text", facts=facts)
    place = Path(data.removeprefix(HUB)).expanduser()
    folder.check(place if place.exists() else None)
    rows = read_rows(data, reading)
    for line in (f"{len(rows.rows)} rows of {rows.where}", *rows.notes):
        log.info("%s", line)
    mark = rows.mark
    if not output.is_dry and folder.is_finished(mark):
        log.info("finished before: the same command on the same data")
        return
    corpus = corpus_of(rows, reading, plan)
    log.info("columns: %s", corpus.form.name)
    if output.is_dry:
        log.info("nothing was scored or written, because of --dry-run")
        return
    with on_ray(output.engine) as remote:
        subset = choose(rows, corpus, keep, replace(plan, remote=remote), open_store(output.store))
    log.info("kept %d of %d samples by %s", len(subset), len(subset.pool), subset.method)
    folder.write(mark, lambda partial: write_files(subset, partial))
