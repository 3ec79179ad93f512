"""TU-Berlin sketches (Eitz et al. 2012, CC BY 4.0): 250 classes of 80 drawings, split 48/16/16 by us.

No checksum of the archive is published: the first download's SHA-256 is written beside it and compared later. The
names inside are known: numbers 80*i + 1 to 80*i + 80 belong to the i-th class (from 0) in byte order of the class
names, so the default file list has a committed checksum. Left out as mirrors: sdiaeyu6n/tu-berlin (parquet without
the file names that the split depends on) and kmewhort/tu-berlin-png (20.1 thousand rows).
"""

from pathlib import Path, PurePosixPath

from prunetune.base.errors import InputError
from prunetune.data.counts import check_counts
from prunetune.data.prepare.archives import member_names
from prunetune.data.prepare.arrangement import arrange, files_below, tail
from prunetune.data.prepare.command import Place, drop_archive, get_archive
from prunetune.data.prepare.download import checksum, source
from prunetune.data.prepare.record import OTHER_COUNTS, PROTOCOL, Counts, count_rows, read_finished, require_free
from prunetune.data.prepare.splits import Row, by_image, check_committed

PAGE = "http://cybertron.cg.tu-berlin.de/eitz/projects/classifysketch/"
PER_CLASS = 80
NUM_PARTS = 2  # The path "<class>/<number>.png" identifies a sketch.


def prepare(where: Place, split_seed: int = 0) -> Counts:
    """Prepare `<root>/{train,val,test}/<class>/<number>.png`; the paths of the list are `<class>/<number>.png`."""
    settings = {"split_seed": split_seed}
    finished = read_finished(where.root, "sketch", settings)
    if finished is not None:
        return finished
    require_free(where.root, "sketch")
    images = where.images or get_archive(source("sketch"), where, PAGE)
    rows = choose(_found(images), split_seed, where.check_counts)
    if where.check_counts:
        check_counts("sketch", PROTOCOL["sketch"], count_rows(rows), OTHER_COUNTS)
    if where.check_counts and where.verify:
        check_committed(f"sketch split_seed={split_seed}", rows)
    facts = {} if where.images else {"archive_sha256": checksum(images, "sha256")}
    counts = arrange(images, where.root, rows, "sketch", settings, NUM_PARTS, **facts)
    if not where.images:
        drop_archive(images, where)
    return counts


def choose(paths: list[str], split_seed: int, check: bool) -> list[Row]:
    """Return the file list of the PNG files among these paths.

    Raises:
        InputError: there are none, or a class does not have 80 of them (unless `check` is false).
    """
    files: dict[str, list[str]] = {}
    for path in sorted({tail(path, NUM_PARTS) for path in paths}):
        name = PurePosixPath(path).name
        if name.endswith(".png") and not name.startswith("."):
            files.setdefault(str(PurePosixPath(path).parent), []).append(name)
    if not files:
        raise InputError("sketch: expected <class>/<number>.png files, found none; give sketches_png.zip or its folder")
    short = [label for label, members in files.items() if len(members) != PER_CLASS]
    if check and short:
        raise InputError(
            f"sketch: {len(short)} classes do not have {PER_CLASS} images, first {short[0]!r} with "
            f"{len(files[short[0]])}; download the archive again, or pass --no-check-counts to use it as it is"
        )
    return by_image(files, "sketch", split_seed)


def _found(images: Path) -> list[str]:
    if images.is_dir():
        return [path.relative_to(images).as_posix() for path in files_below(images)]
    return member_names(images)
