"""CIFAR-10 in torchvision's own folder, `<root>/cifar-10-batches-py`.

Downloaded with our own downloader rather than torchvision's, for its resumption, its mirror and its messages; the MD5
is torchvision's, and the extracted batches are checked against torchvision's list.
"""

from pathlib import Path

from prunetune.base.errors import InputError
from prunetune.data.prepare.command import Place
from prunetune.data.prepare.official import Official, prepare_official, require_files
from prunetune.data.prepare.record import Counts

FOLDER = "cifar-10-batches-py"
BATCHES = [*(f"data_batch_{number}" for number in range(1, 6)), "test_batch", "batches.meta"]
IMAGES_PER_BATCH = 10_000


def prepare(where: Place) -> Counts:
    """Prepare torchvision's folder below the root."""
    return prepare_official(CIFAR10, where)


def count(root: Path, strict: bool) -> Counts:
    """Return the published counts if the batches are the published ones.

    The batches are pickles, so they are compared by MD5 and never opened here. Without `strict` they only
    have to be there.
    """
    require_files(root / FOLDER, BATCHES)
    if strict:
        _compare(root)
    return Counts(10, 5 * IMAGES_PER_BATCH, 0, IMAGES_PER_BATCH)


def _compare(root: Path) -> None:
    from torchvision.datasets import CIFAR10 as Torchvision

    from prunetune.data.prepare.download import checksum

    meta = (Torchvision.meta["filename"], Torchvision.meta["md5"])
    for name, expected in [*Torchvision.train_list, *Torchvision.test_list, meta]:
        found = checksum(root / FOLDER / name, "md5")
        if found != expected:
            raise InputError(f"{FOLDER}/{name} has md5 {found}, expected {expected}; download the archive again")


CIFAR10 = Official("cifar10", "https://www.cs.toronto.edu/~kriz/cifar.html", FOLDER, count, below=FOLDER)
