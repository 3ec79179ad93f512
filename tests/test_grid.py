"""A grid: every cell is what the same run alone would be; finished cells stay; what cannot be one grid is refused."""

import pytest
from hydra import initialize_config_dir

from prunetune import grid, pipeline
from prunetune.errors import InputError
from runs import ROOT, SMALL, compose_here, grid_here, lasting, read_result, read_rows, run_here

SEARCH = ["gamma_search.grid=[0.25,0.5]", "gamma_search.repeats=1"]
GRID = [*SMALL, *SEARCH, "methods=[dlc,random]", "ratios=[0.2,0.3]", "seeds=[0,1]"]


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """Return the results folder of a finished grid of eight cells."""
    results = tmp_path_factory.mktemp("grid")
    grid_here(results, *GRID)
    return results


def results_of(folder):
    return {str(path.parent.relative_to(folder)): read_result(path.parent) for path in folder.rglob("result.json")}


def test_a_grid_leaves_one_finished_run_per_cell(finished):
    results = results_of(finished / "runs")
    assert len(results) == 8
    assert {(result["scorer"], result["ratio"], result["seed"]) for result in results.values()} == {
        (scorer, ratio, seed) for scorer in ("dlc", "random") for ratio in (0.2, 0.3) for seed in (0, 1)
    }
    assert {result["probes_together"] for result in results.values()} == {8}


@pytest.mark.parametrize("method", ["dlc", "random"])
def test_a_cell_is_what_the_same_run_alone_would_be(finished, tmp_path, method):
    alone = run_here(tmp_path, *SMALL, *SEARCH, f"method={method}", "ratio=0.3", "seed=1")
    cell = finished / alone.relative_to(tmp_path)
    assert (cell / "subset.csv").read_bytes() == (alone / "subset.csv").read_bytes()
    assert (read_result(alone)["probes_together"], read_result(cell)["probes_together"]) == (1, 8)
    assert lasting(read_result(alone)) == lasting(
        read_result(cell)
    )  # names, numbers, accuracy, gamma, search and the whole configuration
    for single, packed in zip(read_rows(alone / "history.csv"), read_rows(cell / "history.csv"), strict=True):
        assert single["test_accuracy"] == packed["test_accuracy"]
        assert float(single["train_loss"]) == pytest.approx(float(packed["train_loss"]), abs=1e-4)
    run_here(finished, *SMALL, *SEARCH, f"method={method}", "ratio=0.3", "seed=1")  # the cell counts as that run


def test_gamma_is_chosen_for_every_cell(finished):
    chosen = [result for result in results_of(finished / "runs").values() if result["scorer"] == "dlc"]
    assert {result["selection_rule"] for result in chosen} == {"validation"}
    assert {result["gamma"] for result in chosen} <= {0.25, 0.5}
    assert all(result["search_seconds"] > 0 for result in chosen)


def test_finished_cells_keep_their_timestamps_and_the_missing_ones_appear(finished, tmp_path):
    first = [*SMALL, "methods=[random]", "ratios=[0.2]"]
    grid_here(tmp_path, *first, "seeds=[0,1]")
    stamps = {path: path.stat().st_mtime_ns for path in (tmp_path / "runs").rglob("*") if path.is_file()}
    grid_here(tmp_path, *first, "seeds=[0,1,2]")
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert len(list((tmp_path / "runs").rglob("result.json"))) == 3


def test_a_finished_grid_computes_nothing(finished, monkeypatch):
    stamps = {path: path.stat().st_mtime_ns for path in (finished / "runs").rglob("*") if path.is_file()}
    monkeypatch.setattr(pipeline, "open_task", None)
    grid_here(finished, *GRID)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps


def test_another_configuration_in_a_cells_folder_is_refused(finished):
    with pytest.raises(InputError, match=r"finetune\.epochs: 3 there, 5 now.*tag=<name>"):
        grid_here(finished, *GRID, "finetune.epochs=5")


def test_a_grid_can_stop_after_pruning(tmp_path, finished):
    grid_here(tmp_path, *SMALL, "methods=[random]", "ratios=[0.2]", "seeds=[0,1]", "until=prune")
    files = sorted(path.relative_to(tmp_path) for path in (tmp_path / "runs").rglob("*") if path.is_file())
    assert len(files) == 2
    for path in files:
        assert path.name == "subset.csv"
        assert (tmp_path / path).read_bytes() == (finished / path).read_bytes()


def test_a_grid_can_stop_after_scoring(tmp_path):
    grid_here(tmp_path, *SMALL, "methods=[random]", "ratios=[0.2]", "seeds=[0,1]", "until=score")
    assert len(list((tmp_path / "store" / "scores").rglob("scores.csv"))) == 1
    assert not (tmp_path / "runs").exists()


def test_whole_networks_are_trained_one_after_another_with_a_fresh_copy_each(tmp_path):
    full = [*SMALL, "finetune=full", "finetune.epochs=1", "finetune.views=0"]
    grid_here(tmp_path / "grid", *full, "methods=[random]", "ratios=[0.3]", "seeds=[0,1]")
    alone = run_here(tmp_path / "alone", *full, "method=random", "ratio=0.3", "seed=1")
    cell = tmp_path / "grid" / alone.relative_to(tmp_path / "alone")
    assert lasting(read_result(cell)) == lasting(read_result(alone))
    assert (cell / "history.csv").read_bytes() == (alone / "history.csv").read_bytes()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("methods=[dlcc]", r"method dlcc cannot be composed"),
        ("ratios=[0.2,0.20]", "two cells of the grid would share a folder"),
        ("seeds=[0,0]", "two cells of the grid would share a folder"),
        ("ratios=[0.2,2]", "ratio is the fraction kept"),
    ],
)
def test_a_grid_that_cannot_be_is_refused_in_one_line_before_anything_is_computed(
    tmp_path, monkeypatch, override, message
):
    monkeypatch.setattr(pipeline, "open_task", None)
    with pytest.raises(InputError, match=message) as caught:
        grid_here(tmp_path, *GRID, override)
    assert "\n" not in str(caught.value)


def test_methods_that_differ_in_more_than_scorer_and_sampler_are_refused(tmp_path, monkeypatch):
    compose = grid.compose

    def meddling(name, overrides):
        more = ["finetune.epochs=9"] if "method=random" in overrides else []
        return compose(name, overrides=[*overrides, *more])

    monkeypatch.setattr(grid, "compose", meddling)
    with pytest.raises(InputError, match="may differ in scorer and sampler, but not in finetune"):
        grid_here(tmp_path, *GRID)


def test_a_cell_is_composed_with_the_jobs_other_overrides(tmp_path):
    overrides = [*SMALL, "methods=[dlc_topk]", "ratios=[0.2]", "seeds=[3]", "tag=mine", "experiment=demo"]
    cfg = compose_here(tmp_path, *overrides, config="grid")
    with initialize_config_dir(config_dir=str(ROOT / "configs"), version_base="1.3"):
        [cell] = grid.expand(cfg, [*overrides, f"results_dir={tmp_path}"])
    assert (cell.cfg.ratio, cell.cfg.seed, cell.cfg.tag, cell.cfg.finetune.epochs) == (0.2, 3, "mine", 3)
    assert "methods" not in cell.cfg
    place = "textures/micro/linear_probe/dlc-topk/ratio_0.2/seed_3/mine"
    assert cell.out_dir == tmp_path / "runs" / place


@pytest.mark.parametrize("word", ["ratio=0.5", "seed=7", "method=dlc"])
def test_a_grid_refuses_the_singular_keys_that_it_would_not_read(tmp_path, word):
    with pytest.raises(InputError, match=f"a grid takes {word.split('=')[0]}s="):
        grid_here(tmp_path, *SMALL, "methods=[random]", "ratios=[0.2]", "seeds=[0]", word)


def test_an_empty_grid_is_refused(tmp_path):
    with pytest.raises(InputError, match="a grid needs at least one of each"):
        grid_here(tmp_path, *SMALL, "methods=[random]", "ratios=[]", "seeds=[0]")
