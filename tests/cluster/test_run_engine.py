"""`run.py engine=ray` on a real Ray: the same scores, subset and accuracy as in one process."""

import numpy as np
import pytest
from PIL import Image

from made_data import make_dtd
from prunetune.base.errors import InputError
from runs import MICRO, lasting, read_result, run_here

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(900), pytest.mark.filterwarnings("default")]
QUICK = [*MICRO, "finetune.views=0", "finetune.epochs=1", "wandb=disabled", "precision=fp32", "ratio=0.3"]


def scores_of(results):
    [path] = results.glob("store/scores/*/scores.csv")
    return np.loadtxt(path, delimiter=",", skiprows=1, usecols=3)


@pytest.mark.usefixtures("on_ray")
def test_images_of_files_are_opened_by_the_workers(tmp_path):
    root = make_dtd(tmp_path / "dtd", per_split={"train": 30, "val": 2, "test": 4})
    words = ["dataset=dtd", f"dataset.root={root}", "dataset.num_classes=3", "dataset.num_pool=96"]
    words += ["dataset.num_test=12", *QUICK, "scorer=dlc", "batch_size=16"]
    far = run_here(tmp_path / "far", *words, "engine=ray")
    near = run_here(tmp_path / "near", *words)
    results = lasting(read_result(far)), lasting(read_result(near))
    assert [one.pop("engine") for one in results] == ["ray", "local"]
    assert results[0] == results[1]
    assert (far / "subset.csv").read_bytes() == (near / "subset.csv").read_bytes()
    np.testing.assert_array_equal(scores_of(tmp_path / "far"), scores_of(tmp_path / "near"))
    broken = sorted((root / "images").rglob("*.jpg"))[0]
    broken.write_bytes(b"no image")
    with pytest.raises(InputError, match=r"1 of 96 images cannot be read, first: .*banded_0001\.jpg"):
        run_here(tmp_path / "broken", *words, "engine=ray")


@pytest.mark.usefixtures("on_ray")
def test_images_behind_functions_reach_the_workers(tmp_path):
    datasets = pytest.importorskip("datasets")
    images = [Image.fromarray(np.full((20, 20, 3), 2 * row, dtype=np.uint8)) for row in range(60)]
    features = datasets.Features(
        {"image": datasets.Image(), "label": datasets.ClassLabel(names=["dark", "middle", "bright"])}
    )
    table = datasets.Dataset.from_dict({"image": images, "label": [row // 20 for row in range(60)]}, features)
    datasets.DatasetDict({"train": table}).save_to_disk(tmp_path / "saved")
    words = ["dataset=hf_images", f"dataset.id={tmp_path / 'saved'}", *QUICK, "scorer=herding", "until=score"]
    run_here(tmp_path / "far", *words, "engine=ray")
    run_here(tmp_path / "near", *words)
    np.testing.assert_array_equal(scores_of(tmp_path / "far"), scores_of(tmp_path / "near"))
