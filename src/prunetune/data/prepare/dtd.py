"""DTD, Describable Textures r1.0.1: 47 classes, partition 1 of the official splits. For research use.

Left out as mirrors: mcimpoi/dtd_split_1 and tanganke/dtd on the Hugging Face hub (parquet, other bytes) and
GATE-engine/describable_textures (split anew).
"""

from pathlib import Path

from prunetune.data.prepare.command import Place
from prunetune.data.prepare.official import Official, prepare_official, read_list, require_files
from prunetune.data.prepare.record import Counts
from prunetune.data.prepare.splits import SPLITS


def prepare(where: Place) -> Counts:
    """Prepare `<root>/images/<class>/` and `<root>/labels/{train,val,test}1.txt`."""
    return prepare_official(DTD, where)


def count(root: Path, strict: bool) -> Counts:
    """Count partition 1 and see that every listed image is there."""
    lists = {split: read_list(root / "labels" / f"{split}1.txt") for split in SPLITS}
    everything = [name for names in lists.values() for name in names]
    require_files(root / "images", everything)
    return Counts(len({name.split("/")[0] for name in everything}), *(len(lists[split]) for split in SPLITS))


DTD = Official("dtd", "https://www.robots.ox.ac.uk/~vgg/data/dtd/", "dtd", count)
