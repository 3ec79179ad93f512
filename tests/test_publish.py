"""Files and folders are published completely or not at all."""

import json

import pytest

from prunetune.base.publish import TakenError, new_file, new_folder, remove, write_json


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("synced", [False, True])
def test_a_file_keeps_its_old_content_until_the_new_one_is_whole(tmp_path, synced):
    path = tmp_path / "new" / "result.json"
    with new_file(path) as partial:
        write_json(partial, {"b": 1, "a": 2})
        assert not path.exists()
    with new_file(path, synced) as partial:
        partial.write_text("{}")
        assert json.loads(path.read_text()) == {"a": 2, "b": 1}
    assert path.read_text() == "{}"
    assert names_in(path.parent) == ["result.json"]


def test_an_error_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("old")
    with pytest.raises(FileNotFoundError), new_file(path) as partial:
        (partial.write_text("half"), (tmp_path / "nowhere" / "file").write_text("content"))
    assert path.read_text() == "old"
    assert names_in(tmp_path) == ["rows.csv"]


@pytest.mark.parametrize("synced", [False, True])
def test_a_folder_replaces_an_empty_one_and_never_one_with_content(tmp_path, synced):
    place = tmp_path / "entry"
    place.mkdir()
    with new_folder(place, synced) as partial:
        (partial / "file").write_text("first")
    with pytest.raises(TakenError, match="entry exists already"), new_folder(place, synced) as partial:
        (partial / "file").write_text("second")
    assert (place / "file").read_text() == "first"
    assert names_in(tmp_path) == ["entry"]


def test_a_removed_folder_is_gone_and_a_second_removal_finds_nothing(tmp_path):
    place = tmp_path / "entry"
    place.mkdir()
    (place / "file").write_text("content")
    remove(place)
    remove(place)
    assert names_in(tmp_path) == []
