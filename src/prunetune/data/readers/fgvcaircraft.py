"""FGVC-Aircraft at the level of variants."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from prunetune.base.errors import InputError
from prunetune.data.pool import Dataset, Pool, require_folder
from prunetune.data.readers.listing import Counts, ListedImage, check_files, make_pool, read_lines, require_file

FIX = "run `prunetune prepare fgvcaircraft` or pass dataset.root=<folder>"


@dataclass(frozen=True)
class FGVCAircraft(Dataset):
    """FGVC-Aircraft 2013b with its official split: 100 variants, 3,334 train, 3,333 val and 3,333 test images.

    Layout: `<root>/data/images/<id>.jpg`, `<root>/data/images_variant_{train,val,test}.txt` with lines
    `<id> <variant>` (variants contain spaces and slashes), `<root>/data/variants.txt`. Class index = line of
    `variants.txt`.
    """

    name: str = "fgvcaircraft"
    root: str = "data/fgvcaircraft"
    num_classes: int = 100
    num_pool: int = 6667
    num_test: int = 3333
    check_counts: bool = True

    def pool(self, part: str) -> Pool:
        folder = require_folder(self.root, self.name, FIX) / "data"
        variants = read_lines(require_file(folder / "variants.txt", self.name, FIX))
        listed = [image for split in ("train", "val", "test") for image in self._split(folder, split, variants)]
        check_files(self.name, listed, FIX)
        # A subset may keep the whole variants.txt, so unused variants are left out.
        used = {image.class_name for image in listed}
        classes = [variant for variant in variants if variant in used]
        counts = Counts(self.num_classes, self.num_pool, self.num_test) if self.check_counts else None
        return make_pool(self.name, part, listed, classes, counts)

    def _split(self, folder: Path, split: str, variants: Sequence[str]) -> list[ListedImage]:
        known = set(variants)
        lines = require_file(folder / f"images_variant_{split}.txt", self.name, FIX)
        listed = []
        for line in read_lines(lines):
            image_id, _, variant = line.partition(" ")
            if variant not in known:
                raise InputError(
                    f"{self.name}: expected lines '<id> <variant>' with a variant of variants.txt in {lines}, "
                    f"got {line!r}; {FIX}"
                )
            listed.append(
                ListedImage(folder / "images" / f"{image_id}.jpg", f"data/images/{image_id}.jpg", variant, split)
            )
        return listed
