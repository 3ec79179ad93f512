"""Every form of data, on this machine and in object storage, is read as the engine in process reads its local copy."""

import pytest

from cluster_inputs import archives, photos, shards, vectors
from prunetune.api import prune
from prunetune.base.errors import InputError
from prunetune.own.read import ReadOptions

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]
SETTINGS = {
    "keep": 0.25,
    "scorer": "random",
    "backbone": "micro",
    "duplicates": "all",
}  # The images are decoded, and no network runs.


@pytest.fixture(scope="module")
def bucket(s3):
    """Return a function that copies a folder into the bucket `lab`."""
    import s3fs

    system = s3fs.S3FileSystem(skip_instance_cache=True)
    system.mkdir("lab")
    return lambda folder: system.put(str(folder), f"lab/{folder.name}", recursive=True)


def check(data, local, store, **options):
    """Compare what both engines keep of data and of their local copy."""
    chosen = prune(data, engine="ray", store=store / "ray", **SETTINGS, **options)
    here = prune(local, store=store / "here", **SETTINGS, **options)
    assert chosen.kept_names == here.kept_names
    assert len(chosen.data.pool) == len(here.data.pool)
    assert chosen.data.pool.classes == here.data.pool.classes
    assert chosen.pool_scores.equal(here.pool_scores)


def test_parquet_files(on_ray, bucket, tmp_path):
    data = shards(tmp_path / "photos-in-parquet")
    bucket(data)
    check(data, data, tmp_path)
    check("s3://lab/photos-in-parquet", data, tmp_path)
    check("s3://lab/photos-in-parquet/00*.parquet", data, tmp_path)


def test_archives(on_ray, bucket, tmp_path):
    data = archives(tmp_path / "tars")
    bucket(data)
    check(data, data, tmp_path)
    check("s3://lab/tars", data, tmp_path)
    names = sorted((path.name for path in data.glob("*.tar")), reverse=True)
    check([f"s3://lab/tars/{name}" for name in names], [str(data / name) for name in names], tmp_path)


def test_folders_and_lists_of_images(on_ray, bucket, tmp_path):
    data = photos(tmp_path / "photos")
    bucket(data)
    check(data, data, tmp_path)
    check("s3://lab/photos", data, tmp_path)
    check(data / "photos.csv", data / "photos.csv", tmp_path)
    check("s3://lab/photos/photos.csv", data / "photos.csv", tmp_path)
    listed = photos(tmp_path / "listed")
    (listed / "metadata.csv").write_text((listed / "photos.csv").read_text().replace("path,", "file_name,", 1))
    bucket(listed)
    check("s3://lab/listed", listed, tmp_path)
    check("s3://lab/listed", listed, tmp_path, read_as=ReadOptions(labels_from="folders"))


def test_a_list_that_holds_no_paths(on_ray, bucket, tmp_path):
    folder = tmp_path / "no-paths"
    folder.mkdir()
    (folder / "list.jsonl").write_text('{"image": {"path": "a.png"}, "label": "moss"}\n')
    bucket(folder)
    with pytest.raises(InputError, match=r"list\.jsonl should name each image by a path or an address"):
        prune("s3://lab/no-paths/list.jsonl", engine="ray", store=tmp_path / "ray", **SETTINGS)


def test_an_object_that_a_list_names_and_that_is_not_there(on_ray, bucket, tmp_path):
    data = photos(tmp_path / "gaps")
    (data / "bark/000.png").unlink()
    bucket(data)
    with pytest.raises(InputError, match=r"1 of 12 images cannot be read: bark/000\.png"):
        prune("s3://lab/gaps/photos.csv", engine="ray", store=tmp_path / "ray", **SETTINGS)
    check("s3://lab/gaps/photos.csv", data / "photos.csv", tmp_path, on_error="skip")


def test_embeddings(on_ray, bucket, tmp_path):
    folder = tmp_path / "vectors"
    folder.mkdir()
    values, labels = vectors(folder / "part.parquet")
    bucket(folder)
    settings = {**SETTINGS, "scorer": "herding"}
    here = prune(embeddings=values, labels=labels, **settings)
    for place in (folder, "s3://lab/vectors"):
        chosen = prune(embeddings=place, engine="ray", store=tmp_path / "store", **settings)
        assert chosen.positions.equal(here.positions)
