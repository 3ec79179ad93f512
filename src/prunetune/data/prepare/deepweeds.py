"""DeepWeeds (AlexOlsen/DeepWeeds@da084f6, CC BY 4.0): 8 species of 1,000 photographs by seed, split 600/200/200.

The ninth label, Negative, is dropped, but for the official folds, which have all nine. Left out as mirrors:
Project-AgML/DeepWeeds_classification on the Hugging Face hub (parquet; the file names that the split depends on may be
missing) and the authors' earlier images.zip of 935 MB (other bytes).
"""

import csv
import io
from pathlib import Path
from typing import Any

from prunetune.base.errors import InputError
from prunetune.data.list_files import read_text
from prunetune.data.prepare.arrangement import arrange
from prunetune.data.prepare.command import Place, drop_archive, get_archive
from prunetune.data.prepare.download import fetch, source, verify
from prunetune.data.prepare.record import Counts, read_finished, require_free
from prunetune.data.prepare.splits import SPLITS, Row, by_image, check_committed

PAGE = "https://github.com/AlexOlsen/DeepWeeds"
NEGATIVE = "Negative"
SPECIES = (  # The position of a name is its label, 0 to 8.
    "Chinee apple", "Lantana", "Parkinsonia", "Parthenium", "Prickly acacia", "Rubber vine", "Siam weed", "Snake weed",
    NEGATIVE,
)  # fmt: skip
PER_CLASS = 1000
NUM_PARTS = 1  # The file name alone identifies a photograph.


def prepare(
    where: Place,
    labels: list[Path] | None = None,
    split_seed: int = 0,
    per_class: int = PER_CLASS,
    official_fold: int | None = None,
) -> Counts:
    """Prepare `<root>/{train,val,test}/<species>/<file name>`.

    The paths of the list are `<species>/<file name>`, the file name as in labels.csv.

    Args:
        where: source, destination and checks.
        labels: the label file, or the train, val and test file of a fold; None downloads the published ones.
        split_seed: the seed of choice and split.
        per_class: photographs of each species.
        official_fold: 0 to 4 for the authors' fold with all nine labels; seed and size are not used then.
    """
    default = {"split_seed": split_seed, "per_class": per_class}
    settings = default if official_fold is None else {"official_fold": official_fold}
    finished = read_finished(where.root, "deepweeds", settings)
    if finished is not None:
        return finished
    require_free(where.root, "deepweeds")
    rows = choose(_label_files(where, labels, official_fold), split_seed, per_class)
    if where.verify:
        check_committed(list_key(settings), rows)
    images = where.images or get_archive(source("deepweeds_images"), where, PAGE)
    counts = arrange(images, where.root, rows, "deepweeds", settings, NUM_PARTS)
    if not where.images:
        drop_archive(images, where)
    return counts


def list_key(settings: dict[str, Any]) -> str:
    """Return the key of a file list in checksums.json."""
    return " ".join(["deepweeds", *(f"{key}={value}" for key, value in settings.items())])


def choose(label_files: list[Path], split_seed: int = 0, per_class: int = PER_CLASS) -> list[Row]:
    """Return the file list from labels.csv, or from the three files (train, val, test) of a fold.

    Raises:
        InputError: a file is not in DeepWeeds' form, or a species has too few photographs.
    """
    if len(label_files) == len(SPLITS):
        return sorted(
            Row(f"{label}/{name}", label, split)
            for split, path in zip(SPLITS, label_files, strict=True)
            for name, label in read_labels(path)
        )
    files: dict[str, list[str]] = {label: [] for label in SPECIES if label != NEGATIVE}
    for name, label in read_labels(label_files[0]):
        if label != NEGATIVE:
            files[label].append(name)
    return by_image(files, "deepweeds", split_seed, per_class)


def read_labels(path: Path) -> list[tuple[str, str]]:
    """Return (file name, species) from a CSV file with the columns Filename and Label.

    Raises:
        InputError: the file is missing or has another form.
    """
    if not path.is_file():
        raise InputError(f"expected DeepWeeds' label file at {path}, found no file; check the path")
    reader = csv.DictReader(io.StringIO(read_text(path), newline=""))
    if not {"Filename", "Label"} <= set(reader.fieldnames or ()):
        raise InputError(f"{path}: expected the columns Filename and Label, got {reader.fieldnames}; give labels.csv")
    rows = [(row["Filename"], row["Label"]) for row in reader]
    wrong = [(name, label) for name, label in rows if label not in map(str, range(len(SPECIES)))]
    if wrong:
        raise InputError(f"{path}: expected labels 0 to {len(SPECIES) - 1}, got {wrong[0][1]!r} for {wrong[0][0]}")
    return [(name, SPECIES[int(label)]) for name, label in rows]


def _label_files(where: Place, labels: list[Path] | None, official_fold: int | None) -> list[Path]:
    if official_fold not in (None, 0, 1, 2, 3, 4):
        raise InputError(f"--official-fold must be 0 to 4, got {official_fold}")
    fold = [f"deepweeds_{split}_subset{official_fold}" for split in SPLITS]
    keys = ["deepweeds_labels"] if official_fold is None else fold
    if labels is None:
        by_hand = f"Download it by hand from {PAGE} and pass --labels FILE"
        return [fetch(source(key), where.downloads, by_hand) for key in keys]
    if len(labels) != len(keys):
        raise InputError(f"expected {len(keys)} label files (one, or train, val and test of a fold), got {len(labels)}")
    if where.verify:
        for path, key in zip(labels, keys, strict=True):
            verify(path, source(key), where.downloads, "give the published file, or pass --no-checksum to use this one")
    return labels
