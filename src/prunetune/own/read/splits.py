"""The names of splits, and which of the splits of some data are candidates."""

import re
from collections.abc import Sequence

from prunetune.base.errors import InputError
from prunetune.own.read.options import ReadOptions

SPLITS = {
    "train": ("train", "training", "trn"),
    "val": ("val", "valid", "validation", "dev", "development", "eval", "evaluation"),
    "test": ("test", "testing", "tst"),
}
KINDS = {name: kind for kind, names in SPLITS.items() for name in names}


def split_kind(name: str) -> str | None:
    """Return "train", "val" or "test" if a folder, value or key is usually called so, whatever its case, else None."""
    plain = re.sub(r"[-_ .]*(set|data|images?|imgs?|split|folder|[0-9]{4})?$", "", name.strip().lower())
    return KINDS.get(plain)


def choose_splits(names: Sequence[str], where: str, options: ReadOptions) -> list[str]:
    """Return the splits that are candidates: those that the user named, or the only one for training, or the only one.

    Args:
        names: the names of the splits that are there.
        where: what has these splits.
        options: says which splits the user named.

    Raises:
        InputError: the user named a split that is not there, or none and it is not clear which one is meant.
    """
    if options.split is None:
        training = [name for name in names if split_kind(name) == "train"]
        chosen = training or list(names)
        if len(chosen) > 1:
            raise InputError(
                f"{where} has the splits {', '.join(names)}; choose with {options.words('split', names[0])}, or "
                "take all "
                f"with {options.words('split', 'all')}"
            )
        return chosen
    if options.split.strip().lower() == "all":
        return list(names)
    chosen = []
    for wanted in options.split.split(","):
        found = [name for name in names if name == wanted.strip()] or [
            name
            for name in names
            if name.lower() == wanted.strip().lower() or (split_kind(name) or "") == split_kind(wanted)
        ]
        if not found:
            raise InputError(f"{where} has no split {wanted.strip()!r}; it has {', '.join(names)}")
        chosen += [name for name in found if name not in chosen]
    return chosen
