"""CXRB10: ten balanced classes of single-finding images of NIH ChestX-ray14, 500 each, split 300/100/100.

The paper names neither classes nor files. Two class lists are offered, chosen as the protocol says; images or whole
patients are split. Terms of the NIH Clinical Center: free use, link its site, cite Wang et al. (CVPR 2017).

Label files. The default is the 2017 labels in the three lists of arnoweng/CheXNet@3d45ee7, because their SHA-256 is
known and the published counts were verified on them. NIH's newer `Data_Entry_2017_v2020.csv` has no checksum that we
know and no fixed address; download it by hand and pass `--labels`, and the file list will differ a little.

Images. The twelve archives of the NIH Clinical Center, each checked by its MD5. Only the 5,000 chosen PNG files are
kept. Left out as mirrors: the zips of alkzar90/NIH-Chest-X-ray-dataset and Kaggle's copy (other bytes; extract them and
pass `--images`), timm/nih-chest-xray-14 (parquet), Zenodo 10519652 (224 pixels). Archive sizes are not checked: the
sizes at hand are those of another publication.
"""

import csv
import hashlib
import logging
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from prunetune.base.errors import InputError, suggestion
from prunetune.data.list_files import read_bytes
from prunetune.data.prepare.archives import extract
from prunetune.data.prepare.arrangement import arrange, files_below, tail
from prunetune.data.prepare.command import Place
from prunetune.data.prepare.disk import staging
from prunetune.data.prepare.download import Source, checksum, fetch, source
from prunetune.data.prepare.record import Counts, read_finished, require_free
from prunetune.data.prepare.splits import Row, by_group, by_image, check_committed, list_sha256

log = logging.getLogger(__name__)
PAGE = "https://nihcc.app.box.com/v/ChestXray-NIHCC"
FINDINGS = (  # The order is that of the 0/1 columns of the CheXNet lists.
    "Atelectasis", "Cardiomegaly", "Effusion", "Infiltration", "Mass", "Nodule", "Pneumonia", "Pneumothorax",
    "Consolidation", "Edema", "Emphysema", "Fibrosis", "Pleural_Thickening", "Hernia",
)  # fmt: skip
CLASS_LISTS = {
    "A": (  # These are the first ten findings in the alphabet with at least 500 single-finding images.
        "Atelectasis", "Cardiomegaly", "Consolidation", "Edema", "Effusion", "Emphysema", "Fibrosis", "Infiltration",
        "Mass", "Nodule",
    ),
    "B": (  # These are the ten most frequent findings.
        "Atelectasis", "Cardiomegaly", "Consolidation", "Effusion", "Emphysema", "Infiltration", "Mass", "Nodule",
        "Pleural_Thickening", "Pneumothorax",
    ),
}  # fmt: skip
LISTS = ("nih_train_list", "nih_val_list", "nih_test_list")
PARTS = tuple(f"nih_images_{part:03d}" for part in range(1, 13))
PER_CLASS = 500
NUM_PARTS = 1  # The file name alone identifies an image.


def prepare(
    where: Place,
    labels: list[Path] | None = None,
    classes: str = "A",
    group_by: str = "image",
    split_seed: int = 0,
    per_class: int = PER_CLASS,
) -> Counts:
    """Prepare `<root>/{train,val,test}/<finding>/<file name>`; the paths of the list are `<finding>/<file name>`.

    Args:
        where: source, destination and checks.
        labels: label files, in either form (see `read_labels`); None downloads the 2017 lists.
        classes: "A", "B" or finding names joined by commas.
        group_by: "image", or "patient": no patient lies in two splits (see `splits.by_group`).
        split_seed: the seed of choice and split.
        per_class: images of each class.

    Raises:
        InputError: a class or split is short, images are missing, a download fails, or an option is wrong.
    """
    settings = {"classes": classes, "group_by": group_by, "split_seed": split_seed, "per_class": per_class}
    finished = read_finished(where.root, "cxrb10", settings)
    if finished is not None:
        return finished
    require_free(where.root, "cxrb10")
    findings = read_labels(labels or _published_lists(where))
    rows = choose(findings, classes, group_by, split_seed, per_class)
    if where.verify and (labels is None or is_published(labels)):
        check_committed(list_key(settings), rows)
    if where.images:
        return arrange(where.images, where.root, rows, "cxrb10", settings, NUM_PARTS)
    collected = _collect(rows, where)
    counts = arrange(collected, where.root, rows, "cxrb10", settings, NUM_PARTS)
    shutil.rmtree(collected)
    return counts


def list_key(settings: dict[str, Any]) -> str:
    """Return the key of a file list in checksums.json."""
    return " ".join(["cxrb10", *(f"{key}={value}" for key, value in settings.items())])


def choose(findings: dict[str, str], classes: str, group_by: str, split_seed: int, per_class: int) -> list[Row]:
    """Return the file list.

    Args:
        findings: the finding labels of each file name, joined by "|".
        classes: see `prepare`.
        group_by: see `prepare`.
        split_seed: see `prepare`.
        per_class: see `prepare`.
    """
    files = single_findings(findings, class_names(classes))
    if group_by == "image":
        return by_image(files, "cxrb10", split_seed, per_class)
    if group_by == "patient":
        return by_group(files, patient, "cxrb10", split_seed, per_class)
    raise InputError(f"--group-by must be image or patient, got {group_by!r}")


def class_names(classes: str) -> tuple[str, ...]:
    """Return the findings of a class list: "A", "B" or names joined by commas.

    Raises:
        InputError: a name is no finding, or stands twice.
    """
    if classes in CLASS_LISTS:
        return CLASS_LISTS[classes]
    names = tuple(name.strip() for name in classes.split(","))
    for name in names:
        if name not in FINDINGS:
            raise InputError(
                f"--classes takes A, B or findings joined by commas, got {name!r}.{suggestion(name, FINDINGS)} "
                f"Findings: {', '.join(sorted(FINDINGS))}"
            )
    if len(set(names)) != len(names):
        raise InputError(f"--classes names a finding twice: {classes}")
    return names


def single_findings(findings: dict[str, str], classes: Iterable[str]) -> dict[str, list[str]]:
    """Return the file names of each class: the images that show this finding and no other."""
    files: dict[str, list[str]] = {label: [] for label in classes}
    for name, labels in findings.items():
        if labels in files:
            files[labels].append(name)
    return files


def patient(name: str) -> str:
    """Return the patient of an image: the first eight digits of its name, `00000013_026.png`."""
    return name[:8]


def read_labels(paths: Iterable[Path]) -> dict[str, str]:
    """Return the finding labels of each file name, sorted and joined by "|"; "No Finding" where there are none.

    Two forms are read, plain or as .gz, told apart by the first line: NIH's CSV with the columns `Image Index` and
    `Finding Labels`, and CheXNet's lines of a file name and fourteen zeros or ones.

    Raises:
        InputError: a file is missing or in neither form, or an image is labelled twice.
    """
    findings: dict[str, str] = {}
    for path in paths:
        lines = _content(path).decode("utf-8-sig", errors="replace").splitlines()
        rows = _read_csv(path, lines) if lines and "," in lines[0] else _read_list(path, lines)
        for name, labels in rows:
            if name in findings:
                raise InputError(f"{path}: {name} is labelled twice; give each label file once")
            findings[name] = "|".join(sorted(labels.split("|")))
    return findings


def is_published(paths: Iterable[Path]) -> bool:
    """Tell whether these are the 2017 lists whose file lists have committed checksums."""
    found = {hashlib.sha256(_content(path)).hexdigest() for path in paths}
    return found == {source(key).sha256 for key in LISTS}


def _content(path: Path) -> bytes:
    if not path.is_file():
        raise InputError(f"expected a label file at {path}, found no file; check --labels")
    return read_bytes(path)


def _read_csv(path: Path, lines: list[str]) -> Iterable[tuple[str, str]]:
    reader = csv.DictReader(lines)
    if not {"Image Index", "Finding Labels"} <= set(reader.fieldnames or ()):
        raise InputError(f"{path}: expected the columns 'Image Index' and 'Finding Labels', got {lines[0][:80]!r}")
    return [(row["Image Index"], row["Finding Labels"]) for row in reader]


def _read_list(path: Path, lines: list[str]) -> Iterable[tuple[str, str]]:
    rows = []
    for number, line in enumerate(lines, 1):
        name, *flags = line.split() or [""]
        if len(flags) != len(FINDINGS) or set(flags) - {"0", "1"}:
            raise InputError(
                f"{path}, line {number}: expected a file name and fourteen zeros or ones, got {line[:80]!r}"
            )
        present = [finding for finding, flag in zip(FINDINGS, flags, strict=True) if flag == "1"]
        rows.append((name, "|".join(present) or "No Finding"))
    return rows


def _published_lists(where: Place) -> list[Path]:
    by_hand = "Download it by hand and pass --labels FILE (all three lists), or NIH's own CSV"
    return [fetch(source(key), where.downloads, by_hand) for key in LISTS]


def _collect(rows: list[Row], where: Place) -> Path:
    """Extract the chosen images of each archive into a separate folder, and return the parent folder.

    After an interruption, finished archives are skipped, so that 45 GB are not downloaded twice. Given archives come
    first, and no other archive is downloaded once all images have been found.
    """
    folder = where.downloads / f"cxrb10-{list_sha256(rows)[:12]}"
    wanted = {tail(row.path, NUM_PARTS) for row in rows}
    given = {_checked(path, where): path for path in where.archives}
    for name, path in given.items():
        _extract_part(path, folder / name, wanted)
    for key in PARTS:
        part = source(key)
        if wanted <= {path.name for path in files_below(folder)}:
            break
        if not (folder / part.md5).is_dir():
            archive = fetch(
                part, where.downloads, f"Download the twelve archives by hand from {PAGE}, pass --archive FILE ..."
            )
            _extract_part(archive, folder / part.md5, wanted)
            if not where.keep_archives:
                archive.unlink()
    return folder


def _checked(path: Path, where: Place) -> str:
    """Return the MD5 of a given archive, which must be that of a published part."""
    known: dict[str, Source] = {source(key).md5: source(key) for key in PARTS}
    if not path.is_file():
        raise InputError(f"expected an archive at {path}, found no file; check --archive")
    log.info("checking %s", path)
    found = checksum(path, "md5")
    if where.verify and found not in known:
        raise InputError(
            f"{path} has md5 {found}, which none of the twelve archives has; download it again, or pass --no-checksum "
            "to take it as it is"
        )
    return found


def _extract_part(archive: Path, folder: Path, wanted: set[str]) -> None:
    if folder.is_dir():
        return
    with staging(folder) as partial:
        number = extract(archive, partial, lambda name: base if (base := tail(name, 1)) in wanted else None)
        log.info("%s: %d of the chosen images", archive.name, number)
