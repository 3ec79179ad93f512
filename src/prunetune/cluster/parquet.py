"""Parquet files: how they are opened, and which errors say that one of them is damaged."""

from typing import Any, BinaryIO

from prunetune.base.errors import InputError
from prunetune.base.extra import needed


def parquet_file(stream: BinaryIO) -> Any:
    """Return an open parquet file. A small buffer keeps a large row group out of memory."""
    parquet = needed("pyarrow.parquet", "cluster", "parquet files")
    return parquet.ParquetFile(stream, pre_buffer=False, buffer_size=1 << 20)


def is_damage(error: BaseException) -> bool:
    """Return whether an error says that a file is damaged, not that it is out of reach or that memory is too small.

    Arrow raises errors of its own, ValueErrors for texts that are not UTF-8, and OSErrors that have no number.
    """
    arrow = needed("pyarrow", "cluster", "parquet files")
    if isinstance(error, InputError | MemoryError | arrow.ArrowCancelled):
        return False
    return isinstance(error, arrow.ArrowException | ValueError) or (type(error) is OSError and error.errno is None)


def damaged(url: str, error: BaseException) -> InputError:
    """Return the line that says that a file is damaged."""
    return InputError(f"{url} cannot be read as parquet ({' '.join(str(error).split())[:200]})")
