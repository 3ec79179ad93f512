"""Files at addresses such as s3://bucket/name: opened, listed, and as images of a folder or of a list."""

import errno
import io
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from prunetune.base.errors import InputError
from prunetune.base.extra import needed
from prunetune.base.verification import key_digest
from prunetune.cluster.engine import storage_fault
from prunetune.data.images.own import EncodedImages
from prunetune.data.images.rule import OWN_SUFFIXES
from prunetune.own.data import OwnData
from prunetune.own.read import ReadOptions
from prunetune.own.read.assemble import Found, assemble
from prunetune.own.read.columns import LABEL_NAMES, usual
from prunetune.own.read.folder import FILE_NAME, METADATA, found_in
from prunetune.own.read.labels import is_empty
from prunetune.own.read.layout import understand
from prunetune.own.read.options import leave_out
from prunetune.own.read.records import Records, is_address, normal, read_records
from prunetune.own.read.scan import why_no_data
from prunetune.own.read.table import SUFFIXES, table_records


@dataclass(frozen=True)
class File:
    """A file: its path or address, its size in bytes, and a mark that changes when it is written again."""

    url: str
    size: int
    mark: str

    @property
    def name(self) -> str:
        """The last part of the address."""
        return PurePosixPath(self.url).name

    @property
    def is_list(self) -> bool:
        """Whether the file can be a list of images."""
        return PurePosixPath(self.url).suffix.lower() in SUFFIXES - {".parquet"}


@dataclass(frozen=True)
class Remote:
    """Returns the content of one of several objects. urls: their addresses."""

    urls: tuple[str, ...]

    def __call__(self, item: int) -> bytes:
        return content_at(self.urls[item])


def file_system(url: str) -> tuple[Any, str]:
    """Return the file system of an address and the path there.

    Raises:
        InputError: the library for such addresses is not installed.
    """
    try:
        return needed("fsspec", "cluster", "addresses such as s3://").core.url_to_fs(url)
    except (ImportError, ValueError) as error:
        raise InputError(f"{url} cannot be opened ({error}); pip install -e '.[cluster]' brings s3 and gs") from None


def open_url(url: str) -> BinaryIO:
    """Open a file on this machine or at an address, to be read at any place."""
    if not is_address(url):
        return open(url, "rb")
    system, path = file_system(url)
    with _in_reach(url):
        return io.BufferedReader(_Reached(system.open(path, "rb"), url))


def content_at(place: str) -> bytes:
    """Return the content of a file on this machine or at an address."""
    if not is_address(place):
        return Path(place).read_bytes()
    system, path = file_system(place)
    with _in_reach(place):
        return system.cat_file(path)


@contextmanager
def _in_reach(url: str) -> Iterator[None]:
    """Give an error of object storage a number and the address, so that nobody takes it for damage of the content.

    Some libraries raise an OSError without a number or a ValueError where storage refuses a request. Readers of parquet
    raise the same for damaged files.
    """
    try:
        yield
    except (OSError, ValueError) as error:
        if (type(error) is OSError and error.errno is None) or isinstance(error, ValueError):
            raise OSError(errno.EIO, " ".join(str(error).split())[:200], url) from error
        raise


class _Reached(io.RawIOBase):
    """A file at an address, whose errors are those of `_in_reach`."""

    def __init__(self, stream: Any, url: str) -> None:
        self._stream, self._url = stream, url

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(offset, whence)

    def tell(self) -> int:
        return self._stream.tell()

    def readinto(self, buffer: Any) -> int:
        with _in_reach(self._url):
            content = self._stream.read(len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def close(self) -> None:
        self._stream.close()
        super().close()


def list_files(url: str) -> list[File]:
    """Return the file at an address, or all files below it or of a pattern with a star, in the order of their parts.

    Raises:
        InputError: there is nothing, or it is out of reach.
    """
    system, path = file_system(url)
    system.invalidate_cache()  # Another call of this process may have listed the folder before it changed.
    try:
        if "*" in path:
            found = system.glob(path, detail=True)
        else:
            found = {path: system.info(path)} if system.isfile(path) else system.find(path, detail=True)
    except Exception as error:
        text = storage_fault(error)
        if text is None:
            raise
        raise InputError(f"{url}: {text}") from None
    files = sorted((name for name, info in found.items() if info["type"] == "file"), key=lambda one: one.split("/"))
    if not files:
        raise InputError(f"there is nothing at {url}; check the address")
    return [
        File(system.unstrip_protocol(name), int(found[name].get("size") or 0), _mark(found[name])) for name in files
    ]


def _mark(info: Mapping[str, Any]) -> str:
    keys = ("ETag", "etag", "LastModified", "mtime", "generation", "updated")
    return next((str(info[key]) for key in keys if info.get(key)), "")


def read_remote_folder(files: Sequence[File], top: str, options: ReadOptions) -> OwnData:
    """Return the images below an address: those that its list metadata.csv or metadata.jsonl names, or by folders.

    Args:
        files: all files below the address.
        top: the address.
        options: how they are read.

    Raises:
        InputError: there are no images, or the folders can be read in two ways.
    """
    parts = {tuple(file.url.removeprefix(f"{top}/").split("/")): file for file in files}
    left_out = {"/".join(one): reason for one in parts if (reason := _why_no_image(one)) is not None}
    images = sorted((one for one in parts if "/".join(one) not in left_out), key="/".join)
    if not images:
        raise InputError(f"{top} holds no parquet files, no tar archives and no images")
    metadata = next((file for name in METADATA if (file := parts.get((name,))) and file.is_list), None)
    if metadata is not None and options.labels_from != "folders":
        data = _of_list(metadata, f"{top}/", replace(options, image_column=options.image_column or FILE_NAME), True)
        if data is not None:
            named = set(data.pool.images.content.urls)
            absent = ["/".join(one) for one in images if parts[one].url not in named]
            return replace(data, left_out={**data.left_out, **dict.fromkeys(absent, f"not in {metadata.name}")})
    layout = understand(images, top, options)
    names = ["/".join(one) for one in layout.in_order]
    found = found_in(layout, top, _images([parts[one].url for one in layout.in_order], names, options), left_out)
    return assemble(found, PurePosixPath(top).name, options)


def _why_no_image(parts: Sequence[str]) -> str | None:
    return why_no_data(parts[:-1], parts[-1]) or (None if is_image(parts[-1]) else "no image")


def is_data(file: File, top: str) -> bool:
    """Return whether a file below an address can be one of the user's: neither it nor its folders are hidden."""
    *folders, name = file.url.removeprefix(top).lstrip("/").split("/")
    return why_no_data(folders, name) is None


def is_image(name: str) -> bool:
    """Return whether a name ends as that of an image."""
    return PurePosixPath(name).suffix.lower() in OWN_SUFFIXES


def read_remote_list(file: File, options: ReadOptions) -> OwnData:
    """Return the images that a list at an address names; their paths start from the folder of the list or from `root`.

    Raises:
        InputError: the list cannot be read, see `own.read.records.read_records`.
    """
    return _of_list(file, f"{list_base(file, options)}/", replace(options, root=None))


def list_base(file: File, options: ReadOptions) -> str:
    """Return the address that the paths of a list start from."""
    return address(str(options.root)) if options.root is not None else file.url.rpartition("/")[0]


def address(url: str) -> str:
    """Return an address as those of the files below it begin."""
    system, path = file_system(url)
    return system.unstrip_protocol(path).rstrip("/")


def mark_of(data: OwnData, files: Sequence[File]) -> str:
    """Return a hash that changes when the candidates do: their names, labels, and the marks of their objects.

    Args:
        data: images that this module has found.
        files: what is known of objects; others are asked for.
    """
    images, known = data.pool.images, {file.url: (file.size, file.mark) for file in files}
    urls = [images.content.urls[item] for item in images.indices]
    return key_digest([data.pool.listing, [(url, *(known.get(url) or _size_and_mark(url))) for url in urls]])


def _size_and_mark(url: str) -> tuple[int, str]:
    system, path = file_system(url)
    try:
        info = system.info(path)
    except FileNotFoundError:  # It is named when it is read.
        return 0, ""
    return int(info.get("size") or 0), _mark(info)


def _of_list(file: File, base: str, options: ReadOptions, needs_labels: bool = False) -> OwnData | None:
    """Return the images of a list. With `needs_labels`: None if the list has no labels.

    Raises:
        InputError: the list does not name its images by paths or addresses, or see `read_records`.
    """
    with tempfile.TemporaryDirectory() as folder, open_url(file.url) as stream:
        copy = Path(folder) / file.name
        copy.write_bytes(stream.read())
        records = replace(table_records(copy), source=file.url)
    if needs_labels and options.label_column is None and not any(usual(name, LABEL_NAMES) for name in records.names):
        return None
    data = read_records(records, options, of_paths=lambda *given: _of_addresses(base, *given))
    if not isinstance(getattr(data.pool.images, "content", None), Remote):
        raise InputError(f"{file.name} should name each image by a path or an address; write one into each line")
    return data


def _of_addresses(base: str, records: Records, cells: Sequence[Any], options: ReadOptions) -> Found:
    """Find the objects that rows name; whether they are there is seen when they are read."""
    texts = {row: cell for row, cell in enumerate(cells) if isinstance(cell, str) and not is_empty(cell)}
    bad = {records.place(row): "it names no image" for row in range(records.count) if row not in texts}
    leave_out(bad, records.count, "rows", options)
    names = list(texts.values())
    ids = [text if is_address(text) else normal(text) for text in names]
    urls = [text if is_address(text) else f"{base}{one}" for text, one in zip(names, ids, strict=True)]
    return Found(
        layout=records.layout,
        source=records.source,
        num_rows=records.count,
        rows=list(texts),
        sample_ids=ids,
        names=names,
        images=_images(urls, names, options),
        place=records.place,
        left_out=bad,
    )


def _images(urls: Sequence[str], names: Sequence[str], options: ReadOptions) -> EncodedImages:
    return EncodedImages(Remote(tuple(urls)), tuple(names).__getitem__, tuple(range(len(urls))), options.rule)
