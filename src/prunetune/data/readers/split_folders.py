"""Data sets that were arranged into folders train, val and test: CXRB10, DeepWeeds, Sketch."""

from dataclasses import dataclass

from prunetune.base.errors import InputError
from prunetune.data.pool import Dataset, Pool, require_folder
from prunetune.data.readers.listing import Counts, make_pool, scan_class_folders, sorted_classes


@dataclass(frozen=True)
class SplitFolders(Dataset):
    """`<root>/{train,val,test}/<class>/<file>`, as `prunetune prepare` leaves it. Class index = sorted class name.

    name: the name of the data set. root: its folder. prepare: the command that fills the folder, named in errors.
    num_classes, num_pool (train and val), num_test: the protocol's numbers, compared if check_counts is true.
    """

    name: str
    root: str
    prepare: str
    num_classes: int
    num_pool: int
    num_test: int
    check_counts: bool = True

    def pool(self, part: str) -> Pool:
        fix = f"run `{self.prepare}` or pass dataset.root=<folder>"
        folder = require_folder(self.root, self.name, fix)
        listed = []
        for split in ("train", "val", "test"):
            if not (folder / split).is_dir():
                raise InputError(f"{self.name} is incomplete: {folder / split} is missing; {fix}")
            listed += scan_class_folders(folder / split, folder, self.name, split)
        counts = Counts(self.num_classes, self.num_pool, self.num_test) if self.check_counts else None
        return make_pool(self.name, part, listed, sorted_classes(listed), counts)
