"""`prunetune prune`: one command on own images, a folder of results, and the same outcome as prune() in Python."""

import csv
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from made_data import make_image, make_image_folder
from prunetune import prune
from prunetune.base.errors import InputError
from prunetune.data.readers import Textures
from prunetune.own.command import unequal_classes
from prunetune.own.keep import Keep
from prunetune.own.read import read_embeddings
from runs import prunetune_here

COUNTS = {"bark": 12, "moss": 9, "sand": 6}
WRITTEN = ["all.csv", "kept.csv", "kept.txt", "prune.json", "report.html"]


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return make_image_folder(tmp_path_factory.mktemp("own") / "photos", COUNTS)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tmp_path_factory.mktemp("store")


def command(data, *words, store, out):
    return prunetune_here("prune", str(data), *words, "--backbone", "micro", "--store", str(store), "--out", str(out))


def kept_rows(out):
    with (out / "kept.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_a_folder_is_pruned_and_what_was_understood_is_said_first(photos, store, tmp_path):
    done = command(photos, "--keep", "33%", store=store, out=tmp_path / "out")
    assert done.returncode == 0, done.stderr
    lines = done.stderr.splitlines()
    assert lines[0] == "keep 33 % of each class"
    assert lines[1] == "27 images, 3 classes: bark 12, moss 9, sand 6"
    assert f"features and scores are kept in {store}" in lines
    assert lines[-1] == "kept 9 of 27 by herding with topk"
    assert sorted(done.stdout.split()) == [str(tmp_path / "out" / name) for name in WRITTEN if name != "prune.json"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == WRITTEN
    assert (tmp_path / "out" / "kept.txt").read_text().split() == [row["name"] for row in kept_rows(tmp_path / "out")]


def test_very_unequal_classes_are_named_with_the_option_for_them():
    features = torch.eye(44)
    rare = read_embeddings(features, ["rare"] * 4 + ["frequent"] * 40)
    assert re.search("4 to 40 samples.* --per-class", unequal_classes(rare, Keep(fraction=0.5)))
    assert unequal_classes(rare, Keep(per_class=2)) == ""
    assert unequal_classes(read_embeddings(features, ["a"] * 14 + ["b"] * 30), Keep(fraction=0.5)) == ""
    assert unequal_classes(read_embeddings(features), Keep(count=3)) == ""


def test_the_command_and_the_function_keep_the_same_images(photos, store, tmp_path):
    assert command(photos, "--keep", "10", "--seed", "3", store=store, out=tmp_path / "out").returncode == 0
    subset = prune(photos, 10, backbone="micro", seed=3)
    assert [int(row["row"]) for row in kept_rows(tmp_path / "out")] == subset.positions.tolist()
    assert [row["name"] for row in kept_rows(tmp_path / "out")] == list(subset.kept_names)
    assert len(subset) == 10


def test_the_same_command_returns_at_once_and_another_amount_reuses_the_scores(photos, store, tmp_path, monkeypatch):
    out = tmp_path / "out"
    assert command(photos, "--keep", "0.2", store=store, out=out).returncode == 0
    before = (out / "report.html").stat().st_mtime_ns
    monkeypatch.setattr("prunetune.signals.network.embed", None)
    again = command(photos, "--keep", "0.2", store=store, out=out)
    assert (again.returncode, (out / "report.html").stat().st_mtime_ns) == (0, before)
    assert "finished before" in again.stderr
    other = command(photos, "--per-class", "2", store=store, out=out)
    assert other.returncode == 0, other.stderr
    assert len(kept_rows(out)) == 6


def test_a_changed_file_of_the_outcome_is_written_again(photos, store, tmp_path):
    out = tmp_path / "out"
    command(photos, "--keep", "0.2", store=store, out=out)
    whole = (out / "all.csv").read_bytes()
    (out / "all.csv").write_bytes(whole[:-5])
    assert "finished before" not in command(photos, "--keep", "0.2", store=store, out=out).stderr
    assert (out / "all.csv").read_bytes() == whole


def test_a_folder_that_something_else_has_written_is_refused_and_stays(photos, store, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("words")
    done = command(photos, "--keep", "0.2", store=store, out=tmp_path / "out")
    assert done.returncode == 1
    assert "holds thesis.tex, which `prunetune prune` has not written; give a new or empty folder" in done.stderr
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["thesis.tex"]


def test_the_folder_of_the_data_or_one_above_it_is_refused(photos, store):
    for out in (photos, photos.parent):
        done = command(photos, "--keep", "0.2", store=store, out=out)
        assert (done.returncode, "holds the data themselves" in done.stderr) == (1, True)


def test_an_outcome_inside_the_data_is_not_scanned(store, tmp_path):
    photos = make_image_folder(tmp_path / "photos", {"bark": 6, "moss": 6})
    for _ in range(2):
        done = command(photos, "--keep", "0.5", "--export", "copy", store=store, out=photos / "pruned")
        assert done.returncode == 0, done.stderr
        assert "12 images, 2 classes: bark 6, moss 6" in done.stderr
    assert len(list((photos / "pruned" / "images").rglob("*.jpg"))) == 6
    other = command(photos, "--keep", "0.5", "--export", "copy", store=store, out=photos / "bark" / "again")
    assert "12 images, 2 classes: bark 6, moss 6" in other.stderr
    assert "1 left out (folders that an earlier prune has written): pruned/" in other.stderr


def test_a_failure_leaves_no_half_written_folder(photos, store, tmp_path, monkeypatch):
    def full_disk(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("prunetune.own.command.write_page", full_disk)
    done = command(photos, "--keep", "0.2", store=store, out=tmp_path / "out")
    assert done.returncode == 1
    assert re.search("could not be written .*No space left.*free some space or give --out", done.stderr)
    assert list(tmp_path.iterdir()) == []


def test_a_dry_run_writes_nothing(photos, tmp_path):
    done = command(photos, "--keep", "0.2", "--dry-run", store=tmp_path / "store", out=tmp_path / "out")
    assert (done.returncode, done.stdout, list(tmp_path.iterdir())) == (0, "", [])
    assert "27 images, 3 classes" in done.stderr


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "exactly one of --keep, --ratio, --per-class"),
        (["--keep", "0.2", "--per-class", "3"], "got --keep and --per-class"),
        (["--keep", "28"], "there are 27 candidates, so that 28 cannot be kept"),
        (["--keep", "0"], "--keep must be a whole number of at least 1, got 0"),
        (["--keep", "1.5"], "--keep as a fraction must be above 0 % and at most 100 %, got 1.5"),
        (["--keep", "0.2", "--scorer", "herdng"], "no scorer 'herdng'.*Did you mean 'herding'"),
        (["--keep", "0.2", "--sampler", "rs2"], "no sampler 'rs2'"),
        (["--keep", "0.2", "--device", "tpu"], "device must be auto, cpu, cuda or mps, got 'tpu'"),
        (["--keep", "0.2", "--labels", "y.npy"], "--labels and --ids belong to --embeddings"),
        (["--keep", "0.2", "--labels-from", "none", "--scorer", "dlc"], "dlc reads labels, and these data have none"),
        (["--keep", "0.2", "--label-column", "kind"], "--label-column kind is of no use for a folder of images"),
    ],
)
def test_a_mistake_is_one_line_in_the_words_of_the_command(photos, store, tmp_path, words, message):
    done = command(photos, *words, store=store, out=tmp_path / "out")
    assert (done.returncode, done.stdout) == (1, "")
    assert re.search(message, done.stderr.splitlines()[-1])
    assert "Traceback" not in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_of_copies_one_is_kept_and_the_rest_is_named(store, tmp_path):
    photos = make_image_folder(tmp_path / "photos", {"bark": 6, "moss": 6})
    for path in list(photos.rglob("*.jpg")):
        for number in (1, 2):
            shutil.copy(path, path.with_stem(f"{path.stem}_{number}"))
    done = command(photos, "--keep", "0.3", store=store, out=tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "24 duplicates in 12 groups are set aside" in done.stderr
    kept = kept_rows(tmp_path / "out")
    assert len(kept) == 11
    assert len({row["duplicate_group"] for row in kept}) == 11
    done = command(photos, "--keep", "0.5", store=store, out=tmp_path / "out")
    assert "6 fewer are kept than asked for, since nothing that was set aside is kept" in done.stderr
    assert command(photos, "--keep", "0.5", "--duplicates", "all", store=store, out=tmp_path / "out").returncode == 0
    assert len(kept_rows(tmp_path / "out")) == 18


def test_images_with_suspect_labels_are_left_out_on_request_and_named(store, tmp_path):
    pool = Textures(num_pool=100, num_test=100, size=64).pool("train")
    for position, label in enumerate(pool.labels.tolist()):
        if label < 2:
            wrong = position in torch.nonzero(pool.labels < 2).flatten()[:2].tolist()
            folder = tmp_path / "photos" / "ab"[label ^ wrong]
            folder.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pool.images.pixels[position]).save(folder / f"{position}.png")
    done = command(tmp_path / "photos", "--keep", "0.5", "--suspects", "drop", store=store, out=tmp_path / "out")
    assert done.returncode == 0, done.stderr
    with (tmp_path / "out" / "all.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    dropped = [line for line in lines if line["reason"].startswith("suspect label: looks like ")]
    assert 0 < len(dropped) < len(lines) / 2
    assert {line["kept"] for line in dropped} == {"0"}
    assert len(kept_rows(tmp_path / "out")) == len(lines) / 2
    assert f"{len(dropped)} samples with suspect labels are left out" in done.stderr
    assert "; these samples were left out" in (tmp_path / "out" / "report.html").read_text()


def test_an_image_in_two_classes_and_one_in_two_splits_are_reported(store, tmp_path, caplog):
    photos = tmp_path / "photos"
    make_image_folder(photos / "train", {"bark": 5, "moss": 5})
    make_image_folder(photos / "test", {"fern": 3, "tree": 3})
    shutil.copy(photos / "train" / "bark" / "image_0000.jpg", photos / "train" / "moss" / "again.jpg")
    shutil.copy(photos / "train" / "moss" / "image_0001.jpg", photos / "test" / "fern" / "seen.jpg")
    done = command(photos, "--keep", "0.5", store=store, out=tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert "1 groups of duplicates have several labels" in done.stderr
    assert "1 candidates are also in another split" in done.stderr
    page = (tmp_path / "out" / "report.html").read_text()
    assert "test/fern/seen.jpg" in page


def test_images_that_cannot_be_read_stop_the_command_or_are_left_out(store, tmp_path):
    photos = make_image_folder(tmp_path / "photos", {"bark": 6, "moss": 6})
    (photos / "bark" / "bad.jpg").write_text("text")
    (photos / "moss" / "worse.png").write_bytes(b"")
    done = command(photos, "--keep", "0.5", store=store, out=tmp_path / "out")
    assert done.returncode == 1
    assert "2 of 14 images cannot be read: bark/bad.jpg" in done.stderr
    assert "moss/worse.png" in done.stderr.splitlines()[-1]
    done = command(photos, "--keep", "0.5", "--on-error", "skip", store=store, out=tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert len(kept_rows(tmp_path / "out")) == 6
    assert "bark/bad.jpg" in (tmp_path / "out" / "all.csv").read_text()
    [remembered] = store.glob("unreadable/*/failures.json")
    remembered.write_text(remembered.read_text().replace("0", "1", 1))
    again = command(photos, "--keep", "4", "--on-error", "skip", store=store, out=tmp_path / "out")
    assert again.returncode == 0, again.stderr
    assert "is damaged (failures.json" in again.stderr
    assert "2 of 14 images cannot be read and are left out" in again.stderr


def test_images_without_labels_are_pruned_as_one_class(store, tmp_path):
    for number in range(8):
        make_image(tmp_path / "flat" / f"{number}.jpg", f"class {number}")
    done = command(tmp_path / "flat", "--keep", "3", store=store, out=tmp_path / "out")
    assert "8 images without labels" in done.stderr
    assert [row["class"] for row in kept_rows(tmp_path / "out")] == [""] * 3
    assert "the data have no labels" in (tmp_path / "out" / "report.html").read_text()


def test_embeddings_are_pruned_in_the_callers_order_on_both_doors(store, tmp_path):
    generator = np.random.default_rng(0)
    rows, labels = generator.normal(size=(40, 8)).astype(np.float32), np.array(["a", "b"] * 20)
    np.save(tmp_path / "x.npy", rows)
    np.save(tmp_path / "y.npy", labels)
    words = ["--embeddings", str(tmp_path / "x.npy"), "--labels", str(tmp_path / "y.npy"), "--keep", "0.25"]
    done = prunetune_here("prune", *words, "--store", str(store), "--out", str(tmp_path / "out"))
    assert done.returncode == 0, done.stderr
    subset = prune(embeddings=rows, labels=labels, keep=0.25)
    assert [int(row["row"]) for row in kept_rows(tmp_path / "out")] == subset.positions.tolist()
    row, label = subset.as_torch()[3]
    assert torch.equal(row, torch.from_numpy(rows[subset.positions[3]]))
    assert "ab"[label] == labels[subset.positions[3]]
    with pytest.raises(InputError, match="embeddings have no images to export"):
        subset.as_hf()
    order = np.random.default_rng(1).permutation(40)
    moved = prune(embeddings=rows[order], labels=labels[order], keep=0.25)
    assert {int(order[position]) for position in moved.positions.tolist()} == set(subset.positions.tolist())
    exported = prunetune_here("prune", *words, "--export", "copy", "--out", str(tmp_path / "images"))
    assert exported.stderr.splitlines()[-1].startswith("error: embeddings have no images to export")
    assert "kept in" not in exported.stderr  # It is said before anything is computed.
    with pytest.raises(InputError, match="reads features of 50 masked networks"):
        prune(embeddings=rows, labels=labels, keep=0.25, scorer="dlc_50")


class Mean(nn.Module):
    """A stand-in for somebody's own network: the colours of a coarse grid."""

    def forward(self, images):
        return nn.functional.adaptive_avg_pool2d(images, 4).flatten(1)


def test_a_module_of_ones_own_gives_the_features(photos):
    own = Mean()
    subset = prune(photos, 0.3, backbone=own)
    assert len(subset) == 8
    assert not hasattr(own, "num_features")  # The user's module is unchanged.
    with pytest.raises(InputError, match=r"maps images .* to features \[B, D\]; Identity gives \[1, 3, 224, 224\]"):
        prune(photos, 0.3, backbone=nn.Identity())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "error: --checkpoint: .*weights.pth is not a file; pass a .safetensors file or a torch file of weights"),
        ({"stem.0.bias": torch.zeros(2)}, "error: .* does not fit the model: .*; check --backbone"),
    ],
)
def test_wrong_weights_are_one_line_in_the_words_of_the_command(photos, store, tmp_path, content, message):
    if content is not None:
        torch.save(content, tmp_path / "weights.pth")
    words = ("--keep", "0.5", "--checkpoint", str(tmp_path / "weights.pth"))
    done = command(photos, *words, store=store, out=tmp_path / "out")
    assert done.returncode == 1
    assert re.fullmatch(message, done.stderr.splitlines()[-1])


def test_missing_weights_without_a_network_are_one_line_that_names_the_checkpoint(photos, store, tmp_path, monkeypatch):
    monkeypatch.setattr("prunetune.base.hub.is_reachable", lambda: False)
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    words = ["--keep", "0.2", "--backbone", "resnet18", "--store", str(store), "--out", str(tmp_path / "out")]
    done = prunetune_here("prune", str(photos), *words)
    assert done.returncode == 1
    assert re.search("the weights of resnet18.* --checkpoint", done.stderr.splitlines()[-1])


def test_the_report_is_one_file_that_needs_no_network(photos, store, tmp_path):
    command(photos, "--keep", "0.4", store=store, out=tmp_path / "out")
    page = (tmp_path / "out" / "report.html").read_text()
    assert re.findall(r'(?:src|href)="(?!#|data:)[^"]*"', page) == []
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert all(f">{name}</th>" in page for name in COUNTS)
    assert page.count('<img src="data:image/jpeg;base64,') == page.count(" alt=")
    assert 'lang="en"' in page


def test_a_count_below_the_number_of_classes_is_met(photos):
    assert len(prune(photos, 2, backbone="micro")) == 2


def test_scores_are_the_same_whatever_the_amount(photos):
    some, more = (prune(photos, keep, backbone="micro", scorer="dlc") for keep in (0.2, 0.5))
    assert torch.equal(some.scores, more.scores)
