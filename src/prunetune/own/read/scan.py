"""Find the images below a folder. Nothing is decoded, and whatever is no image is named with the reason."""

import os
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from prunetune.base.errors import InputError
from prunetune.data.images.rule import OWN_SUFFIXES
from prunetune.own.folder import is_outcome

# Operating systems, file servers and archives leave these folders and files beside people's own.
SYSTEM_FOLDERS = frozenset({"__MACOSX", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"})
SYSTEM_FILES = frozenset({"thumbs.db", "desktop.ini", "ehthumbs.db"})
# These images are of a kind that the package does not read, so that leaving them out deserves words of its own.
OTHER_IMAGES = frozenset(
    ".svg .psd .raw .nef .cr2 .cr3 .arw .dng .orf .rw2 .jp2 .jxl .tga .ico .eps .pdf .dcm .nii .exr .hdr .mp4 "
    ".mov".split()
)


@dataclass
class Scan:
    """The images below a folder.

    images: the path of each image below the folder, as its parts, sorted as text. left_out: maps other files and
    folders to the reason.
    """

    folder: Path
    images: list[tuple[str, ...]] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)


def scan(folder: Path, leave_out: Path | None = None) -> Scan:
    """Return the images below a folder at any depth. Symbolic links are followed, each folder is read once.

    Folders below it that an earlier pruning has written hold copies of images, so they are not read.

    Args:
        folder: where to look.
        leave_out: a folder that is not read, such as the one that is written to.

    Raises:
        InputError: a folder cannot be listed, or the name of an image is not UTF-8.
    """
    found, seen = Scan(folder), set()
    hidden = None if leave_out is None else os.path.realpath(leave_out)
    for place, folders, files in os.walk(folder, followlinks=True, onerror=_refuse):
        real = os.path.realpath(place)
        if real in seen:  # A link to a parent folder would otherwise cause an endless loop.
            folders[:] = []
            continue
        seen.add(real)
        here = Path(place).relative_to(folder)
        folders[:] = [name for name in sorted(folders) if _is_read(found, here / name, hidden)]
        for name in files:
            _sort_in(found, here / name)
    found.images.sort(key="/".join)
    _name_empty_folders(found)
    return found


def _refuse(error: OSError) -> None:
    raise InputError(f"the folder {error.filename} cannot be read ({error.strerror}); check its permissions")


def _is_read(found: Scan, path: Path, hidden: str | None) -> bool:
    reason = why_no_data([path.name], "")
    if hidden is not None and os.path.realpath(found.folder / path) == hidden:
        reason = "the folder that is written to"
    elif reason is None and is_outcome(found.folder / path):
        reason = "folders that an earlier prune has written"
    if reason is not None:
        found.left_out[f"{path.as_posix()}/"] = reason
    return reason is None


def why_no_data(folders: Sequence[str], file: str) -> str | None:
    """Return why a file, given by the names of its folders and its own, is none of a user's; None if it may be one."""
    if any(name in SYSTEM_FOLDERS or name.startswith("@") for name in folders):
        return "folders of the system"
    if any(name.startswith(".") for name in folders):
        return "hidden folders"
    return "files of the system" if file.startswith(".") or file.lower() in SYSTEM_FILES else None


def _sort_in(found: Scan, path: Path) -> None:
    suffix, name = path.suffix.lower(), path.as_posix()
    if (reason := why_no_data((), path.name)) is not None:
        found.left_out[name] = reason
    elif suffix in OTHER_IMAGES:
        found.left_out[name] = f"{suffix} is not read"
    elif suffix not in OWN_SUFFIXES:
        found.left_out[name] = "no images"
    elif not (found.folder / path).is_file():
        found.left_out[name] = "links to nothing"
    else:
        try:
            name.encode()
        except UnicodeEncodeError:
            raise InputError(f"the file name {name!r} is not UTF-8; rename the file") from None
        found.images.append(path.parts)


def _name_empty_folders(found: Scan) -> None:
    """Name the folders directly below the top, or below a folder with images, that hold no image."""
    with_images: dict[Path, set[str]] = defaultdict(set)
    for parts in found.images:
        for depth in range(len(parts) - 1):
            with_images[Path(*parts[:depth])].add(parts[depth])
    for place in [Path(), *with_images]:
        full = found.folder / place
        for child in sorted(full.iterdir()):
            name = (place / child.name).as_posix()
            is_known = child.name in with_images[place] if place in with_images else False
            if not is_known and f"{name}/" not in found.left_out and child.is_dir():
                found.left_out[f"{name}/"] = "folders without images"
