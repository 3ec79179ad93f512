"""WebDataset: tar archives in which the files of one sample have the same name before the first dot.

The archives are indexed once, by their headers. An image is then read from its place in the archive, so that nothing is
unpacked and no order is forced on the reader.
"""

import json
import logging
import os
import re
import tarfile
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from prunetune.base.errors import InputError
from prunetune.base.extra import needed
from prunetune.data.images.own import EncodedImages
from prunetune.data.images.rule import OWN_SUFFIXES
from prunetune.own.data import OwnData
from prunetune.own.read.assemble import Found, assemble, numbered, other_splits
from prunetune.own.read.columns import LABEL_NAMES, usual
from prunetune.own.read.options import ReadOptions
from prunetune.own.read.splits import choose_splits, split_kind

log = logging.getLogger(__name__)
UNREADABLE = "{} cannot be read as a tar archive ({}); an archive that is compressed must be unpacked first"
LABEL_FILES = ("cls", "label", "class")  # A file of one of these endings holds the label as text.


class DamagedArchive(InputError):
    """What an archive holds cannot be read, however often it is tried."""


@dataclass(frozen=True)
class Member:
    """A file in an archive: where it begins, and its size in bytes. archive: a path, or the address of an object."""

    archive: Path | str
    start: int
    size: int

    def read(self) -> bytes:
        """Return the content of the file."""
        with open(self.archive, "rb") as file:
            file.seek(self.start)
            return file.read(self.size)


Sample = dict[str, Member]  # Maps the ending of a file, such as "jpg", to the file.


def expand(pattern: str) -> list[Path]:
    """Return the archives of a pattern with braces, such as "train-{0000..0009}.tar"."""
    shards = needed("webdataset.shardlists", "data", "WebDataset archives")
    return [Path(os.path.expanduser(name)) for name in shards.expand_urls(pattern)]


def read_webdataset(archives: Sequence[Path], options: ReadOptions) -> OwnData:
    """Return the images of tar archives; a sample without an image is left out, one without a label is refused.

    Raises:
        InputError: the extra `data` is not installed, an archive is missing or damaged, or see `read_labels`.
    """
    splits = splits_of(archives)
    chosen = chosen_splits(splits, options)
    names, samples, left_out = _samples([path for path in archives if splits[path] in chosen])
    others = _others([path for path in archives if splits[path] not in chosen], options)
    for split in sorted({splits[path] for path in archives} - set(chosen)):
        left_out[f"{split} ({sum(splits[path] == split for path in archives)} archives)"] = "another split"
    labels, where = _labels(samples, names, options)
    found = Found(
        layout="webdataset",
        source=list(archives),
        num_rows=len(samples),
        rows=list(range(len(samples))),
        sample_ids=numbered(len(samples)),
        names=names,
        images=_images(samples, names, options),
        place=lambda row: f"sample {names[row]}",
        labels=labels,
        left_out=left_out,
        others=others,
        notes=[where] if where else [],
    )
    return assemble(found, archives[0].name, options)


def splits_of(archives: Sequence[Path]) -> dict[Path, str]:
    """Return the split of each archive: the first word of its name or that of its folder, "" if it is none."""
    found = {}
    for path in archives:
        words = [re.split(r"[-_.0-9]", path.name)[0], path.parent.name]
        found[path] = next((word for word in words if split_kind(word)), "")
    return found


def chosen_splits(splits: dict[Path, str], options: ReadOptions) -> list[str]:
    """Return the splits that are candidates, "" for archives that are not named after splits.

    Raises:
        InputError: only some archives are named after splits, or see `choose_splits`.
    """
    names = sorted(set(splits.values()))
    if "" in names:
        if len(names) > 1:
            odd = next(path.name for path, split in splits.items() if split == "")
            raise InputError(f"some archives are named after a split and {odd} is not; give those of one split")
        if options.split is not None:
            raise InputError(f"the archives are not named after splits; leave {options.words('split', '<name>')} out")
        return names
    return choose_splits(names, "the set of archives", options)


def _samples(archives: Sequence[Path]) -> tuple[list[str], list[Sample], dict[str, str]]:
    """Return the names of the samples with an image, their files, and what is left out."""
    names: list[str] = []
    samples: list[Sample] = []
    left_out: dict[str, str] = {}
    for path in archives:
        for key, sample in _index(path).items():
            name = f"{path.name}/{key}"
            if image_of(sample) is None:
                left_out[name] = "samples without an image"
                continue
            names.append(name)
            samples.append(sample)
    return names, samples, left_out


def _index(path: Path) -> dict[str, Sample]:
    """Return the samples of an archive by their keys."""
    try:
        with path.open("rb") as file:
            return index_of(file, path)
    except FileNotFoundError:
        raise InputError(f"there is no archive {path}") from None
    except OSError as error:
        raise InputError(UNREADABLE.format(path, error)) from None


def index_of(file: BinaryIO, path: Path | str) -> dict[str, Sample]:
    """Return the samples of an open archive by their keys.

    Args:
        file: the archive; it can seek.
        path: where the archive is, for its members and for messages.

    Raises:
        DamagedArchive: what it holds cannot be read.
        InputError: the extra `data` is not installed.
        OSError: it is out of reach.
    """
    split = needed("webdataset.tariterators", "data", "WebDataset archives").base_plus_ext
    name, found = str(path).rpartition("/")[2], {}
    try:
        with tarfile.open(fileobj=file, mode="r:") as archive:
            for member in archive:
                key, ending = split(member.name)
                if key is None or not member.isfile() or Path(key).name.startswith("."):
                    continue
                files = found.setdefault(key, {})
                if ending.lower() in files:
                    raise DamagedArchive(f"{name} has the file {member.name} twice; write the archive again")
                files[ending.lower()] = Member(path, member.offset_data, member.size)
    except tarfile.TarError as error:
        raise DamagedArchive(UNREADABLE.format(path, error)) from None
    _check_end(file, path, found)
    return found


def _check_end(file: BinaryIO, path: Path | str, found: dict[str, Sample]) -> None:
    """Refuse an archive that does not end with zeros behind its last file: some of its samples were not read."""
    ends = [member.start + member.size for sample in found.values() for member in sample.values()]
    file.seek(-(-max(ends, default=0) // tarfile.BLOCKSIZE) * tarfile.BLOCKSIZE)
    rest = file.read(tarfile.BLOCKSIZE)
    if not rest:
        raise DamagedArchive(f"{path} is cut short; copy it again")
    while rest:
        if rest.strip(b"\0"):
            raise DamagedArchive(f"{path} holds more data behind its last file; write or copy it again")
        rest = file.read(2**20)


def image_of(sample: Sample) -> Member | None:
    """Return the file of a sample that is its image; None if there is none."""
    return next((sample[ending] for ending in sorted(sample) if f".{ending.split('.')[-1]}" in OWN_SUFFIXES), None)


def _images(samples: Sequence[Sample], names: Sequence[str], options: ReadOptions) -> EncodedImages:
    members = [image_of(sample) for sample in samples]
    return EncodedImages(
        lambda row: members[row].read(), lambda row: names[row], tuple(range(len(members))), options.rule
    )


def _others(archives: Sequence[Path], options: ReadOptions) -> Any:
    if not archives:
        return None
    names, samples, _ = _samples(archives)
    if not samples:
        return None
    kinds = [split_kind(split) for split in splits_of(archives).values()]
    return other_splits(_images(samples, names, options), names, [kinds[0] or "test"] * len(names))


def label_ending(endings: Collection[str], options: ReadOptions) -> tuple[str | None, bool]:
    """Return the ending of the files that can hold labels, and whether a key of their JSON objects holds them.

    Args:
        endings: those of samples that have an image.
        options: `label_column` names an ending or a key; by default it is found.
    """
    first = LABEL_FILES if options.label_column is None else (options.label_column,)
    ending = next((ending for ending in first if ending in endings), None)
    return ("json", True) if ending is None and "json" in endings else (ending, False)


def refuse_no_label(endings: Collection[str], options: ReadOptions) -> None:
    """Say in a WARNING that no file can hold labels.

    Raises:
        InputError: the user has named an ending or a key.
    """
    shown = ", ".join(sorted(endings))
    if options.label_column is not None:
        raise InputError(f"no sample has a file .{options.label_column}; the endings are {shown}")
    log.warning("no labels among %s; the images are taken without", shown)


def label_keys(keys: Collection[str], options: ReadOptions) -> list[str]:
    """Return those keys of JSON objects that the label can have."""
    wanted = options.label_column
    return sorted(key for key in keys if (usual(key, LABEL_NAMES) if wanted is None else key == wanted))


def label_key(keys: Collection[str], options: ReadOptions) -> str | None:
    """Return the key of JSON objects that holds the label; None, with a WARNING, if there is none.

    Raises:
        InputError: two keys could hold it, or the named one is not there.
    """
    found, shown = label_keys(keys, options), ", ".join(sorted(keys))
    if len(found) > 1:
        raise InputError(
            f"the keys {' and '.join(found)} of .json could both be the label; name one with "
            f"{options.words('label_column', found[0])}"
        )
    if not found and options.label_column is not None:
        raise InputError(f"no sample has {options.label_column!r} in its .json; the keys are {shown}")
    if not found:
        log.warning("no label among the keys %s of .json; the images are taken without", shown)
    return next(iter(found), None)


def label_text(content: bytes) -> str:
    """Return the label in a file of its own, "" for none."""
    return content.decode("utf-8", "replace").strip()


def json_object(content: bytes) -> dict[str, Any] | None:
    """Return the JSON object in a file; None if it holds something else."""
    try:
        found = json.loads(content)
    except ValueError:
        return None
    return found if isinstance(found, dict) else None


def no_object(name: str) -> InputError:
    """Return the error that says that the .json of a sample cannot be read."""
    return InputError(f"the file .json of sample {name} is no JSON object")


def _labels(samples: Sequence[Sample], names: Sequence[str], options: ReadOptions) -> tuple[list[Any] | None, str]:
    """Return the label of each sample, and a line that says where they come from."""
    if not options.reads_labels or not samples:
        return None, ""
    endings = {ending for sample in samples for ending in sample}
    ending, is_key = label_ending(endings, options)
    if ending is None:
        refuse_no_label(endings, options)
        return None, ""
    if is_key:
        return _of_json(samples, names, options)
    texts = [label_text(sample[ending].read()) if ending in sample else None for sample in samples]
    return texts, f"labels from .{ending}"


def _of_json(samples: Sequence[Sample], names: Sequence[str], options: ReadOptions) -> tuple[list[Any] | None, str]:
    contents = []
    for name, sample in zip(names, samples, strict=True):
        content = json_object(sample["json"].read()) if "json" in sample else {}
        if content is None:
            raise no_object(name)
        contents.append(content)
    key = label_key({key for content in contents for key in content}, options)
    return (None, "") if key is None else ([content.get(key) for content in contents], f"labels from {key} in .json")
