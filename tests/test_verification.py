"""The store verifies each byte once, knows what does not belong to an entry, and keeps what was damaged."""

import errno
import json
import logging
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import xxhash

import damage
from prunetune.base import hashes, verification
from prunetune.base.errors import InputError
from prunetune.base.hashes import block_hashes, file_hash
from prunetune.base.store import Store, read_meta
from prunetune.base.stored_array import StoredArray
from prunetune.base.verification import HASHES, SIZES, fault_of

BEFORE = Path(__file__).parent / "golden" / "before_rooms" / "images" / "store"
VALUES = np.arange(1000, dtype=np.float32).reshape(50, 4, 5)  # A row has 80 bytes.


def write(folder, seconds=1.0):
    np.save(folder / "values.npy", VALUES)
    return {"seconds": seconds}


def made_entry(root, key=1, make=write, mapped=()):
    return Store(root).entry("features", "words", {"key": key}, make, mapped)


@pytest.fixture
def hashed(monkeypatch):
    """Return the list of the (name, block) that are hashed from now on."""
    found, block_hash = [], verification.block_hash

    def spy(path, index):
        found.append((path.name, index))
        return block_hash(path, index)

    monkeypatch.setattr(verification, "block_hash", spy)
    return found


@pytest.fixture
def blocks_of_160_bytes(monkeypatch):
    monkeypatch.setattr(hashes, "BLOCK", 160)


def stored_array(root):
    def find():
        return made_entry(root, mapped=["values.npy"])

    return StoredArray(Store(root), find, "values.npy")


@pytest.mark.parametrize("size", [0, 1, 99, 100, 101, 250])
def test_hashes_are_those_of_the_whole_file_and_of_its_blocks(tmp_path, monkeypatch, size):
    monkeypatch.setattr(hashes, "CHUNK", 30)
    monkeypatch.setattr(hashes, "BLOCK", 100)
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    assert file_hash(tmp_path / "file") == xxhash.xxh3_128_hexdigest(content)
    pieces = [content[start : start + 100] for start in range(0, max(1, size), 100)]
    assert block_hashes(tmp_path / "file") == [xxhash.xxh3_128_hexdigest(piece) for piece in pieces]


def test_an_entry_has_a_hash_of_every_file_and_is_read_once_while_its_files_stay_the_same(tmp_path, hashed):
    entry = made_entry(tmp_path)
    meta = json.loads((entry / "meta.json").read_text())
    assert set(meta[HASHES]) == {"key.json", "values.npy", "meta.json"}
    assert meta[HASHES]["values.npy"] == [file_hash(entry / "values.npy")]
    assert read_meta(entry) == {"seconds": 1.0}
    assert made_entry(tmp_path) == entry
    assert hashed == [("key.json", 0), ("values.npy", 0)]
    made_entry(tmp_path)
    assert len(hashed) == 2
    os.utime(entry / "values.npy")
    made_entry(tmp_path)
    assert hashed[2:] == [("values.npy", 0)]


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda entry: (entry / "more.npy").write_bytes(b"x"), "more.npy does not belong to it"),
        (lambda entry: (entry / "more").mkdir(), "more does not belong to it"),
        (lambda entry: (entry / "values.npy").unlink(), "values.npy is gone"),
        (lambda entry: damage.damage(entry / "values.npy", damage.zero_a_page), "values.npy has changed between"),
        (lambda entry: edit_meta(entry, seconds=2.0), "meta.json has changed"),
        (lambda entry: edit_meta(entry, **{HASHES: {}}), "key.json does not belong to it"),
        (lambda entry: (entry / "key.json").write_text('{"key": 2}'), "key.json is that of another entry"),
        (lambda entry: (entry / "key.json").unlink(), "key.json"),
        (lambda entry: (entry / "meta.json").write_text("[]"), "meta.json"),
        (lambda entry: (shutil.rmtree(entry), entry.write_text("")), "Not a directory"),
    ],
)
def test_what_is_wrong_with_an_entry_is_said_and_the_entry_made_again(tmp_path, caplog, spoil, fault):
    entry = made_entry(tmp_path)
    spoil(entry)
    assert fault in fault_of(entry)
    assert made_entry(tmp_path) == entry
    assert fault_of(entry) is None
    assert fault in caplog.text
    [kept] = (tmp_path / "damaged").iterdir()
    assert f"is moved to {kept} and is made again" in caplog.text


def edit_meta(entry, **changes):
    meta = json.loads((entry / "meta.json").read_text())
    (entry / "meta.json").write_text(json.dumps({**meta, **changes}))


def test_hidden_files_are_not_ours(tmp_path):
    entry = made_entry(tmp_path)
    (entry / ".nfs0001").write_text("left by a network disk")
    assert fault_of(entry) is None


def test_an_entry_that_may_not_be_read_is_one_line_and_stays(tmp_path, monkeypatch):
    entry = made_entry(tmp_path)

    def refused(path, index):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))

    monkeypatch.setattr(verification, "block_hash", refused)
    with pytest.raises(InputError, match=r"cannot be read .*Permission denied"):
        made_entry(tmp_path)
    assert entry.is_dir()


def test_at_most_ten_damaged_entries_are_kept_and_the_oldest_goes(tmp_path):
    for number in range(12):
        damage.damage(made_entry(tmp_path, key=number) / "values.npy", damage.flip_a_bit)
        made_entry(tmp_path, key=number)
    kept = sorted((tmp_path / "damaged").iterdir())
    keys = [json.loads(next(place.rglob("key.json")).read_text())["key"] for place in kept]
    assert keys == list(range(2, 12))


def test_the_cost_of_a_long_entry_is_said_before_it_is_made_again(tmp_path, caplog):
    said = []

    def long(folder):
        said.append(caplog.text)
        return write(folder, seconds=1380.0)

    damage.damage(made_entry(tmp_path, make=long) / "values.npy", damage.flip_a_bit)
    made_entry(tmp_path, make=long)
    assert said[0] == ""
    assert "is made again, which took 23 minutes the first time" in said[1]


def test_an_entry_of_an_older_store_is_used_and_gets_hashes_with_one_line(tmp_path, caplog):
    store = Store(shutil.copytree(BEFORE, tmp_path / "store"))
    entries = damage.entries(store.root, "scores")
    assert len(entries) == 2
    before = [read_meta(entry) for entry in entries]
    with caplog.at_level(logging.INFO):
        assert all(store.is_sound(entry) for entry in entries)
    [line] = [record.getMessage() for record in caplog.records]
    assert line == f"{entries[0]} is from before the store kept hashes: such entries are used and get them now"
    assert [read_meta(entry) for entry in entries] == before
    assert all(set(json.loads((entry / "meta.json").read_text())) >= {HASHES, SIZES} for entry in entries)
    damage.damage(entries[0] / "scores.csv", damage.flip_a_bit)
    assert not store.is_sound(entries[0])


def test_an_older_store_that_cannot_be_written_is_used(tmp_path, monkeypatch):
    store = Store(shutil.copytree(BEFORE, tmp_path / "store"))

    def refused(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(verification, "new_file", refused)
    assert all(store.is_sound(entry) for entry in damage.entries(store.root, "scores"))


@pytest.mark.parametrize(
    "index",
    [
        *(0, -1, slice(None), slice(3, 9), slice(40, 2, -1), slice(5, 5), slice(-3, None), np.int64(7)),
        *([4, 40, 4], np.array([49]), np.arange(50) % 9 == 0, np.zeros(50, bool), np.array([], np.int64)),
        *((slice(None), 2), (slice(0, 4), [1, 3]), (3, 1, 2), (np.array([1, 30]), slice(1, 3)), ..., None, ()),
    ],
)
def test_a_part_of_a_stored_array_is_that_of_the_array_and_costs_only_its_blocks(
    blocks_of_160_bytes, tmp_path, hashed, index
):
    array = stored_array(tmp_path)
    assert (array.shape, len(array)) == (VALUES.shape, 50)
    assert ("values.npy", 0) in hashed  # The block with the header.
    part = array[index]
    np.testing.assert_array_equal(part, VALUES[index])
    assert part.flags.writeable
    first = index[0] if isinstance(index, tuple) and index else index
    rows = np.arange(50)[slice(None) if first is None else first].reshape(-1)
    touched = {byte // 160 for row in rows for byte in range(128 + 80 * row, 128 + 80 * row + 80)}
    assert {block for name, block in hashed if name == "values.npy"} == touched | {0}
    hashed.clear()
    np.testing.assert_array_equal(stored_array(tmp_path)[index], VALUES[index])
    assert "values.npy" not in dict(hashed)  # Another object of the same process does not read them again.


def test_a_damaged_block_is_found_when_it_is_read_and_by_every_reader(blocks_of_160_bytes, tmp_path, caplog):
    first, second = stored_array(tmp_path), stored_array(tmp_path)
    damage.damage(made_entry(tmp_path, mapped=["values.npy"]) / "values.npy", damage.zero_a_page)
    array = stored_array(tmp_path)
    np.testing.assert_array_equal(array[:2], VALUES[:2])
    assert caplog.text == ""
    for reader in (array, first, second):
        np.testing.assert_array_equal(reader[:], VALUES)
    assert caplog.text.count("is damaged (values.npy has changed between byte") == 1


def test_an_entry_that_is_damaged_again_and_again_is_one_line(blocks_of_160_bytes, tmp_path):
    def find():
        entry = made_entry(tmp_path, mapped=["values.npy"])
        damage.damage(entry / "values.npy", damage.zero_a_page)
        return entry

    array = StoredArray(Store(tmp_path), find, "values.npy")
    with pytest.raises(InputError, match=r"values\.npy is damaged again .* check the disk"):
        array[40]
