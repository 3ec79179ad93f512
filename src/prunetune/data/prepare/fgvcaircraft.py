"""FGVC-Aircraft 2013b: 100 variants, official splits. Non-commercial research only; never hand the images on.

The archive's MD5 is the one that several public repositories agree on. Left out as mirrors: the parquet copies
Donghyun99/FGVC-Aircraft and HuggingFaceM4/FGVC-Aircraft on the Hugging Face hub (other bytes) and
GATE-engine/aircraft (split anew).
"""

from pathlib import Path

from prunetune.data.prepare.command import Place
from prunetune.data.prepare.official import Official, prepare_official, read_list, require_files
from prunetune.data.prepare.record import Counts
from prunetune.data.prepare.splits import SPLITS


def prepare(where: Place) -> Counts:
    """Prepare `<root>/data/images/*.jpg`, `<root>/data/variants.txt` and `images_variant_{train,val,test}.txt`."""
    return prepare_official(AIRCRAFT, where)


def count(root: Path, strict: bool) -> Counts:
    """Count variants and images and see that every listed image is there."""
    variants = read_list(root / "data" / "variants.txt")
    lists = {split: read_list(root / "data" / f"images_variant_{split}.txt") for split in SPLITS}
    names = [f"{line.split(' ', 1)[0]}.jpg" for lines in lists.values() for line in lines]
    require_files(root / "data" / "images", names)
    return Counts(len(variants), *(len(lists[split]) for split in SPLITS))


AIRCRAFT = Official(
    "fgvcaircraft", "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft/", "fgvc-aircraft-2013b", count
)
