"""Sub-pools: the draw itself, the key dataset.subpool, and runs and grids on a part of the training images."""

import hashlib
import json

import pytest
import torch

from prunetune.base.errors import InputError
from prunetune.config.identity import differences
from prunetune.config.names import resolve_names
from prunetune.config.parse import build_dataset
from prunetune.config.subpool import subpool_of
from prunetune.config.words import with_lists
from prunetune.data.pool import Pool
from prunetune.data.readers import DTD, Textures
from prunetune.data.subpool import SubpoolDataset, subpool
from prunetune.report import collect
from runs import SMALL, compose_here, grid_here, lasting, read_result, read_rows, run_here

SEARCH = ["gamma_search.grid=[0.25,0.5]", "gamma_search.repeats=1"]
PART = "dataset.subpool=[0.5,3]"


def pool_of(counts, order=None):
    """Return a pool with classes of these sizes. order: the order in which its images are listed."""
    rows = [(f"c{label}/{number}.png", label) for label, count in enumerate(counts) for number in range(count)]
    rows = rows if order is None else [rows[i] for i in order]
    ids, labels = zip(*rows, strict=True)
    return Pool("made", torch.tensor(labels), ids, ("train",) * len(ids), tuple("abcdef"[: len(counts)]))


def drawn(pool, fraction, seed):
    return {pool.sample_ids[i] for i in subpool(pool, fraction, seed).tolist()}


def test_the_smallest_hashes_of_each_class_are_drawn():
    pool = pool_of([7, 20, 1])
    expected = set()
    for label, count in enumerate([4, 10, 1]):  # round(3.5) is 4, and every class keeps an image.
        ids = [name for name in pool.sample_ids if name.startswith(f"c{label}/")]
        expected |= set(sorted(ids, key=lambda name: hashlib.sha256(f"3:{name}".encode()).digest())[:count])
    assert drawn(pool, 0.5, 3) == expected
    positions = subpool(pool, 0.5, 3)
    assert positions.dtype == torch.int64
    assert torch.equal(positions, positions.sort().values)


def test_a_draw_is_the_same_for_ever():
    pool = pool_of([5, 5])
    assert subpool(pool, 0.4, 0).tolist() == [2, 3, 5, 8]


def test_a_draw_does_not_depend_on_the_order_and_smaller_parts_lie_within_larger_ones():
    whole = pool_of([9, 30])
    shuffled = pool_of([9, 30], torch.randperm(39, generator=torch.Generator().manual_seed(0)).tolist())
    assert drawn(whole, 0.3, 1) == drawn(shuffled, 0.3, 1)
    assert drawn(whole, 0.3, 1) < drawn(whole, 0.8, 1) < drawn(whole, 1, 1) == set(whole.sample_ids)
    assert drawn(whole, 0.3, 1) != drawn(whole, 0.3, 2)
    assert drawn(whole, 0.001, 1) <= drawn(whole, 0.3, 1)
    assert len(drawn(whole, 0.001, 1)) == 2


@pytest.mark.parametrize(("fraction", "seed"), [(0, 0), (1.1, 0), (float("nan"), 0), (0.5, -1), (0.5, 1.5), ("a", 0)])
def test_no_part_is_drawn_with_another_fraction_or_seed(fraction, seed):
    with pytest.raises(InputError, match="of a sub-pool must be"):
        subpool(pool_of([3, 3]), fraction, seed)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (0.8, r"dataset.subpool must be a fraction and a seed, such as dataset.subpool=0.8,3, .*, got 0.8$"),
        ("0.8,3", "must be a fraction and a seed"),
        ([0.8], r"must be a fraction and a seed, .*, got \[0.8\]"),
        ([0.8, 3, 1], "must be a fraction and a seed"),
        ([2, 3], r"the fraction of dataset.subpool must be in \(0, 1\], got 2"),
        (["a", 3], r"the fraction of dataset.subpool must be in \(0, 1\], got 'a'"),
        ([0.8, -1], "the seed of dataset.subpool must be a whole number of at least 0, got -1"),
        ([0.8, 3.5], "the seed of dataset.subpool must be a whole number of at least 0, got 3.5"),
    ],
)
def test_another_value_of_the_key_is_refused_in_one_line(value, message):
    with pytest.raises(InputError, match=message):
        subpool_of({"subpool": value})


def test_a_command_line_needs_neither_brackets_nor_quotes():
    words = ["dataset.subpool=0.8,3", "+dataset.subpool=2,-1", "ratio=0.1,0.5"]
    assert with_lists(words) == ["dataset.subpool=[0.8,3]", "+dataset.subpool=[2,-1]", "ratio=0.1,0.5"]
    others = ["dataset.subpool=[0.8,3],[0.8,4]", "dataset.subpool=null", "dataset.subpool=0.8", "dataset.subpool=1,2,3"]
    assert with_lists(others) == others


def test_every_data_set_has_the_key_and_its_name_tells_sub_pools_apart(tmp_path):
    cfg = compose_here(tmp_path, "dataset=dtd", "dataset.subpool=[0.8,3]", "dataset.name=dtd10")
    assert resolve_names(cfg).dataset == "dtd10_subpool_0.8_3"
    whole = compose_here(tmp_path, "dataset=dtd", config="grid")
    assert (whole.dataset.subpool, resolve_names(whole).dataset) == (None, "dtd")
    assert build_dataset(whole.dataset) == DTD()
    assert build_dataset(cfg.dataset) == SubpoolDataset(DTD(name="dtd10"), 0.8, 3)


def test_a_run_from_before_the_key_is_a_run_on_the_whole_pool():
    before = {"dataset": {"name": "dtd"}}
    assert differences(before, {"dataset": {"name": "dtd", "subpool": None}}) == []
    now = {"dataset": {"name": "dtd", "subpool": [0.8, 3]}}
    assert differences(before, now) == [("dataset.subpool", None, [0.8, 3])]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the results folder of a finished grid on half of the pool."""
    results = tmp_path_factory.mktemp("grid")
    grid_here(results, *SMALL, *SEARCH, PART, "methods=[dlc,random]", "ratios=[0.3]", "seeds=[1]")
    return results


def test_a_run_scores_and_prunes_the_sub_pool_alone_and_tests_on_the_whole_test_set(finished):
    [path] = (finished / "runs").glob("textures_subpool_0.5_3/micro/linear_probe/random-random/*/*/*/result.json")
    result, whole = read_result(path.parent), Textures(100, 100, 16)
    pool = whole.pool("train")
    assert result["dataset"] == "textures_subpool_0.5_3"
    assert result["subpool"] == {"fraction": 0.5, "seed": 3}
    assert result["num_pool"] == len(subpool(pool, 0.5, 3)) < len(pool)
    assert {row["sample_id"] for row in read_rows(path.parent / "subset.csv")} <= drawn(pool, 0.5, 3)
    assert result["test_fingerprint"] == whole.pool("test").fingerprint


def test_a_cell_of_a_grid_on_a_sub_pool_equals_the_run_alone(finished, tmp_path):
    alone = run_here(tmp_path, *SMALL, *SEARCH, PART, "method=dlc", "ratio=0.3", "seed=1")
    cell = finished / alone.relative_to(tmp_path)
    assert (cell / "subset.csv").read_bytes() == (alone / "subset.csv").read_bytes()
    assert lasting(read_result(cell)) == lasting(read_result(alone))
    assert read_result(alone)["selection_rule"] == "validation"


def test_tables_name_the_sub_pool_in_a_column(finished):
    results, skipped = collect.collect(finished)
    assert not skipped
    assert set(results["subpool"]) == {"0.5,3"}
    path = next(finished.rglob("result.json"))
    older = {key: value for key, value in json.loads(path.read_text()).items() if key != "subpool"}
    assert collect._row(older, path.parent)["subpool"] is None
