import os
import random
from collections import Counter
from pathlib import Path

import pytest

from prunetune.base.errors import InputError
from prunetune.data.prepare import cxrb10, deepweeds
from prunetune.data.prepare.splits import (
    SPLITS,
    Row,
    by_group,
    by_image,
    check_committed,
    committed_sha256,
    list_sha256,
    permute,
    split_sizes,
    to_csv,
)

APPLES = [f"{number}.png" for number in range(1, 11)]
# `printf 'sketch\napple\n0\napple/N.png' | sha256sum` gives this order: 144e, 16b2, 409d, 5849, 7e17 and so on.
APPLE_ORDER = [4, 6, 9, 5, 2, 1, 10, 3, 7, 8]


def test_the_permutation_is_the_order_of_sha256_digests() -> None:
    paths = [f"apple/{name}" for name in APPLES]
    expected = [f"apple/{number}.png" for number in APPLE_ORDER]
    assert permute(paths, "sketch", "apple", 0) == expected
    assert permute(paths[::-1], "sketch", "apple", 0) == expected
    assert permute(paths[:5], "sketch", "apple", 1) == [f"apple/{number}.png" for number in (3, 1, 5, 4, 2)]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [(80, (48, 16, 16)), (500, (300, 100, 100)), (1000, (600, 200, 200)), (7, (4, 1, 2)), (5, (3, 1, 1))],
)
def test_sixty_percent_are_train_twenty_val_and_the_rest_test(count: int, sizes: tuple[int, int, int]) -> None:
    assert split_sizes(count) == sizes


def test_a_class_is_split_along_its_permutation() -> None:
    rows = by_image({"apple": APPLES}, "sketch", 0)
    split = {int(row.path.split("/")[1].split(".")[0]): row.split for row in rows}
    assert [split[number] for number in APPLE_ORDER] == ["train"] * 6 + ["val"] * 2 + ["test"] * 2
    assert rows == sorted(rows)


def test_a_smaller_class_size_takes_the_front_of_the_permutation() -> None:
    rows = by_image({"apple": APPLES}, "sketch", 0, per_class=5)
    assert {row.split: row.path for row in rows if row.split != "train"} == {
        "val": "apple/5.png",
        "test": "apple/2.png",
    }
    assert [row.path for row in rows if row.split == "train"] == ["apple/4.png", "apple/6.png", "apple/9.png"]


def test_a_class_with_too_few_images_gives_a_one_line_error() -> None:
    with pytest.raises(InputError, match="sketch: pear has 4 images, 10 are needed; leave the class out"):
        by_image({"apple": APPLES, "pear": APPLES[:4]}, "sketch", 0, per_class=10)


@pytest.mark.parametrize("per_class", [4, 0, -1])
def test_a_class_size_that_leaves_a_split_empty_is_refused(per_class: int) -> None:
    with pytest.raises(InputError, match="--per-class must be at least 5"):
        by_image({"apple": APPLES}, "sketch", 0, per_class)
    with pytest.raises(InputError, match="--per-class must be at least 5"):
        by_group({"apple": APPLES}, lambda name: name, "sketch", 0, per_class)


def test_groups_are_placed_as_computed_by_hand() -> None:
    # Visiting order of the groups: 2 1 5 3 6 4 8 7. Images so far (train, val, test), after each group:
    # 2 train (1,0,0); 1 val (1,2,0); 5 test (1,2,1); 3 train (3,2,1); 6 train (4,2,1), a tie of 3/.6 and 1/.2;
    # 4 test (4,2,2); 8 train (5,2,2); 7 train (6,2,2). Permuted images: 2a 1a 7a 6a 3b 4a 5a 3a 1b 8a.
    files = {"X": ["1a", "1b", "2a", "3a", "3b", "4a", "5a", "6a", "7a", "8a"]}
    rows = by_group(files, lambda name: name[0], "toy", 0, per_class=5)
    assert rows == [
        Row("X/1a", "X", "val"),
        Row("X/2a", "X", "train"),
        Row("X/4a", "X", "test"),
        Row("X/6a", "X", "train"),
        Row("X/7a", "X", "train"),
    ]
    assert Counter(row.split for row in by_group(files, lambda name: name[0], "toy", 0, per_class=10)) == {
        "train": 6,
        "val": 2,
        "test": 2,
    }
    with pytest.raises(
        InputError, match=r"toy: train of X gets 6 of 9 images, as no group is split \(10 in the class\)"
    ):
        by_group(files, lambda name: name[0], "toy", 0, per_class=15)


@pytest.mark.parametrize("seed", range(8))
def test_groups_never_span_splits_in_any_listing_order(seed: int) -> None:
    draws = random.Random(seed)
    files: dict[str, list[str]] = {"A": [], "B": [], "C": []}
    for number in range(400):  # There are 201 patients with about two images each and with one or more findings.
        files[draws.choices("ABC", (1, 2, 5))[0]].append(f"{draws.randint(0, 200):08d}_{number:03d}.png")
    rows = by_group(files, cxrb10.patient, "toy", seed, per_class=20)
    homes = {(cxrb10.patient(row.path.split("/")[1]), row.split) for row in rows}
    assert len(homes) == len({group for group, _ in homes})
    assert Counter((row.label, row.split) for row in rows) == {
        (label, split): size for label in "ABC" for split, size in zip(SPLITS, (12, 4, 4), strict=True)
    }
    for names in files.values():
        draws.shuffle(names)
    assert by_group(dict(reversed(files.items())), cxrb10.patient, "toy", seed, per_class=20) == rows


def test_a_file_list_is_sorted_and_its_checksum_is_that_of_its_bytes() -> None:
    rows = [Row("b/2.png", "b", "test"), Row("a b/1.png", "a b", "train")]
    assert to_csv(rows) == "path,label,split\na b/1.png,a b,train\nb/2.png,b,test\n"
    # The command is printf 'path,label,split\na b/1.png,a b,train\nb/2.png,b,test\n' | sha256sum.
    assert list_sha256(rows) == "65e867f8f1515bdd92a4445db0edcf5813ad0616ed064f7c6196b02cf665cba0"
    assert rows[0].target == "test/b/2.png"


def test_a_list_that_differs_from_the_committed_one_is_refused() -> None:
    with pytest.raises(InputError, match="the file list of sketch split_seed=0 has sha256 .* pass --no-checksum"):
        check_committed("sketch split_seed=0", [Row("a/1.png", "a", "train")])
    check_committed("sketch split_seed=99", [Row("a/1.png", "a", "train")])


@pytest.fixture(scope="module")
def real_labels() -> Path:
    folder = os.environ.get("PRUNETUNE_REAL_DATA")
    if not folder:
        pytest.skip("PRUNETUNE_REAL_DATA names no folder")
    return Path(folder) / "data"


@pytest.fixture(scope="module")
def findings(real_labels: Path) -> dict[str, str]:
    lists = [real_labels / "nih_cxr" / "labels" / f"{split}_list.txt.gz" for split in SPLITS]
    assert cxrb10.is_published(lists)
    return cxrb10.read_labels(lists)


@pytest.mark.data
def test_single_finding_images_are_as_many_as_published(findings: dict[str, str]) -> None:
    assert len(findings) == 112_120
    files = cxrb10.single_findings(findings, cxrb10.FINDINGS)
    counts = {label: (len(names), len({cxrb10.patient(name) for name in names})) for label, names in files.items()}
    assert counts == {  # Each value gives the numbers of images and of patients with the 2017 labels.
        "Atelectasis": (4212, 2640),
        "Cardiomegaly": (1094, 799),
        "Consolidation": (1314, 849),
        "Edema": (634, 404),
        "Effusion": (3959, 1985),
        "Emphysema": (895, 597),
        "Fibrosis": (727, 619),
        "Hernia": (110, 79),
        "Infiltration": (9551, 5467),
        "Mass": (2138, 1361),
        "Nodule": (2706, 1891),
        "Pleural_Thickening": (1127, 892),
        "Pneumonia": (307, 275),
        "Pneumothorax": (2199, 934),
    }
    ranked = sorted(files, key=lambda label: -len(files[label]))
    assert cxrb10.CLASS_LISTS["A"] == tuple(sorted(label for label in files if len(files[label]) >= 500))[:10]
    assert cxrb10.CLASS_LISTS["B"] == tuple(sorted(ranked[:10]))


@pytest.mark.data
@pytest.mark.parametrize("classes", ["A", "B"])
@pytest.mark.parametrize("group_by", ["image", "patient"])
def test_the_real_labels_give_the_committed_lists_of_cxrb10(
    findings: dict[str, str], classes: str, group_by: str
) -> None:
    rows = cxrb10.choose(findings, classes, group_by, 0, 500)
    key = cxrb10.list_key({"classes": classes, "group_by": group_by, "split_seed": 0, "per_class": 500})
    assert list_sha256(rows) == committed_sha256(key)
    assert set(Counter((row.label, row.split) for row in rows).values()) == {300, 100}
    spans = {(cxrb10.patient(row.path.split("/")[1]), row.split) for row in rows}
    num_spanning = len(spans) - len({patient for patient, _ in spans})
    assert (num_spanning == 0) == (group_by == "patient")


@pytest.mark.data
def test_the_real_labels_give_the_committed_lists_of_deepweeds(real_labels: Path) -> None:
    folder = real_labels / "deepweeds_labels" / "labels"
    rows = deepweeds.choose([folder / "labels.csv"])
    assert list_sha256(rows) == committed_sha256("deepweeds split_seed=0 per_class=1000")
    assert Counter(row.split for row in rows) == {"train": 4800, "val": 1600, "test": 1600}
    for fold in range(5):
        rows = deepweeds.choose([folder / f"{split}_subset{fold}.csv" for split in SPLITS])
        assert list_sha256(rows) == committed_sha256(f"deepweeds official_fold={fold}")
        assert len({row.path for row in rows}) == 17_509


@pytest.mark.data
def test_deepweeds_species_are_as_many_as_published(real_labels: Path) -> None:
    rows = deepweeds.read_labels(real_labels / "deepweeds_labels" / "labels" / "labels.csv")
    counts = Counter(label for _, label in rows)
    assert [counts[label] for label in deepweeds.SPECIES] == [1125, 1064, 1031, 1022, 1062, 1009, 1074, 1016, 9106]
