"""The Describable Textures Dataset, and anything else in its layout."""

from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from prunetune.base import checks
from prunetune.base.errors import InputError
from prunetune.data.pool import Dataset, Pool, require_folder
from prunetune.data.readers.listing import (
    Counts,
    ListedImage,
    check_files,
    make_pool,
    read_lines,
    require_file,
    sorted_classes,
)

FIX = "run `prunetune prepare dtd` or pass dataset.root=<folder>"


@dataclass(frozen=True)
class DTD(Dataset):
    """DTD with one of its ten official partitions: 40 train, 40 val and 40 test images of each of 47 textures.

    Layout: `<root>/images/<class>/<file>` and `<root>/labels/{train,val,test}<partition>.txt` with lines
    `<class>/<file>`. Class index = sorted class name.
    """

    name: str = "dtd"
    root: str = "data/dtd"
    partition: int = 1
    num_classes: int = 47
    num_pool: int = 3760
    num_test: int = 1880
    check_counts: bool = True

    def __post_init__(self) -> None:
        checks.whole_number("dataset.partition", self.partition, 1, 10)
        super().__post_init__()

    def pool(self, part: str) -> Pool:
        folder = require_folder(self.root, self.name, FIX)
        listed = [image for split in ("train", "val", "test") for image in self._split(folder, split)]
        check_files(self.name, listed, FIX)
        counts = Counts(self.num_classes, self.num_pool, self.num_test) if self.check_counts else None
        return make_pool(self.name, part, listed, sorted_classes(listed), counts)

    def _split(self, folder: Path, split: str) -> list[ListedImage]:
        labels = require_file(folder / "labels" / f"{split}{self.partition}.txt", self.name, FIX)
        return [
            ListedImage(folder / "images" / line, f"images/{line}", self._class_of(line, labels), split)
            for line in read_lines(labels)
        ]

    def _class_of(self, line: str, labels: Path) -> str:
        parts = PurePosixPath(line).parts
        if len(parts) != 2:
            raise InputError(f"{self.name}: expected lines '<class>/<file>' in {labels}, got {line!r}; {FIX}")
        return parts[0]
