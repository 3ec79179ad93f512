"""What the folders of a scan mean: splits, classes, or nothing. Only names and places are looked at."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from prunetune.base.errors import InputError
from prunetune.own.read.options import ReadOptions
from prunetune.own.read.splits import choose_splits, split_kind

# A folder of such a name that holds all others is no class.
WRAPPERS = frozenset(
    "images image imgs img jpg jpeg jpegimages data dataset photos pictures all files raw_images classes".split()
)
Parts = tuple[str, ...]
NO_CLASS_FOLDER = "outside the class folders"


@dataclass
class Layout:
    """The candidates of a folder.

    chosen: the parts of each candidate's path. classes: the class of each, None if they have none. others: the images
    of other splits, each with its kind of split. left_out, notes: as in OwnData.
    """

    chosen: list[Parts] = field(default_factory=list)
    classes: list[str] | None = field(default_factory=list)
    others: list[tuple[Parts, str]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def in_order(self) -> list[Parts]:
        """The candidates in the order of their sample ids."""
        return sorted(self.chosen, key="/".join)


def understand(images: Sequence[Parts], where: str, options: ReadOptions) -> Layout:
    """Return which images are candidates, and of which classes they are.

    Args:
        images: the parts of the images' paths below the folder.
        where: what the folder is called in messages.
        options: which split, and where labels come from.

    Raises:
        InputError: the folders can be read in two ways; the message names both and the options that choose.
    """
    if options.labels_from == "folders":
        if options.split is not None:
            raise InputError(
                f"with {options.words('labels_from', 'folders')} every folder of {where} is a class and none is a "
                f"split; leave {options.words('split', options.split)} out"
            )
        return _classes(images, (), where, options)
    prefix = _below_wrappers(images)
    folders = _children(images, len(prefix))
    splits = sorted((name for name in folders if split_kind(name)), key=lambda name: split_kind(name) != "train")
    if splits:
        return _of_splits(images, prefix, folders, splits, where, options)
    if inner := _inner_splits(images, len(prefix), folders):
        return _of_inner_splits(images, prefix, inner, where, options)
    if options.split is not None:
        raise InputError(
            f"{where} has no splits, only {_listed(folders) or 'images'}; leave {options.words('split', '<name>')} out"
        )
    return _classes(images, prefix, where, options)


def _children(images: Sequence[Parts], depth: int) -> list[str]:
    """Return the names of the folders at this depth that hold images."""
    return sorted({parts[depth] for parts in images if len(parts) > depth + 1})


def _below_wrappers(images: Sequence[Parts], prefix: Parts = ()) -> Parts:
    """Return the folder below which the images really begin: `images/` of a folder that holds nothing else."""
    depth = len(prefix)
    names = {parts[depth] for parts in images}
    only = next(iter(names)) if len(names) == 1 else ""
    is_folder = all(len(parts) > depth + 1 for parts in images)
    if is_folder and only.lower() in WRAPPERS:
        return _below_wrappers(images, (*prefix, only))
    return prefix


def _of_splits(
    images: Sequence[Parts], prefix: Parts, folders: list[str], splits: list[str], where: str, options: ReadOptions
) -> Layout:
    depth = len(prefix)
    strangers = [name for name in folders if name not in splits]
    if strangers and options.split is None:
        raise InputError(
            f"{_listed(splits)} in {where} look like splits, and {_listed(strangers)} like classes; choose a "
            "split with "
            f"{options.words('split', splits[0])}, or take all of them for classes with "
            f"{options.words('labels_from', 'folders')}"
        )
    members = {name: [parts for parts in images if parts[depth] == name and len(parts) > depth + 1] for name in splits}
    flat = [name for name in splits if _is_flat(members[name], (*prefix, name))]
    chosen = _chosen_splits(splits, flat, where, options)
    found = Layout(
        notes=[f"split: {', '.join(chosen)}"],
        classes=None if not options.reads_labels or set(chosen) <= set(flat) else [],
    )
    for name in chosen:
        _add(
            found, _classes(members[name], _below_wrappers(members[name], (*prefix, name)), f"{where}/{name}", options)
        )
    for name in splits:
        if name not in chosen:
            reason = "a split without class folders, so without labels" if name in flat else "another split"
            found.left_out[f"{'/'.join((*prefix, name))}/ ({len(members[name])} images)"] = reason
            found.others += [(parts, split_kind(name)) for parts in members[name]]
    for name in strangers:
        found.left_out[f"{'/'.join((*prefix, name))}/"] = "no split"
    return _with_loose(found, images, depth)


def _chosen_splits(splits: list[str], flat: list[str], where: str, options: ReadOptions) -> list[str]:
    """Return the splits that are candidates; those without class folders are so by the user's word only."""
    if options.split is not None or not options.reads_labels:
        chosen = choose_splits(splits, where, options)
        if options.reads_labels and set(chosen) & set(flat) and not set(chosen) <= set(flat):
            raise InputError(
                f"{_listed([name for name in chosen if name in flat])} in {where} has no class folders and the other "
                f"splits have; leave it out, or read no labels with {options.without_labels()}"
            )
        return chosen
    labelled = [name for name in splits if name not in flat]
    if not labelled:
        raise InputError(
            f"{_listed(splits)} in {where} look like splits and hold images, but no class folders; score one without "
            f"labels with {options.words('split', splits[0])}, or take {'them' if splits[1:] else 'it'} for "
            "classes with "
            f"{options.words('labels_from', 'folders')}"
        )
    return choose_splits(labelled, where, options)


def _is_flat(images: Sequence[Parts], prefix: Parts) -> bool:
    depth = len(_below_wrappers(images, prefix))
    return all(len(parts) == depth + 1 for parts in images)


def _inner_splits(images: Sequence[Parts], depth: int, folders: list[str]) -> list[str]:
    """Return the names of splits inside class folders, as in `cat/train/1.jpg`; none if they are no splits."""
    inner = {parts[depth + 1] for parts in images if len(parts) > depth + 2}
    if len(folders) < 2 or not inner or not all(len(parts) > depth + 2 for parts in images):
        return []
    return sorted(inner) if all(split_kind(name) for name in inner) else []


def _of_inner_splits(
    images: Sequence[Parts], prefix: Parts, splits: list[str], where: str, options: ReadOptions
) -> Layout:
    depth = len(prefix)
    chosen = choose_splits(splits, f"each class folder of {where}", options)
    found = Layout(notes=[f"each class folder has the splits {', '.join(splits)}"])
    found.chosen = [parts for parts in images if parts[depth + 1] in chosen]
    found.classes = [parts[depth] for parts in found.chosen] if options.reads_labels else None
    found.others = [(parts, split_kind(parts[depth + 1])) for parts in images if parts[depth + 1] not in chosen]
    for name in splits:
        if name not in chosen:
            count = sum(parts[depth + 1] == name for parts in images)
            found.left_out[f"{name} ({count} images)"] = "another split"
    return found


def _classes(images: Sequence[Parts], prefix: Parts, where: str, options: ReadOptions) -> Layout:
    """Return images whose classes are the folders below the prefix; without such folders they have no classes."""
    depth = len(prefix)
    folders = _children(images, depth)
    loose = [parts for parts in images if len(parts) == depth + 1]
    if not options.reads_labels or not folders:
        return Layout(chosen=list(images), classes=None)
    inside = [parts for parts in images if len(parts) > depth + 1]
    if options.labels_from != "folders":
        _check_classes(inside, loose, folders, depth, where, options)
    found = Layout(chosen=inside, classes=[parts[depth] for parts in inside])
    if prefix and split_kind(prefix[-1]) is None:
        found.notes.append(f"classes are the folders of {'/'.join(prefix)}/")
    found.left_out = {"/".join(parts): NO_CLASS_FOLDER for parts in loose}
    return found


def _check_classes(
    inside: list[Parts], loose: list[Parts], folders: list[str], depth: int, where: str, options: ReadOptions
) -> None:
    if len(loose) > len(inside):
        raise InputError(
            f"{len(loose)} images lie directly in {where} and {len(inside)} in its folders {_listed(folders)}; "
            "take all "
            f"without labels with {options.without_labels()}, or leave the {len(loose)} out with "
            f"{options.words('labels_from', 'folders')}"
        )
    if all(name.lower().strip("-_ .0123456789") in WRAPPERS for name in folders):
        raise InputError(
            f"the folders {_listed(folders)} of {where} are called after what they hold, not after classes; give one "
            f"of them, read no labels with {options.without_labels()}, or take them for classes with "
            f"{options.words('labels_from', 'folders')}"
        )
    inner = _children(inside, depth + 1)
    if len(folders) == 1 and len(inner) > 1 and all(len(parts) > depth + 2 for parts in inside):
        raise InputError(
            f"{where} has the one folder {folders[0]!r}, which has the folders {_listed(inner)}; if these are the "
            f"classes, give {where}/{folders[0]}, and if {folders[0]!r} is the only class, pass "
            f"{options.words('labels_from', 'folders')}"
        )


def _add(found: Layout, part: Layout) -> None:
    found.chosen += part.chosen
    if found.classes is not None:
        found.classes += part.classes or []
    found.left_out.update(part.left_out)
    found.notes += part.notes


def _with_loose(found: Layout, images: Sequence[Parts], depth: int) -> Layout:
    found.left_out.update({"/".join(parts): "outside the splits" for parts in images if len(parts) == depth + 1})
    return found


def _listed(names: Sequence[str]) -> str:
    shown = ", ".join(names[:6])
    return f"{shown}, ..." if len(names) > 6 else shown
