"""Shards for the benchmark of the cluster engine, written by seeded workers; the same ones on every machine.

Shard i holds the same rows in every pool, so that a pool of fewer rows is the first shards of a larger one.
"""

import io
import multiprocessing
import os
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from prunetune.base.publish import new_file
from prunetune.base.seeding import derive_seed

IMAGE_ROWS, EMBEDDING_ROWS = 5000, 50_000  # Rows of a shard.
IMAGE_CLASSES, FINE_CLASSES, COARSE_CLASSES = 10, 1000, 20
SIDE, WIDTH = 32, 384
COARSE_SHARE = FINE_CLASSES // COARSE_CLASSES  # A coarse class joins this many fine ones.


def _draws(kind: str, shard: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(derive_seed("bench cluster", kind, shard)))


def image_shard(folder: Path, shard: int, rows: int = IMAGE_ROWS) -> None:
    """Write one parquet file of JPEG images of 32 x 32 pixels: a waved pattern for each class, and noise."""
    draws = _draws("images", shard)
    labels = draws.integers(0, IMAGE_CLASSES, rows)
    steps = np.arange(SIDE)
    images = []
    for label in labels:
        wave = 60 * np.sin((1 + label % 5) * steps / 5 + draws.uniform(0, 6))
        pattern = np.stack(
            [wave[:, None] + wave[None, :] * (label // 5), np.tile(wave, (SIDE, 1)), np.zeros((SIDE,) * 2)]
        )
        pixels = 128 + pattern.transpose(1, 2, 0) + draws.normal(0, 25, (SIDE, SIDE, 3))
        file = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
        images.append({"bytes": file.getvalue()})
    _write(folder, shard, {"image": images, "label": labels}, row_group_size=1000)


def embedding_shard(folder: Path, shard: int, rows: int = EMBEDDING_ROWS) -> None:
    """Write one parquet file of embeddings [rows, 384] float16 around the centre of each fine class."""
    centres = _draws("centres", 0).standard_normal((FINE_CLASSES, WIDTH), dtype=np.float32)
    draws = _draws("embeddings", shard)
    fine = draws.integers(0, FINE_CLASSES, rows)
    values = draws.standard_normal((rows, WIDTH), dtype=np.float32)
    values += centres[fine]
    flat = pa.array(values.astype(np.float16).reshape(-1))
    columns = {
        "embedding": pa.FixedSizeListArray.from_arrays(flat, WIDTH),
        "fine": fine,
        "coarse": fine // COARSE_SHARE,
    }
    _write(folder, shard, columns, row_group_size=10_000, compression="none", use_dictionary=["fine", "coarse"])


def _write(folder: Path, shard: int, columns: dict[str, object], **settings: object) -> None:
    with new_file(_place(folder, shard)) as unfinished:
        pq.write_table(pa.table(columns), unfinished, **settings)


def _place(folder: Path, shard: int) -> Path:
    return folder / f"{shard:05d}.parquet"


def made(kind: str, rows: int, folder: Path, workers: int = 2) -> Path:
    """Return a folder with the shards of a pool; those that the folder lacks are written.

    Args:
        kind: "images" or "embeddings".
        rows: of the pool, a multiple of the rows of a shard.
        folder: holds all pools; the shards of a pool are links to common files.
        workers: processes.
    """
    write, size = {"images": (image_shard, IMAGE_ROWS), "embeddings": (embedding_shard, EMBEDDING_ROWS)}[kind]
    if rows % size:
        raise ValueError(f"a pool of {kind} has a multiple of {size} rows, not {rows}")
    shards, pool = folder / kind, folder / f"{kind}-{rows}"
    for place in (shards, pool):
        place.mkdir(parents=True, exist_ok=True)
    todo = [shard for shard in range(rows // size) if not _place(shards, shard).is_file()]
    with multiprocessing.get_context("spawn").Pool(workers) as processes:
        for _ in processes.imap_unordered(partial(write, shards), todo):
            pass
    for shard in range(rows // size):
        if not _place(pool, shard).is_file():
            os.link(_place(shards, shard), _place(pool, shard))
    return pool


def as_arrays(pool: Path, label: str, folder: Path) -> tuple[Path, Path]:
    """Write a pool of embeddings as two .npy files, [N, 384] float16 and the labels [N], for the engine in process."""
    places = folder / "embeddings.npy", folder / "labels.npy"
    tables = [pq.read_table(file, columns=["embedding", label]) for file in sorted(pool.glob("*.parquet"))]
    joined = pa.concat_tables(tables)
    flat = joined.column("embedding").combine_chunks().flatten().to_numpy()
    np.save(places[0], flat.reshape(joined.num_rows, -1))
    np.save(places[1], joined.column(label).to_numpy())
    return places
