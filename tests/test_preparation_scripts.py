import csv
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from made_data import make_cifar10, make_dtd, make_fgvcaircraft
from prunetune.base.errors import InputError
from prunetune.data.prepare import cifar10, cxrb10, deepweeds, download, sketch
from prunetune.data.prepare.command import Place
from prunetune.data.prepare.record import PROTOCOL, Counts
from prunetune.data.prepare.splits import committed_sha256
from prunetune.data.readers.split_folders import SplitFolders

SPLITS = ("train", "val", "test")


def prepare(name: str, folder: Path, *options: str | Path) -> subprocess.CompletedProcess[str]:
    """Run `prunetune prepare <name>` in a folder, as a user would."""
    command = [sys.executable, "-m", "prunetune", "prepare", name, *options]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, timeout=60)


def last_line(result: subprocess.CompletedProcess[str]) -> str:
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()[-1]


def error_line(result: subprocess.CompletedProcess[str]) -> str:
    """Return the one line that a failed script leaves on standard error."""
    assert result.returncode == 1
    assert result.stderr.count("\n") == 1, result.stderr
    assert result.stderr.startswith("error: ")
    return result.stderr.removeprefix("error: ").rstrip()


def png(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("L", (8, 8), number % 256).save(content, "png")
    return content.getvalue()


def pack(folder: Path, archive: Path, top: str) -> Path:
    with tarfile.open(archive, "w:gz") as file:
        file.add(folder, top)
    return archive


def pack_files(archive: Path, names: list[str]) -> Path:
    """Write made images under these names into a .zip or .tar.gz."""
    images = {name: png(number) for number, name in enumerate(names)}
    if archive.suffix == ".zip":
        with zipfile.ZipFile(archive, "w") as zipped:
            for name, content in images.items():
                zipped.writestr(name, content)
        return archive
    with tarfile.open(archive, "w:gz") as tarred:
        for name, content in images.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tarred.addfile(member, io.BytesIO(content))
    return archive


def read_list(root: Path) -> list[dict[str, str]]:
    with (root / "splits.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def files_of(root: Path) -> set[str]:
    return {path.relative_to(root).as_posix() for path in root.rglob("*.png")}


def pool_size(name: str, root: Path) -> tuple[int, int]:
    dataset = SplitFolders(name, str(root), f"prunetune prepare {name}", 0, 0, 0, check_counts=False)
    return len(dataset.pool("train")), len(dataset.pool("test"))


def modification_times(root: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in root.rglob("*")}


OFFICIAL = {  # Maps a data set to its maker, the archive's top folder and the files that must exist afterwards.
    "dtd": (make_dtd, "dtd", ["images/banded/banded_0001.jpg", "labels/train1.txt", "labels/val1.txt"]),
    "fgvcaircraft": (
        make_fgvcaircraft,
        "fgvc-aircraft-2013b",
        ["data/images/0034309.jpg", "data/images_variant_test.txt", "data/variants.txt"],
    ),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_an_official_set_is_prepared_from_its_archive(tmp_path: Path, name: str) -> None:
    make, top, expected = OFFICIAL[name]
    archive = pack(make(tmp_path / "made"), tmp_path / "by_hand.tar.gz", top)
    options = ("--archive", archive, "--no-checksum", "--no-check-counts")
    assert last_line(prepare(name, tmp_path, *options)) == (
        f"data/{name}: 3 classes, pool 21 (train 12, val 9), test 6; "
        f"next: prunetune run dataset={name} dataset.check_counts=false scorer=dlc ratio=0.1"
    )
    assert all((tmp_path / "data" / name / path).is_file() for path in expected)
    assert archive.is_file()
    before = modification_times(tmp_path / "data")
    assert "was prepared before" in prepare(name, tmp_path, *options).stdout
    assert modification_times(tmp_path / "data") == before


@pytest.mark.parametrize("name", OFFICIAL)
def test_an_incomplete_official_set_gives_a_one_line_error_and_leaves_nothing(tmp_path: Path, name: str) -> None:
    make, top, expected = OFFICIAL[name]
    made = make(tmp_path / "made")
    archive = pack(made, tmp_path / "by_hand.tar.gz", top)
    line = error_line(prepare(name, tmp_path, "--archive", archive, "--no-checksum"))
    assert line.startswith(
        f"{name} is incomplete or another edition: expected {PROTOCOL[name]}, found 3 classes, pool 21"
    )
    (made / expected[0]).unlink()
    archive = pack(made, tmp_path / "by_hand.tar.gz", top)
    line = error_line(prepare(name, tmp_path, "--archive", archive, "--no-checksum", "--no-check-counts"))
    assert line.startswith("1 of 27 listed images are missing, first ")
    (made / expected[1]).unlink()
    archive = pack(made, tmp_path / "by_hand.tar.gz", top)
    line = error_line(prepare(name, tmp_path, "--archive", archive, "--no-checksum", "--no-check-counts"))
    assert expected[1].split("/")[-1] in line
    assert "is missing in the archive" in line
    assert list((tmp_path / "data").iterdir()) == []


def test_an_archive_with_another_checksum_is_refused_unless_asked_for(tmp_path: Path) -> None:
    archive = pack(make_dtd(tmp_path / "made"), tmp_path / "by_hand.tar.gz", "dtd")
    line = error_line(prepare("dtd", tmp_path, "--archive", archive))
    assert line == (
        f"{archive} has {archive.stat().st_size} bytes, expected 625239812; "
        "download it again, or pass --no-checksum to use it as it is"
    )


def test_a_folder_made_by_hand_is_taken_if_it_is_complete(tmp_path: Path) -> None:
    make_dtd(tmp_path / "data" / "dtd")
    assert last_line(prepare("dtd", tmp_path, "--no-check-counts")).startswith("data/dtd: 3 classes, pool 21")
    line = error_line(prepare("dtd", tmp_path))
    assert line.startswith("data/dtd exists but is not a finished dtd (dtd is incomplete or another edition: ")
    assert line.endswith("delete it or pass --root")


def test_two_archives_for_a_set_with_one_are_refused(tmp_path: Path) -> None:
    line = error_line(prepare("dtd", tmp_path, "--archive", "a.tar.gz", "b.tar.gz"))
    assert line == "expected one --archive, dtd-r1.0.1.tar.gz, got 2"


def test_cifar10_is_prepared_in_torchvisions_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(make_cifar10(tmp_path / "made", monkeypatch) / cifar10.FOLDER, tmp_path / "c.tar.gz", cifar10.FOLDER)
    options = ("--archive", archive, "--no-checksum", "--no-check-counts")
    assert last_line(prepare("cifar10", tmp_path, *options)).startswith("data/cifar10: 10 classes, pool 50000")
    assert (tmp_path / "data" / "cifar10" / "cifar-10-batches-py" / "test_batch").is_file()
    line = error_line(prepare("cifar10", tmp_path, "--root", "new", "--archive", archive, "--no-checksum"))
    assert line.startswith("cifar-10-batches-py/data_batch_1 has md5 ")
    # In this process torchvision expects the made batches, so the strict check passes.
    counts = cifar10.prepare(Place(tmp_path / "strict", tmp_path / "downloads", (archive,), verify=False))
    assert counts == Counts(10, 50_000, 0, 10_000)


@pytest.fixture
def sketches(tmp_path: Path) -> Path:
    names = [f"png/{label}/{number}.png" for label in ("apple", "bear (animal)") for number in range(1, 11)]
    return pack_files(tmp_path / "sketches_png.zip", [*names, "__MACOSX/png/apple/._1.png", "png/filelist.txt"])


def test_sketch_is_split_by_class_and_listed(tmp_path: Path, sketches: Path) -> None:
    result = prepare("sketch", tmp_path, "--archive", sketches, "--no-check-counts")
    assert last_line(result).startswith("data/sketch: 2 classes, pool 16 (train 12, val 4), test 4; next: ")
    root = tmp_path / "data" / "sketch"
    rows = read_list(root)
    assert files_of(root) == {f"{row['split']}/{row['path']}" for row in rows}
    assert [row["path"] for row in rows if row["label"] == "apple" and row["split"] == "test"] == [
        "apple/7.png",
        "apple/8.png",
    ]  # These are the last two of the hand-computed order 4 6 9 5 2 1 10 3 7 8.
    assert pool_size("sketch", root) == (16, 4)
    record = json.loads((root / "preparation.json").read_text())
    assert record["list_sha256"] == hashlib.sha256((root / "splits.csv").read_bytes()).hexdigest()
    assert record["archive_sha256"] == hashlib.sha256(sketches.read_bytes()).hexdigest()


def test_the_checksum_of_the_first_sketch_archive_is_kept_and_compared(tmp_path: Path, sketches: Path) -> None:
    prepare("sketch", tmp_path, "--archive", sketches, "--no-check-counts")
    first = hashlib.sha256(sketches.read_bytes()).hexdigest()
    assert (tmp_path / "data" / "downloads" / "sketches_png.zip.sha256").read_text() == f"{first}  sketches_png.zip\n"
    pack_files(sketches, ["png/apple/1.png"])
    options = ("--root", "data/again", "--archive", sketches, "--no-check-counts")
    assert f"the first one had {first}" in error_line(prepare("sketch", tmp_path, *options))


def test_a_sketch_class_without_eighty_drawings_gives_a_one_line_error(tmp_path: Path, sketches: Path) -> None:
    line = error_line(prepare("sketch", tmp_path, "--archive", sketches))
    assert line.startswith("sketch: 2 classes do not have 80 images, first 'apple' with 10; ")
    assert not (tmp_path / "data" / "sketch").exists()


def test_sketches_of_full_size_pass_the_counts_and_must_have_the_published_names() -> None:
    made = [f"c{label:03d}/{number}.png" for label in range(250) for number in range(80)]
    rows = sketch.choose(made, 0, check=True)
    assert Counter(row.split for row in rows) == {"train": 12_000, "val": 4_000, "test": 4_000}
    assert set(Counter((row.label, row.split) for row in rows).values()) == {48, 16}


def test_another_seed_in_the_same_folder_is_refused_and_gives_another_split(tmp_path: Path, sketches: Path) -> None:
    options = ("--archive", sketches, "--no-check-counts")
    prepare("sketch", tmp_path, *options)
    line = error_line(prepare("sketch", tmp_path, *options, "--split-seed", "1"))
    assert line == (
        "data/sketch was prepared as sketch split_seed=0; sketch split_seed=1 was asked for: "
        "delete the folder or pass --root=<another folder>"
    )
    last_line(prepare("sketch", tmp_path, *options, "--split-seed", "1", "--root", "data/one"))
    assert files_of(tmp_path / "data" / "one") != files_of(tmp_path / "data" / "sketch")


def test_images_from_a_folder_are_linked_not_copied(tmp_path: Path, sketches: Path) -> None:
    with zipfile.ZipFile(sketches) as file:
        file.extractall(tmp_path / "mine")
    last_line(prepare("sketch", tmp_path, "--images", "mine", "--no-check-counts"))
    root = tmp_path / "data" / "sketch"
    for row in read_list(root):
        assert (root / row["split"] / row["path"]).samefile(tmp_path / "mine" / "png" / row["path"])


@pytest.fixture
def weeds(tmp_path: Path) -> tuple[Path, Path]:
    """Return a made images.zip and labels.csv with six photographs of each of the nine labels."""
    names = [(f"2017{label:02d}01-12000{number}-0.jpg", label) for label in range(9) for number in range(6)]
    labels = tmp_path / "labels.csv"
    labels.write_text("Filename,Label,Species\n" + "".join(f"{name},{label},x\n" for name, label in names))
    return pack_files(tmp_path / "images.zip", [f"images/{name}" for name, _ in names]), labels


def test_deepweeds_drops_negative_and_takes_the_same_number_of_each_species(
    tmp_path: Path, weeds: tuple[Path, Path]
) -> None:
    archive, labels = weeds
    options = ("--archive", archive, "--labels", labels, "--no-checksum")
    line = last_line(prepare("deepweeds", tmp_path, *options, "--per-class", "5"))
    assert line.startswith("data/deepweeds: 8 classes, pool 32 (train 24, val 8), test 8; next: ")
    root = tmp_path / "data" / "deepweeds"
    assert {row["label"] for row in read_list(root)} == {path.name for path in (root / "train").iterdir()}
    assert not list(root.rglob("Negative"))
    assert pool_size("deepweeds", root) == (32, 8)
    line = error_line(prepare("deepweeds", tmp_path, *options, "--root", "other"))
    assert line.startswith("deepweeds: Chinee apple has 6 images, 1000 are needed; ")


def test_an_official_fold_of_deepweeds_has_all_nine_classes(tmp_path: Path, weeds: tuple[Path, Path]) -> None:
    archive, labels = weeds
    lines = labels.read_text().splitlines()[1:]
    files = []
    for split, kept in zip(SPLITS, ("0123", "4", "5"), strict=True):
        files.append(tmp_path / f"{split}_subset0.csv")
        chosen = [line.rsplit(",", 1)[0] for line in lines if line.split("-")[1][-1] in kept]
        files[-1].write_text("\n".join(["Filename,Label", *chosen]) + "\n")
    options = ("--archive", archive, "--no-checksum", "--official-fold", "0", "--labels", *files)
    line = last_line(prepare("deepweeds", tmp_path, *options))
    assert line.startswith("data/deepweeds: 9 classes, pool 45 (train 36, val 9), test 9; next: ")
    assert len(list((tmp_path / "data" / "deepweeds" / "val" / "Negative").iterdir())) == 1


def test_a_deepweeds_label_file_other_than_the_published_one_is_refused(
    tmp_path: Path, weeds: tuple[Path, Path]
) -> None:
    archive, labels = weeds
    line = error_line(prepare("deepweeds", tmp_path, "--archive", archive, "--labels", labels))
    assert line == (
        f"{labels} has {labels.stat().st_size} bytes, expected 598898; "
        "give the published file, or pass --no-checksum to use this one"
    )
    labels.write_text("a,b\n1,2\n")
    line = error_line(prepare("deepweeds", tmp_path, "--archive", archive, "--labels", labels, "--no-checksum"))
    assert "expected the columns Filename and Label, got ['a', 'b']" in line
    labels.write_text("Filename,Label\nx.jpg,9\n")
    line = error_line(prepare("deepweeds", tmp_path, "--archive", archive, "--labels", labels, "--no-checksum"))
    assert "expected labels 0 to 8, got '9' for x.jpg" in line


def test_photographs_that_are_missing_in_the_archive_give_a_one_line_error(
    tmp_path: Path, weeds: tuple[Path, Path]
) -> None:
    _, labels = weeds
    archive = pack_files(tmp_path / "short.zip", ["images/20170001-120000-0.jpg"])
    options = ("--archive", archive, "--labels", labels, "--no-checksum", "--per-class", "6")
    line = error_line(prepare("deepweeds", tmp_path, *options))
    assert line.startswith(f"47 of 48 images of the file list are not in {archive}, first Chinee apple/")
    assert not (tmp_path / "data" / "deepweeds").exists()


def chest_labels() -> dict[str, str]:
    """Return the labels of made images: 12 patients with an Edema and a Mass, and images that must not be chosen."""
    labels = {}
    for patient in range(1, 13):
        labels[f"{patient:08d}_000.png"] = "Edema"
        labels[f"{patient:08d}_001.png"] = "Mass"
        labels[f"{patient:08d}_002.png"] = "Edema|Mass"
        labels[f"{patient:08d}_003.png"] = "No Finding"
    return labels


@pytest.fixture
def chest_csv(tmp_path: Path) -> Path:
    rows = [f"{name},{findings},0,{int(name[:8])},50,M,PA\n" for name, findings in chest_labels().items()]
    path = tmp_path / "Data_Entry.csv"
    path.write_text("Image Index,Finding Labels,Follow-up #,Patient ID,Patient Age,Patient Gender,View Position\n")
    with path.open("a") as file:
        file.writelines(rows)
    return path


@pytest.fixture
def chest_archives(tmp_path: Path) -> list[Path]:
    names = [f"images/{name}" for name in chest_labels()]
    return [
        pack_files(tmp_path / "images_001.tar.gz", names[:20]),
        pack_files(tmp_path / "images_002.tar.gz", names[20:]),
    ]


@pytest.mark.parametrize("group_by", ["image", "patient"])
def test_cxrb10_is_built_from_labels_and_archives(
    tmp_path: Path, chest_csv: Path, chest_archives: list[Path], group_by: str
) -> None:
    options = ("--classes", "Edema,Mass", "--per-class", "10", "--group-by", group_by, "--no-checksum")
    line = last_line(prepare("cxrb10", tmp_path, "--labels", chest_csv, *options, "--archive", *chest_archives))
    assert line.startswith("data/cxrb10: 2 classes, pool 16 (train 12, val 4), test 4; next: ")
    root = tmp_path / "data" / "cxrb10"
    rows = read_list(root)
    assert files_of(root) == {f"{row['split']}/{row['path']}" for row in rows}
    assert {row["path"][-7:-4] for row in rows if row["label"] == "Edema"} == {"000"}
    assert {row["path"][-7:-4] for row in rows if row["label"] == "Mass"} == {"001"}
    assert pool_size("cxrb10", root) == (16, 4)
    patients = {(row["path"].split("/")[1][:8], row["split"]) for row in rows}
    spanning = len(patients) - len({patient for patient, _ in patients})
    assert (spanning == 0) == (group_by == "patient")
    assert all(archive.is_file() for archive in chest_archives)
    assert list((tmp_path / "data" / "downloads").iterdir()) == []


def test_cxrb10_continues_with_the_remaining_archives(
    tmp_path: Path, chest_csv: Path, chest_archives: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    where = Place(tmp_path / "cxrb10", tmp_path / "downloads")
    fetched = []

    def broken_once(part: download.Source, folder: Path, by_hand: str) -> Path:
        fetched.append(part.file_name)
        if len(fetched) == 2:
            raise InputError("the connection broke")
        folder.mkdir(exist_ok=True)
        return Path(shutil.copy(chest_archives[int(part.file_name[11:14]) - 1], folder / part.file_name))

    monkeypatch.setattr(cxrb10, "fetch", broken_once)
    arguments = ([chest_csv], "Edema,Mass", "image", 0, 10)
    with pytest.raises(InputError, match="the connection broke"):
        cxrb10.prepare(where, *arguments)
    assert not where.root.exists()
    assert cxrb10.prepare(where, *arguments) == Counts(2, 12, 4, 4)
    assert fetched == ["nih_images_001.tar.gz", "nih_images_002.tar.gz", "nih_images_002.tar.gz"]
    assert list(where.downloads.iterdir()) == []
    assert cxrb10.prepare(where, *arguments) == Counts(2, 12, 4, 4)
    assert len(fetched) == 3


def test_a_given_archive_is_not_extracted_again_after_a_break(
    tmp_path: Path, chest_csv: Path, chest_archives: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*arguments: object) -> Path:
        raise InputError("the connection broke")

    monkeypatch.setattr(cxrb10, "fetch", broken)
    arguments = ([chest_csv], "Edema,Mass", "image", 0, 10)
    first = Place(tmp_path / "cxrb10", tmp_path / "downloads", tuple(chest_archives[:1]), verify=False)
    with pytest.raises(InputError, match="the connection broke"):
        cxrb10.prepare(first, *arguments)
    both = Place(tmp_path / "cxrb10", tmp_path / "downloads", tuple(chest_archives), verify=False)
    assert cxrb10.prepare(both, *arguments) == Counts(2, 12, 4, 4)


def test_downloaded_archives_are_kept_when_asked_for(
    tmp_path: Path, chest_csv: Path, chest_archives: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def copied(part: download.Source, folder: Path, by_hand: str) -> Path:
        folder.mkdir(exist_ok=True)
        return Path(shutil.copy(chest_archives[int(part.file_name[11:14]) - 1], folder / part.file_name))

    monkeypatch.setattr(cxrb10, "fetch", copied)
    where = Place(tmp_path / "cxrb10", tmp_path / "downloads", keep_archives=True)
    cxrb10.prepare(where, [chest_csv], "Edema,Mass", "image", 0, 10)
    assert sorted(path.name for path in where.downloads.iterdir()) == ["nih_images_001.tar.gz", "nih_images_002.tar.gz"]


def test_an_unknown_archive_of_chest_images_is_refused(
    tmp_path: Path, chest_csv: Path, chest_archives: list[Path]
) -> None:
    options = ("--labels", chest_csv, "--classes", "Edema,Mass", "--per-class", "10")
    line = error_line(prepare("cxrb10", tmp_path, *options, "--archive", *chest_archives))
    assert "images_001.tar.gz has md5 " in line
    assert "which none of the twelve archives has" in line


def test_both_forms_of_chest_labels_give_the_same_lists(tmp_path: Path, chest_csv: Path) -> None:
    lines = []
    for name, findings in chest_labels().items():
        flags = ["1" if finding in findings.split("|") else "0" for finding in cxrb10.FINDINGS]
        lines.append(" ".join([name, *flags]))
    (tmp_path / "a.txt").write_text("\n".join(lines[:20]))
    (tmp_path / "b.txt").write_text("\n".join(lines[20:]) + "\n")
    assert cxrb10.read_labels([tmp_path / "a.txt", tmp_path / "b.txt"]) == cxrb10.read_labels([chest_csv])
    assert cxrb10.read_labels([chest_csv]) == chest_labels()
    with pytest.raises(InputError, match=r"a\.txt: 00000001_000\.png is labelled twice"):
        cxrb10.read_labels([tmp_path / "a.txt", tmp_path / "a.txt"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a,b\n1,2\n", "expected the columns 'Image Index' and 'Finding Labels', got 'a,b'"),
        (b"00000001_000.png 0 1\n", "line 1: expected a file name and fourteen zeros or ones"),
        (b"00000001_000.png" + b" 0" * 13 + b" 2\n", "line 1: expected a file name and fourteen zeros or ones"),
        (b"<html>\n", "line 1: expected a file name"),
        (b"\x1f\x8bnot gzip", "is not a readable .gz file"),
    ],
)
def test_a_chest_label_file_in_another_form_gives_a_one_line_error(
    tmp_path: Path, content: bytes, message: str
) -> None:
    (tmp_path / "labels").write_bytes(content)
    with pytest.raises(InputError, match=message):
        cxrb10.read_labels([tmp_path / "labels"])


def test_a_missing_chest_label_file_gives_a_one_line_error(tmp_path: Path) -> None:
    line = error_line(prepare("cxrb10", tmp_path, "--labels", "missing.csv"))
    assert line == "expected a label file at missing.csv, found no file; check --labels"


def test_a_misspelt_finding_gets_a_suggestion_and_a_short_class_its_number(tmp_path: Path, chest_csv: Path) -> None:
    line = error_line(prepare("cxrb10", tmp_path, "--labels", chest_csv, "--classes", "Edma,Mass"))
    assert line.startswith("--classes takes A, B or findings joined by commas, got 'Edma'. Did you mean 'Edema'?")
    line = error_line(prepare("cxrb10", tmp_path, "--labels", chest_csv, "--classes", "Edema,Mass"))
    assert line.startswith("cxrb10: Edema has 12 images, 500 are needed; ")
    with pytest.raises(InputError, match="names a finding twice"):
        cxrb10.class_names("Mass,Mass")


def test_chest_images_are_linked_from_a_folder_and_missing_ones_are_named(tmp_path: Path, chest_csv: Path) -> None:
    for name in chest_labels():
        target = tmp_path / "mine" / f"images_{name[7]}" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(png(1))
    options = ("--labels", chest_csv, "--classes", "Edema,Mass", "--per-class", "12", "--images", "mine")
    assert last_line(prepare("cxrb10", tmp_path, *options)).startswith("data/cxrb10: 2 classes, pool 18")
    (tmp_path / "mine" / "images_3" / "00000003_000.png").unlink()
    line = error_line(prepare("cxrb10", tmp_path, *options, "--root", "other"))
    assert line.startswith("1 of 24 images of the file list are not in mine, first Edema/00000003_000.png; ")


@pytest.fixture(scope="module")
def real_labels() -> Path:
    folder = os.environ.get("PRUNETUNE_REAL_DATA")
    if not folder:
        pytest.skip("PRUNETUNE_REAL_DATA names no folder")
    return Path(folder) / "data"


@pytest.mark.data
def test_cxrb10_of_full_size_has_the_protocols_counts(tmp_path: Path, real_labels: Path) -> None:
    lists = [real_labels / "nih_cxr" / "labels" / f"{split}_list.txt.gz" for split in SPLITS]
    (tmp_path / "mine").mkdir()
    for row in cxrb10.choose(cxrb10.read_labels(lists), "A", "patient", 0, 500):
        (tmp_path / "mine" / row.path.split("/")[1]).write_bytes(b"")
    result = prepare("cxrb10", tmp_path, "--labels", *lists, "--group-by", "patient", "--images", "mine")
    assert last_line(result) == (
        "data/cxrb10: 10 classes, pool 4000 (train 3000, val 1000), test 1000; "
        "next: prunetune run dataset=cxrb10 scorer=dlc ratio=0.1"
    )
    assert "as committed" in result.stdout


@pytest.mark.data
def test_deepweeds_of_full_size_has_the_protocols_counts(tmp_path: Path, real_labels: Path) -> None:
    labels = real_labels / "deepweeds_labels" / "labels" / "labels.csv"
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name, _ in deepweeds.read_labels(labels):
            archive.writestr(name, b"")
    where = Place(tmp_path / "deepweeds", tmp_path / "downloads", (tmp_path / "images.zip",), verify=False)
    assert deepweeds.prepare(where, [labels]) == PROTOCOL["deepweeds"]
    found = hashlib.sha256((tmp_path / "deepweeds" / "splits.csv").read_bytes()).hexdigest()
    assert found == committed_sha256("deepweeds split_seed=0 per_class=1000")


@pytest.mark.parametrize("name", PROTOCOL)
def test_every_script_explains_itself_without_loading_torch(tmp_path: Path, name: str) -> None:
    result = prepare(name, tmp_path, "--help")
    assert result.returncode == 0
    for option in ("--root", "--downloads", "--archive", "--keep-archives", "--no-checksum", "--no-check-counts"):
        assert option in result.stdout
    imported = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "prunetune", "prepare", name, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert "prunetune.commands.prepare" in imported.stderr
    assert " torch" not in imported.stderr
