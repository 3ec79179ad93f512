"""Write the kept images as a folder of images, a Hugging Face dataset, or a COCO file."""

import logging
import os
import shutil
from collections import Counter
from pathlib import Path, PurePosixPath
from typing import Any

from PIL import Image

from prunetune.base.errors import InputError
from prunetune.base.extra import needed
from prunetune.base.publish import write_json
from prunetune.own.data import OwnData
from prunetune.own.kept_dataset import as_pil
from prunetune.own.subset import Subset

log = logging.getLogger(__name__)
FORMS = ("link", "copy", "hf", "coco")
IMAGES, DATASET, ANNOTATIONS = "images", "dataset", "annotations.json"


def export(subset: Subset, folder: Path, form: str, images: str = IMAGES) -> None:
    """Write the kept images below a folder.

    Args:
        subset: what is kept.
        folder: an existing folder.
        form: link and copy make a folder of images in the layout of the data; images that are no files are written as
            PNG. hf makes a saved dataset, which `datasets.load_from_disk` reads. coco makes links and
            `annotations.json`, with one annotation for each image and no box.
        images: the name of the folder of images below `folder`; "" for `folder` itself.

    Raises:
        InputError: embeddings have no images, or a library is missing.
    """
    check_export(subset.data, form)
    if form == "hf":
        as_hf(subset).save_to_disk(str(folder / DATASET if images else folder))
        return
    names = write_images(subset, folder / images, "copy" if form == "copy" else "link")
    if form == "coco":
        write_json(folder / ANNOTATIONS, coco(subset, folder, [str(PurePosixPath(images, name)) for name in names]))


def check_export(data: OwnData, form: str) -> None:
    """Refuse an export that cannot be written, before anything is computed.

    Raises:
        InputError: embeddings have no images, or a library is missing.
    """
    if data.pool.images is None:
        raise InputError("embeddings have no images to export; export the images yourself by the kept rows")
    if form == "hf":
        needed("datasets", "data", "Hugging Face datasets")


def write_images(subset: Subset, folder: Path, form: str) -> list[str]:
    """Write the kept images and return their paths below the folder, in the order of the user's rows.

    Args:
        subset: what is kept.
        folder: a new folder.
        form: link or copy. Images that are no files are written as PNG. Where a link cannot be made, all are copied.
    """
    names = layout(subset)
    for position, name in zip(subset.order.tolist(), names, strict=True):
        target = folder / name
        target.parent.mkdir(parents=True, exist_ok=True)
        source = subset.data.paths[position]
        if source is None:
            as_pil(subset.pool.images, position).save(target)
        elif form == "copy" or not _linked(source, target):
            if form == "link":
                form = "copy"
                log.warning("links cannot be made in %s, so that the kept images are copied", folder)
            shutil.copy2(source, target)
    return names


def layout(subset: Subset) -> list[str]:
    """Return where each kept image goes below the exported folder, in the order of the user's rows.

    A folder keeps its own layout. Other images go to `<class>/<file name>`, or without labels to `<file name>`. Files
    of the same name keep their folders in it.
    """
    data, order = subset.data, subset.order.tolist()
    if data.layout in ("folders", "flat"):
        return [data.pool.sample_ids[position] for position in order]
    full = [_relative(data.names[position], data.paths[position]) for position in order]
    folders = [_safe(data.pool.classes[int(data.pool.labels[p])]) if data.is_labelled else "" for p in order]
    short = [str(PurePosixPath(part, path.name)) for part, path in zip(folders, full, strict=True)]
    taken = Counter(short)
    return [
        name if taken[name] == 1 else str(PurePosixPath(part, path))
        for name, part, path in zip(short, folders, full, strict=True)
    ]


def as_hf(subset: Subset) -> Any:
    """Return the kept samples as a `datasets.Dataset`: the rows of the user's own one, or images with labels.

    Raises:
        InputError: the extra `data` is not installed, or the data are embeddings.
    """
    check_export(subset.data, "hf")
    datasets = needed("datasets", "data", "Hugging Face datasets")
    if isinstance(subset.data.source, datasets.Dataset):
        return subset.data.source.select(subset.positions.tolist())
    data, order = subset.data, subset.order.tolist()
    images = [_hf_image(subset, position) for position in order]
    columns = {"image": images}
    features = datasets.Features({"image": datasets.Image()})
    if data.is_labelled:
        columns["label"] = data.pool.labels[subset.order].tolist()
        features["label"] = datasets.ClassLabel(names=list(data.pool.classes))
    return datasets.Dataset.from_dict(columns, features=features)


def coco(subset: Subset, folder: Path, names: list[str]) -> dict[str, Any]:
    """Return the content of a COCO file: images with their sizes, categories, and one annotation for each image.

    Args:
        subset: what is kept.
        folder: the folder of the COCO file.
        names: the paths of the images below it, in the order of the user's rows.
    """
    data, order = subset.data, subset.order.tolist()
    images, annotations = [], []
    for number, (position, name) in enumerate(zip(order, names, strict=True), 1):
        with Image.open(folder / name) as image:
            width, height = image.size
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        if data.is_labelled:
            label = int(data.pool.labels[position])
            annotations.append({"id": number, "image_id": number, "category_id": label + 1})
    categories = [{"id": label + 1, "name": name} for label, name in enumerate(data.pool.classes) if data.is_labelled]
    return {"images": images, "annotations": annotations, "categories": categories}


def _linked(source: Path, target: Path) -> bool:
    try:
        os.symlink(source, target)
    except (OSError, NotImplementedError):
        return False
    return True


def _relative(name: str, path: Path | None) -> PurePosixPath:
    """Return a path below any folder: the user's name without a drive, a root or parts that lead upwards."""
    if path is None:
        return PurePosixPath(f"{_safe(name)}.png")
    parts = [part for part in path.parts if part not in (path.anchor, "..", ".")]
    given = [part for part in PurePosixPath(name.replace("\\", "/")).parts if part not in ("/", "..", ".")]
    return PurePosixPath(*(given if given and given[-1] == path.name else parts))


def _safe(name: str) -> str:
    """Return a class name or an id as the name of one folder or file."""
    return name.replace("/", "_").replace("\\", "_").replace("\0", "_").strip() or "_"


def _hf_image(subset: Subset, position: int) -> Any:
    path = subset.data.paths[position]
    return as_pil(subset.pool.images, position) if path is None else str(path)
