"""A grid: a cell equals the same single run, finished cells are kept, and cells that do not fit are refused."""

import socket
from types import SimpleNamespace

import pytest
from hydra import initialize_config_dir
from submitit.core.utils import UncompletedJobError

from prunetune.base import leftovers
from prunetune.base.errors import InputError
from prunetune.config import cells
from prunetune.runs import failures, grid, image_run
from runs import ROOT, SMALL, compose_here, grid_here, lasting, parsed_here, read_result, read_rows, run_here

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
def test_a_cell_equals_the_same_run_alone(finished, tmp_path, method):
    alone = run_here(tmp_path, *SMALL, *SEARCH, f"method={method}", "ratio=0.3", "seed=1")
    cell = finished / alone.relative_to(tmp_path)
    assert (cell / "subset.csv").read_bytes() == (alone / "subset.csv").read_bytes()
    assert (read_result(alone)["probes_together"], read_result(cell)["probes_together"]) == (1, 8)
    assert lasting(read_result(alone)) == lasting(
        read_result(cell)
    )  # The rest includes names, numbers, accuracy, gamma, search and the whole configuration.
    for single, packed in zip(read_rows(alone / "history.csv"), read_rows(cell / "history.csv"), strict=True):
        assert single["test_accuracy"] == packed["test_accuracy"]
        assert float(single["train_loss"]) == pytest.approx(float(packed["train_loss"]), abs=1e-4)
    # The cell counts as this run, so nothing is computed.
    run_here(finished, *SMALL, *SEARCH, f"method={method}", "ratio=0.3", "seed=1")


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
    monkeypatch.setattr(image_run, "open_task", None)
    monkeypatch.setattr(leftovers, "is_alive", lambda pid: False)
    left = next(iter(stamps)).parent / f".partial-{socket.gethostname()}-1-aaaaaaaa"  # A killed process left this.
    left.touch()
    grid_here(finished, *GRID)
    assert {path: path.stat().st_mtime_ns for path in stamps} == stamps
    assert not left.exists()


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


def test_networks_that_share_a_gpu_equal_those_trained_one_after_another(tmp_path, monkeypatch):
    full = [*SMALL, "finetune=full", "finetune.epochs=1", "methods=[random,rs2]", "ratios=[0.3]", "seeds=[0,1]"]
    grid_here(tmp_path / "alone", *full)
    with monkeypatch.context() as patch:
        patch.setattr(grid, "trainings_at_once", lambda *_: 2)
        patch.setattr(image_run, "finetune", None)  # No network is trained in this process.
        grid_here(tmp_path / "together", *full)
    alone, together = results_of(tmp_path / "alone"), results_of(tmp_path / "together")
    assert len(alone) == 4
    for folder, result in alone.items():
        assert lasting(together[folder]) == lasting(result)
        histories = [tmp_path / name / folder / "history.csv" for name in ("alone", "together")]
        assert histories[0].read_bytes() == histories[1].read_bytes()


def broken_training(*_):
    """A training that fails in its process; at the top level, so that it can be sent there."""
    raise RuntimeError("out of memory")


def test_a_training_that_fails_beside_others_is_repeated_alone(tmp_path, monkeypatch):
    monkeypatch.setattr(grid, "trainings_at_once", lambda *_: 2)
    monkeypatch.setattr(grid, "_finetune_apart", broken_training)
    full = [*SMALL, "finetune=full", "finetune.epochs=1", "methods=[random]", "ratios=[0.2]", "seeds=[0,1]"]
    grid_here(tmp_path, *full)
    assert len(results_of(tmp_path / "runs")) == 2


@pytest.mark.parametrize(("device", "size", "expected"), [("cpu", 32, 1), ("cuda", 32, 4), ("cuda", 224, 1)])
def test_several_networks_share_a_gpu_only_where_their_batches_are_small(tmp_path, monkeypatch, device, size, expected):
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    run = parsed_here(tmp_path, *SMALL, "finetune=full")
    network = SimpleNamespace(input_size=size)
    task = SimpleNamespace(device=device, tuned=SimpleNamespace(embedding=SimpleNamespace(network=network)))
    assert grid.trainings_at_once(run, task) == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("methods=[dlcc]", r"method dlcc cannot be composed"),
        ("ratios=[0.2,0.20]", "two cells of the grid would share a folder"),
        ("seeds=[0,0]", "two cells of the grid would share a folder"),
        ("ratios=[0.2,2]", "ratio is the fraction kept"),
        ("methods=['']", r"an entry of methods is a method and perhaps overrides.* got ''"),
        ("methods=['tag=a dlc']", "an entry of methods begins with the name of a method"),
        ("methods=['dlc tag']", r"an override of a method is <key>=<value>, .* got 'tag' in 'dlc tag'"),
        ("methods=['dlc ratio=0.5']", "a method of a grid cannot set ratio, got 'dlc ratio=0.5'"),
        ("methods=['dlc seeds=[1]']", "a method of a grid cannot set seeds"),
        ('methods=["dlc tag=\'a"]', "an entry of methods is a method and perhaps overrides.*No closing quotation"),
        ("methods=['dlc scorer.levls=3']", r"method dlc scorer.levls=3 cannot be composed: .*levls"),
        ("methods=['dlc ratio']", "an override of a method is <key>=<value>"),
        ("methods=[dlc,'dlc sampler.gamma=0.5']", r"share a folder, .*/dlc-flexrand/.*give a method .* a tag=<name>"),
        ("methods=[dlc,'dlc finetune.epochs=9 tag=long']", "may differ in scorer and sampler, but not in finetune"),
        ("methods=[dlc,'dlc results_dir=elsewhere']", "may differ in scorer and sampler, but not in results_dir"),
        ("methods=['dlc sampler.gamma=2 tag=a']", "sampler.gamma is the easy fraction"),
    ],
)
def test_an_impossible_grid_is_refused_in_one_line_before_anything_is_computed(
    tmp_path, monkeypatch, override, message
):
    monkeypatch.setattr(image_run, "open_task", None)
    with pytest.raises(InputError, match=message) as caught:
        grid_here(tmp_path, *GRID, override)
    assert "\n" not in str(caught.value)


def test_methods_that_differ_in_more_than_scorer_and_sampler_are_refused(tmp_path, monkeypatch):
    compose = cells.compose

    def meddling(name, overrides):
        more = ["finetune.epochs=9"] if "method=random" in overrides else []
        return compose(name, overrides=[*overrides, *more])

    monkeypatch.setattr(cells, "compose", meddling)
    with pytest.raises(InputError, match="may differ in scorer and sampler, but not in finetune"):
        grid_here(tmp_path, *GRID)


def test_a_cell_is_composed_with_the_jobs_other_overrides(tmp_path):
    overrides = [*SMALL, "methods=[dlc_topk]", "ratios=[0.2]", "seeds=[3]", "tag=mine", "experiment=demo"]
    cfg = compose_here(tmp_path, *overrides, config="grid")
    with initialize_config_dir(config_dir=str(ROOT / "configs"), version_base="1.3"):
        [cell] = cells.parse_grid(cfg, [*overrides, f"results_dir={tmp_path}"]).cells
    assert (cell.run.amount.fraction, cell.run.seed, cell.run.tag, cell.run.recipe.epochs) == (0.2, 3, "mine", 3)
    assert "methods" not in cell.run.record
    place = "textures/micro/linear_probe/dlc-topk/ratio_0.2/seed_3/mine"
    assert cell.out_dir == tmp_path / "runs" / place


@pytest.mark.parametrize("word", ["ratio=0.5", "seed=7", "method=dlc"])
def test_a_grid_refuses_the_singular_keys_that_it_would_not_read(tmp_path, word):
    with pytest.raises(InputError, match=f"a grid takes {word.split('=')[0]}s="):
        grid_here(tmp_path, *SMALL, "methods=[random]", "ratios=[0.2]", "seeds=[0]", word)


def test_an_empty_grid_is_refused(tmp_path):
    with pytest.raises(InputError, match="a grid needs at least one of each"):
        grid_here(tmp_path, *SMALL, "methods=[random]", "ratios=[]", "seeds=[0]")


def test_an_entry_with_overrides_is_the_single_run_with_them(tmp_path):
    words = ["sampler.gamma=0.25", "tag=g0.25"]
    few = ["ratios=[0.2]", "seeds=[0]"]
    grid_here(tmp_path / "grid", *SMALL, f"methods=[random,'dlc {' '.join(words)}']", *few)
    alone = run_here(tmp_path / "alone", *SMALL, "method=dlc", *words, "ratio=0.2", "seed=0")
    assert alone.relative_to(tmp_path / "alone").as_posix().endswith("dlc-flexrand/ratio_0.2/seed_0/g0.25")
    cell = tmp_path / "grid" / alone.relative_to(tmp_path / "alone")
    assert lasting(read_result(cell)) == lasting(read_result(alone))
    assert (read_result(cell)["gamma"], read_result(cell)["tag"]) == (0.25, "g0.25")


def test_an_entrys_list_and_blanks_may_be_quoted():
    entry = "dlc 'gamma_search.grid=[0.25, 0.5]'  tag=a"
    assert cells.read_entry(entry) == ("dlc", ["gamma_search.grid=[0.25, 0.5]", "tag=a"])
    assert cells.read_entry("random") == ("random", [])


def test_entries_of_one_grid_may_be_scored_by_different_networks(tmp_path):
    scoring = ["backbone@scoring_backbone=timm", "scoring_backbone.model=test_vit.r160_in1k"]
    scoring += ["scoring_backbone.pretrained=false", "scoring_backbone.input_size=32"]
    scoring += ["scoring_backbone.model_args={img_size:32}", "scoring_backbone.mask_modules=linear"]
    entry = f"dlc_topk {' '.join(scoring)}"
    grid_here(tmp_path / "grid", *SMALL, f"methods=[dlc_topk,'{entry}']", "ratios=[0.2]", "seeds=[0]")
    found = {result["scoring_backbone"]: result for result in results_of(tmp_path / "grid" / "runs").values()}
    assert {result["backbone"] for result in found.values()} == {"micro"}
    assert set(found) == {"micro", "test_vit.r160_in1k"}
    assert found["micro"]["scores_path"] != found["test_vit.r160_in1k"]["scores_path"]
    assert {result["probes_together"] for result in found.values()} == {2}
    alone = run_here(tmp_path / "alone", *SMALL, "method=dlc_topk", *scoring, "ratio=0.2", "seed=0")
    assert lasting(read_result(alone)) == lasting(found["test_vit.r160_in1k"])


def test_a_cell_that_fails_is_noted_in_its_folder_and_stops_none_of_the_others(tmp_path, monkeypatch):
    score, words = image_run.score, [*SMALL, "methods=[dlc_topk,random]", "ratios=[0.2]", "seeds=[0,1]"]

    def failing(run, task):
        if run.scorer.name == "dlc":
            raise InputError("3 scores are\nnot finite")
        return score(run, task)

    with monkeypatch.context() as patch:
        patch.setattr(image_run, "score", failing)
        with pytest.raises(InputError, match=r"2 runs of the grid failed, first .*dlc-topk.*: 3 scores are not finite"):
            grid_here(tmp_path, *words)
    assert {result["scorer"] for result in results_of(tmp_path / "runs").values()} == {"random"}
    notes = sorted((tmp_path / "runs").rglob("failed.json"))
    assert [note.parent.parent.name for note in notes] == ["seed_0", "seed_1"]
    assert failures.read(notes[0].parent).error == "InputError: 3 scores are not finite"
    grid_here(tmp_path, *words)
    assert len(results_of(tmp_path / "runs")) == 4
    assert list((tmp_path / "runs").rglob("failed.json")) == []


def test_a_grid_of_one_cell_fails_with_that_cells_own_error(tmp_path, monkeypatch):
    def broken(run, task):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr(image_run, "score", broken)
    with pytest.raises(ZeroDivisionError, match="a bug"):
        grid_here(tmp_path, *SMALL, "methods=[random]", "ratios=[0.2]", "seeds=[0]")
    [note] = (tmp_path / "runs").rglob("failed.json")
    assert failures.read(note.parent).error == "ZeroDivisionError: a bug"


def test_a_whole_network_that_cannot_be_trained_does_not_stop_the_next(tmp_path, monkeypatch):
    finetune = image_run.finetune

    def failing(run, task, trainings):
        if trainings[0].seed == 0:
            raise InputError("the training loss is nan in epoch 1")
        return finetune(run, task, trainings)

    monkeypatch.setattr(image_run, "finetune", failing)
    full = [*SMALL, "finetune=full", "finetune.epochs=1", "methods=[random]", "ratios=[0.2]", "seeds=[0,1]"]
    with pytest.raises(InputError, match="the training loss is nan"):
        grid_here(tmp_path, *full)
    assert [result["seed"] for result in results_of(tmp_path / "runs").values()] == [1]


def test_a_job_that_the_cluster_ends_is_no_failure_of_its_cells(tmp_path):
    attempts = grid.Attempts()
    cell = cells.Cell(None, tmp_path)
    with pytest.raises(UncompletedJobError, match="too many times"), attempts.of([cell]):
        raise UncompletedJobError("Job not requeued because: timed-out too many times.")
    assert not attempts.failed
    assert not list(tmp_path.iterdir())
    with attempts.of([cell]):
        raise ValueError("of the cell")
    assert [failed for failed, _ in attempts.failed] == [cell]
    assert (tmp_path / "failed.json").is_file()
