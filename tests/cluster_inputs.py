"""Small shards: parquet files with an image column, and tar archives."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image


def encoded(rng, label):
    pixels = rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)
    pixels[:, :, label % 3] = 40 * label
    file = io.BytesIO()
    Image.fromarray(pixels).resize((24, 20)).save(file, "PNG")
    return file.getvalue()


def shards(folder: Path, rows=90, files=3, group=12, broken=()) -> Path:
    """Write parquet files with an image column; `broken` rows hold no image."""
    rng = np.random.default_rng(3)
    labels = rng.integers(0, 3, rows)
    images = [{"bytes": b"no image" if row in broken else encoded(rng, label)} for row, label in enumerate(labels)]
    folder.mkdir()
    for number, chosen in enumerate(np.array_split(np.arange(rows), files)):
        table = pa.table({"image": [images[row] for row in chosen], "label": [f"kind {labels[row]}" for row in chosen]})
        pq.write_table(table, folder / f"{number:03d}.parquet", row_group_size=group)
    return folder


def archives(folder: Path, rows=40, files=2) -> Path:
    """Write tar archives in which each sample has an image and a file .cls."""
    rng = np.random.default_rng(4)
    folder.mkdir()
    for number in range(files):
        with tarfile.open(folder / f"part-{number}.tar", "w") as archive:
            for row in range(rows // files):
                label = int(rng.integers(0, 2))
                for ending, content in (("png", encoded(rng, label)), ("cls", str(label).encode())):
                    member = tarfile.TarInfo(f"{row:04d}.{ending}")
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))
    return folder


def photos(folder: Path, rows=24) -> Path:
    """Write images in a folder for each of two classes, and the list photos.csv of half of them."""
    rng = np.random.default_rng(5)
    lines = ["path,label"]
    for row in range(rows):
        place = folder / ("bark", "moss")[row % 2] / f"{row:03d}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(encoded(rng, row % 2))
        if row % 4 < 2:
            lines.append(f"{place.relative_to(folder)},{('grey', 'green')[row % 3 % 2]}")
    (folder / "photos.csv").write_text("\n".join(lines) + "\n")
    return folder


def vectors(place: Path, rows=80, width=6) -> tuple[np.ndarray, np.ndarray]:
    """Write a parquet file of embeddings and labels, and return both."""
    rng = np.random.default_rng(0)
    values, labels = rng.standard_normal((rows, width)).astype(np.float16), rng.integers(0, 2, rows)
    column = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), width)
    pq.write_table(pa.table({"vector": column, "label": labels}), place, row_group_size=30)
    return values, labels
